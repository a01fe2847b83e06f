"""P1 figure 2: gradient descent on a Q-learning loss against Brownian motion of the same step size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pliant.claims import Claim, Effect, NoEffect
from pliant.diagnostics import GradientCovariance, Observation, gradient_cosines
from pliant.diagnostics._shared import given
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.functional.curvature import perturbation_hessian
from pliant.functional.draws import draw
from pliant.functional.spectra import quadrature
from pliant.nets import MLP
from pliant.network import Params
from pliant.optim import SGD
from pliant.plots import Lines, Matrix, Profile
from pliant.results import Results
from pliant.rl import TrueLabel
from pliant.trials import Arrays, Measure, Numbers, Row, Run, ValueLearning, When
from pliant.trials.measures import Moment, brief
from pliant.trials.value import ValueState

GRID = torch.linspace(-2.0, 50.0, 261)  # the eigenvalues of P1's figure go to 50
WIDTH = 0.25  # of the Gaussians on it
FLOOR = 1e-7  # of the density
TOP = 20  # largest Ritz values that are kept
STARTS = 3
ITERATIONS = (1, 5, 20)  # target updates after which everything is measured


@dataclass
class WalkState:
    """The agent that learns, the walk beside it, and the step at which it was last looked at."""

    agent: ValueState
    walk: Params
    looked_at: int = -1

    @property
    def step(self) -> int:
        """Optimizer steps."""
        return self.agent.step

    @property
    def diverged_at(self) -> list[int]:
        """Those of the agent."""
        return self.agent.diverged_at


@dataclass(frozen=True)
class Walks:
    """An agent that learns and, from the same parameters, a walk of random steps that are as long as the agent's.

    At each step theta <- theta + |d| z / |z|, d the agent's update and z ~ N(0, 1), with one norm over all parameters.
    The walk never sees the loss. What is measured is the walk, or with `walks=False` the agent.

    Args:
        agent: what learns; without measures of its own.
        walks: whether the walk is measured, or the agent.
        measures: what is looked at, and when; of the agent's replay, with the agent's targets.

    Source: P1 section 4.2 and appendix A.1.
    """

    agent: ValueLearning
    walks: bool
    measures: tuple[Measure, ...] = ()

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return self.agent.num_steps

    @property
    def together(self) -> int:
        """Seeds a pack."""
        return self.agent.together

    @property
    def refits(self) -> int:
        """None: nothing is refitted."""
        return 0

    @property
    def data(self) -> str:
        """The data set's name."""
        return self.agent.data

    def brief(self) -> Walks:
        """Two steps, all measures at work."""
        return replace(self, agent=self.agent.brief(), measures=tuple(map(brief, self.measures)))

    def start(self, seeds: Sequence[int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
        """Agent and walk at their beginning."""
        run = self.agent.start(seeds, device, dtype)
        agent: ValueState = run.state
        state = WalkState(agent, {name: p.clone() for name, p in agent.learner.params.items()})
        return Run(state, self._rows(run, state), run.populations)

    def _rows(self, run: Run, state: WalkState) -> Iterator[Row]:
        (population,) = run.populations
        learner = state.agent.learner
        if state.looked_at < 0:
            state.looked_at = 0
            if row := self._look(run, state):
                yield row
        while state.step < self.num_steps:
            before = {name: p.clone() for name, p in learner.params.items()}
            if next(run.rows, None) is None:
                return
            update = {name: p - before[name] for name, p in learner.params.items()}
            length = torch.stack([u.flatten(1).square().sum(1) for u in update.values()]).sum(0).sqrt()
            for m, member in enumerate(population.members):
                generator = torch.Generator().manual_seed(int(draw(member.seed, "walk", state.step).integers(2**62)))
                z = {name: torch.randn(p[m].shape, generator=generator).to(p) for name, p in state.walk.items()}
                scale = length[m] / torch.stack([part.square().sum() for part in z.values()]).sum().sqrt()
                for name, p in state.walk.items():
                    p[m] += scale * z[name]
            yield self._look(run, state)

    def _look(self, run: Run, state: WalkState) -> Row:
        """What the measures say, where any is due."""
        period, into = divmod(max(0, state.step - 1), self.agent.target_period)
        moment = Moment(state.step, period, into + 1 if state.step else 0, state.step % self.agent.target_period == 0)
        due = [measure for measure in self.measures if measure.when(moment)]
        if not due:
            return {}
        state.looked_at = state.step
        (population,) = run.populations
        shown = replace(state.agent.learner, params=state.walk) if self.walks else state.agent.learner
        world = self.agent.mdp.bind(self.agent.inputs(), [m.seed for m in population.members], str(population.device))
        row: Row = {"target_updates": torch.full((len(population),), period)}
        for measure in due:
            x, y = self.agent.sampled(world, population, state.agent, measure.examples)
            row |= measure(population, shown, x, y, {})
        return row


def spectrum(steps: int, seen: Observation) -> tuple[Tensor, Tensor]:
    """The density of the perturbation loss's Hessian on `GRID`, as a base-10 logarithm, and its largest Ritz values."""
    network, x = given(seen.network, "network"), given(seen.x, "x")
    operator = perturbation_hessian(lambda p: network(p, x), seen.params)
    ritz = quadrature(operator, steps, STARTS)
    z = (GRID.to(ritz.values) - ritz.values[..., None]) / WIDTH
    bumps = (-z.square() / 2).exp() / (WIDTH * (2 * torch.pi) ** 0.5)
    density = (ritz.weights[..., None] * bumps).sum((0, 1)) / STARTS
    return density.clamp(min=FLOOR).log10(), ritz.values[0].flip(-1)[:TOP]


def density(seen: Observation, steps: int) -> Tensor:
    """The density of eigenvalues on `GRID`."""
    return spectrum(steps, seen)[0]


def largest(seen: Observation, steps: int) -> Tensor:
    """The largest Ritz values, from the largest down."""
    return spectrum(steps, seen)[1]


@dataclass(frozen=True)
class Settings:
    """Settings of figure 2.

    Args:
        data: of the true-label MDP.
        num_images: a seed keeps.
        hidden: widths of the MLP's hidden layers.
        batch_size: transitions a step.
        lr: learning rate of gradient descent.
        gamma: the discount.
        target_period: steps between updates of the target network; one iteration.
        iterations: how many.
        examples: of the gradients' cosines.
        batch: examples the Hessian is taken of.
        products: of the Hessian with a vector.
        together: seeds a pack.
    """

    data: str = "mnist"
    num_images: int = 1000
    hidden: tuple[int, ...] = (128, 128)
    batch_size: int = 64
    lr: float = 1e-2
    gamma: float = 0.99
    target_period: int = 250
    iterations: int = 20
    examples: int = 128
    batch: int = 256
    products: int = 40
    together: int = 5


def setup(settings: Settings) -> Setup:
    """Gradient descent and Brownian motion from the same parameters."""
    at = tuple(n * settings.target_period for n in ITERATIONS if n <= settings.iterations)
    when, products = When(ends=False, at=at), settings.products
    measures = (
        Numbers((GradientCovariance(),), when, settings.examples),
        Arrays({"cosines": gradient_cosines}, frozenset({"x", "y"}), when, settings.examples),
        Arrays(
            {"density": partial(density, steps=products), "largest": partial(largest, steps=products)},
            frozenset({"x"}), when, settings.batch,
        ),
    )  # fmt: skip
    fill = max(settings.num_images, settings.batch, settings.examples)
    agent = ValueLearning(
        TrueLabel(settings.num_images), settings.data, partial(MLP, hidden=settings.hidden), SGD(settings.lr),
        settings.target_period * settings.iterations, gamma=settings.gamma, batch_size=settings.batch_size,
        target_period=settings.target_period, fill=fill, envs=10, act_every=10, together=settings.together,
    )  # fmt: skip
    shown = {said: key for key, said in SAID.items()}
    return Setup(
        arms={key: Arm(said, Walks(agent, key == "walk", measures)) for key, said in SAID.items()},
        plots=(
            Profile(
                "density", "density of Hessian eigenvalues (base-10 logarithm)", "eigenvalue", shown,
                tuple(GRID.tolist()), moments=(0, 2),
            ),
            Matrix("cosines", "cosines between the gradients of examples", shown, (0, 1, -1), clustered=True),
            Lines("gradient_interference", "share of negative cosines", over="step"),
        ),
        table=(
            Column("negative\ncosines,\nfirst", "gradient_interference", "first"),
            Column("negative\ncosines,\nlast", "gradient_interference"),
            Column("mean size", "gradient_degeneracy"),
        ),
        claims=CLAIMS,
        deviations=(
            f"SGD with learning rate {settings.lr:g} (P1: 1e-3) and batches of {settings.batch_size} (P1: 512); a "
            "target "
            f"update every {settings.target_period} steps (P1: 5,000), and {settings.iterations} of them.",
            f"MLP {settings.hidden} (P1 does not say which) on {settings.num_images:,} images of {settings.data}; "
            "discount "
            f"{settings.gamma:g}, epsilon 0.1, which P1 does not give.",
            f"Gradients of {settings.examples} examples (P1: 512); the Hessian of {settings.batch}, by "
            f"{settings.products} products of Lanczos from {STARTS} starts, Gaussians of width {WIDTH:g}: P1 gives "
            "none.",
            "P1 compares after 5 target updates (spectra) and after 1 and 20 iterations (cosines); an iteration is a "
            "target "
            "update here. The last measurement is shown; claims read the stated ones.",
        ),
    )  # fmt: skip


SAID = {"gradient": "gradient descent", "walk": "Brownian motion"}


def tops(results: Results, arm: str, moment: int) -> np.ndarray:
    """The largest Ritz values, `(seeds, TOP)`, at a moment."""
    return np.stack([results.array(arm, "largest", seed)[1][moment] for seed in results.seeds_of(arm)])


def grown(arm: str) -> Effect:
    """How many times larger the largest eigenvalue is after 5 target updates, as a base-2 logarithm."""
    return lambda r: np.log2(tops(r, arm, 2)[:, 0] / tops(r, arm, 0)[:, 0])


def outliers(arm: str) -> Effect:
    """How many eigenvalues lie above the first largest one, after 5 target updates."""
    return lambda r: (tops(r, arm, 2) > tops(r, arm, 0)[:, :1]).sum(1).astype(float)


def negative(arm: str) -> Effect:
    """How much the share of negative cosines rose to the last iteration."""
    return lambda r: r.last(arm, "gradient_interference") - r.first(arm, "gradient_interference")


CLAIMS = (
    Claim(
        "Under gradient descent the largest Hessian eigenvalue at least doubles in 5 target updates (base-2 "
        "logarithm).",
        grown("gradient"),
        threshold=1.0,
        paper="grows",
        ours=True,
        checklist=(4,),
    ),
    Claim(
        "It grows under Brownian motion of the same step size, too.",
        grown("walk"),
        checklist=(4,),
    ),
    Claim(
        "It grows faster under gradient descent.",
        lambda r: grown("gradient")(r) - grown("walk")(r),
        checklist=(4,),
    ),
    Claim(
        "More eigenvalues lie above the initial largest one after gradient descent than after Brownian motion.",
        lambda r: outliers("gradient")(r) - outliers("walk")(r),
        checklist=(5,),
    ),
    Claim(
        "The share of negative cosines between gradients rises under gradient descent.",
        negative("gradient"),
        checklist=(6,),
    ),
    NoEffect(
        "It stays where it is under Brownian motion.",
        negative("walk"),
        threshold=0.1,
        ours=True,
        checklist=(6,),
    ),
)

EXPERIMENT = Experiment(
    id="lyle2023/fig2",
    title="Gradient descent on a Q-learning loss against Brownian motion of the same step size",
    figure="P1 figure 2",
    references=("lyle2023", "ghorbani2019"),
    tiers={
        "smoke": Settings(
            data="digits", num_images=100, hidden=(8, 8), batch_size=16, target_period=2, iterations=20, examples=20,
            batch=20, products=22,
        ),
        "laptop": Settings(),
        "paper": Settings(
            num_images=50_000, hidden=(512, 512), batch_size=512, lr=1e-3, target_period=5000, examples=512, batch=2048,
            products=100,
        ),
    },
    setup=setup,
)  # fmt: skip
