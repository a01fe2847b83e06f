"""Do P2's mechanisms add up or overlap? Every combination of four treatments, on four tasks that differ in one thing.

Fixed before any run, but for the length of the probe: an outcome is the loss of plasticity on the probe, against fresh
networks of the same kind, as a share of the constant predictor's loss (a network that diverged lost all of it). What a
treatment *saves* is the mean outcome of the eight combinations without it less that of the eight with it. The
*interaction* of two is what one saves beside the other less what it saves without: below 0 they overlap, at 0 they add,
above 0 they need each other.

A first run took 200 steps a refit, in which fresh networks with the tuned optimizer had not learned the probe (0.79 and
0.93 of the constant predictor's loss), so that it could only seem to save; its claims asked that of untreated networks
alone. On seed 100 fresh networks of the slowest arm come to 0.95, 0.52 and 0.02 after 200, 600 and 1500 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product

import numpy as np

from pliant.causes import REPAIRS, Norm, OptimizerState, OutputLayer, TargetScale, Units
from pliant.claims import Claim, Exists, NoEffect
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.heads import HLGauss, Scalar
from pliant.interventions import Chain, Intervention, LayerNorm, Reset
from pliant.nets import MLP
from pliant.optim import Adam
from pliant.papers.lyle2024.swiss_cheese import MECHANISMS, lost_share
from pliant.papers.memorisation import whole
from pliant.plots import Cells
from pliant.plots.scatter import rank_correlation
from pliant.probe import FreshLabels, Sines
from pliant.results import Results
from pliant.tasks import OffsetNoise, PermutedPixels, RandomLabels, Task
from pliant.trials import Fit, Mechanisms, Supervised, When
from pliant.words import unknown

FACTORS = {"n": "layer norm", "l": "L2", "h": "head", "o": "optimizer"}
TREATS = {"n": (Units.name,), "l": (Norm.name,), "h": (OutputLayer.name, TargetScale.name), "o": (OptimizerState.name,)}
TASKS = {"labels": "labels redrawn", "pixels": "pixels permuted", "noise": "noise redrawn", "offset": "growing mean"}
VALUES = ("noise", "offset")
COMBINATIONS = tuple("".join(some) for some in product(*(("", letter) for letter in FACTORS)))
PAIRS = tuple(combinations(FACTORS, 2))
MARGIN = 0.1


@dataclass(frozen=True)
class Settings:
    """Settings of independence.

    Args:
        data: a data set's name.
        hidden: widths of the hidden layers.
        num_examples: images a seed keeps.
        batch_size: examples a step.
        every: steps a task.
        num_tasks: tasks.
        lr: learning rate of Adam.
        l2: strength of L2.
        offset: of the targets' mean in the last task of the stream whose mean grows.
        targets: fresh targets of the probe.
        steps: of each refit.
        only: names of the tasks; empty is all of them.
    """

    data: str = "digits"
    hidden: tuple[int, ...] = (64, 64)
    num_examples: int = 500
    batch_size: int = 64
    every: int = 200
    num_tasks: int = 15
    lr: float = 1e-2
    l2: float = 1e-3
    offset: float = 30.0
    targets: int = 3
    steps: int = 1000
    only: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks by name; `ValueError` for one that is not there."""
        for name in self.only:
            if name not in TASKS:
                raise ValueError(unknown("task", name, list(TASKS)))
        return self.only or tuple(TASKS)


def arm(task: str, on: str) -> str:
    """The arm of a task with some treatments, a letter each.

    >>> arm("labels", "nl"), arm("labels", "")
    ('labels-nl', 'labels-none')
    """
    return f"{task}-{on or 'none'}"


def setup(settings: Settings) -> Setup:
    """Sixteen combinations on each of four tasks."""
    arms, tasks = {}, settings.tasks
    for task, on in product(tasks, COMBINATIONS):
        label = " + ".join(FACTORS[letter] for letter in on) or "no treatment"
        arms[arm(task, on)] = Arm(f"{TASKS[task]}: {label}", _trial(settings, task, on))
    headings, unit = tuple(TASKS[task] for task in tasks), "[of the constant predictor's loss]"
    names = [repair.name for repair in REPAIRS]
    return Setup(
        arms=arms,
        plots=(
            Cells(
                "lost", f"what a treatment saves, and interactions of two {unit}", headings,
                {
                    " x ".join(FACTORS[f] for f in some): tuple(partial(effect, task=t, factors=some) for t in tasks)
                    for some in (*((f,) for f in FACTORS), *PAIRS)
                },
                (-0.5, 1.0), ordered=True,
            ),
            Cells(
                "lost", f"what took the plasticity of the untreated networks {unit}", headings,
                {
                    name: tuple(
                        partial(share, task=t, mechanism=name) if t in VALUES or name != TargetScale.name else None
                        for t in tasks
                    )
                    for name in names
                },
                (-0.5, 1.0), ordered=True,
            ),
        ),
        table=(Column("lost on\nthe probe", "lost"),),
        claims=claims(tasks),
        deviations=(
            "An experiment of ours: P2 combines two interventions at a time, and does not estimate interactions.",
            f"Treatments at one strength each: layer norm; L2 with {settings.l2:g}, normalisers included; the output "
            "layer reset at each switch (classes) or an HL-Gauss head (numbers); Adam as P1 tuned it.",
            f"Refits of {settings.steps} steps. A run with 200 on the same seeds came before this one: in it, fresh "
            "networks with the tuned optimizer had not learned the probe, which now is asked of every arm.",
            f"Tasks by construction, each of which changes one thing: labels, inputs, noise, and the mean of targets "
            f"(from 0 to {settings.offset:g}). Data: {settings.data}, {settings.num_examples} images a seed.",
        ),
    )  # fmt: skip


def _trial(settings: Settings, task: str, on: str) -> Supervised:
    values = task in VALUES
    reset = (Reset("last"),) if "h" in on and not values else ()
    margin = settings.offset / 3
    binned = HLGauss(-margin, settings.offset + margin, 101) if "h" in on else Scalar()
    head = binned if values else None
    chain: tuple[Intervention, ...] = (LayerNorm(),) if "n" in on else ()
    chain += (whole(settings.l2),) if "l" in on else ()
    tuned = Adam(settings.lr, betas=(0.9, 0.9), eps=1e-9, eps_root=1e-3)
    last = When(tasks=(settings.num_tasks - 1,))
    probe = Sines(head=binned if "h" in on else None) if values else FreshLabels(10)
    repairs = () if on else REPAIRS if values else MECHANISMS  # shares are read of untreated networks alone
    asked = Mechanisms(
        probe, repairs, last, settings.targets, settings.steps, settings.batch_size, settings.num_examples
    )
    return Supervised(
        _stream(settings, task), settings.data, partial(MLP, hidden=settings.hidden),
        tuned if "o" in on else Adam(settings.lr), Chain(*chain, *reset), head,
        measures=(Fit(examples=settings.num_examples, head=head), asked),
    )  # fmt: skip


def _stream(settings: Settings, task: str) -> Task:
    sizes = settings.num_examples, settings.batch_size, settings.every, settings.num_tasks
    if task == "offset":
        return OffsetNoise.growing(
            settings.offset, num_examples=sizes[0], batch_size=sizes[1], every=sizes[2], num_tasks=sizes[3]
        )
    return {"labels": RandomLabels, "pixels": PermutedPixels, "noise": OffsetNoise}[task](*sizes)


def outcome(results: Results, name: str) -> np.ndarray:
    """The loss of plasticity of an arm, one a seed."""
    return np.nan_to_num(lost_share(results, name), nan=1.0)


def effect(results: Results, task: str, factors: tuple[str, ...]) -> np.ndarray:
    """What one treatment saves, or the interaction of two, `(seeds,)`.

    Over the 16 combinations, the outcomes' contrast -sum of s y / 8 (or / 4), where s is 1 for a treatment that is
    there and -1 for one that is not, the product of both for two.
    """
    total = 0.0
    for on in COMBINATIONS:
        sign = np.prod([1 if factor in on else -1 for factor in factors])
        total = total - sign * outcome(results, arm(task, on))
    return np.asarray(total) / 2 ** (4 - len(factors))


def share(results: Results, task: str, mechanism: str) -> np.ndarray:
    """What a mechanism took of the plasticity of a task's untreated networks, `(seeds,)`."""
    return lost_share(results, arm(task, ""), f"lost/{mechanism}")


def averaged(tasks: Sequence[str], *factors: str) -> Callable[[Results], np.ndarray]:
    """An effect, the mean over tasks."""
    return lambda results: np.mean([effect(results, task, factors) for task in tasks], axis=0)


def overlaps(results: Results, tasks: Sequence[str]) -> np.ndarray:
    """How far two treatments overlap, the mean over tasks, `(seeds, pairs)`."""
    return np.stack([-averaged(tasks, *both)(results) for both in PAIRS], axis=1)


def agreement(results: Results, tasks: Sequence[str]) -> np.ndarray:
    """The rank correlation, over treatments and tasks, of what a treatment saves with what its mechanisms took."""
    saved, took = [], []
    for task, factor in product(tasks, FACTORS):
        saved.append(effect(results, task, (factor,)))
        there = [m for m in TREATS[factor] if task in VALUES or m != TargetScale.name]
        took.append(np.sum([share(results, task, m) for m in there], axis=0))
    return np.array([rank_correlation(a, b) for a, b in zip(np.array(saved).T, np.array(took).T, strict=True)])


def _untreated(results: Results, tasks: Sequence[str]) -> np.ndarray:
    return np.mean([outcome(results, arm(task, "")) for task in tasks], axis=0)


def _learned(results: Results, tasks: Sequence[str]) -> np.ndarray:
    """The smallest share of the constant predictor's loss that fresh networks lose, over all arms."""
    found = []
    for task, on in product(tasks, COMBINATIONS):
        baseline, fresh = (results.last(arm(task, on), column) for column in ("probe_baseline", "probe_fresh"))
        found.append((baseline - fresh) / baseline)
    return np.nanmin(found, axis=0)


def claims(tasks: Sequence[str]) -> tuple[Claim, ...]:
    """What is asked of these tasks."""
    learned, untreated = partial(_learned, tasks=tasks), partial(_untreated, tasks=tasks)
    given = (
        Claim(
            "Fresh networks learn every probe, however they are treated: they lose a fifth of its loss.",
            learned,
            threshold=0.2,
            ours=True,
        ),
        Claim("Untreated networks lost more than 0.1, over tasks.", untreated, threshold=MARGIN, ours=True),
    )
    said = {**FACTORS, "h": "treating the head", "o": "the tuned optimizer"}
    return (
        *(
            Claim(
                f"Over tasks and all combinations, {what} saves plasticity.",
                averaged(tasks, factor),
                ours=True,
                given=given,
            )
            for factor, what in said.items()
        ),
        Claim(
            "Treating the head saves more where the targets' mean grows than where it stays.",
            lambda r: effect(r, "offset", ("h",)) - effect(r, "noise", ("h",)),
            ours=True,
            given=given,
        ),
        NoEffect(
            "Layer norm and L2 add: their interaction, over tasks, lies within 0.1 of the constant predictor's loss.",
            averaged(tasks, "n", "l"),
            threshold=MARGIN,
            ours=True,
            given=given,
        ),
        Exists(
            "Some two treatments overlap by more than 0.1.",
            partial(overlaps, tasks=tasks),
            threshold=MARGIN,
            ours=True,
            given=given,
        ),
        Claim(
            "Shares agree with effects: what mechanisms took and what their treatments save rank alike.",
            partial(agreement, tasks=tasks),
            ours=True,
            given=given,
        ),
    )


EXPERIMENT = Experiment(
    id="lyle2024/independence",
    title="Do the mechanisms add up or overlap? Four treatments in every combination, on four tasks",
    figure="ours; the question of P2's section 4",
    references=("lyle2024", "lyle2023", "ba2016"),
    tiers={
        "smoke": Settings(
            hidden=(16, 16), num_examples=64, batch_size=32, every=5, num_tasks=2, targets=2, steps=2, only=("labels",)
        ),
        "laptop": Settings(),
        "paper": Settings(
            data="mnist", hidden=(512, 512), num_examples=10_000, batch_size=128, every=2000, num_tasks=30, lr=1e-3,
            targets=10, steps=2000,
        ),
    },
    setup=setup,
)  # fmt: skip
