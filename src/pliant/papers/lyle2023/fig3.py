"""P1 figure 3: no single statistic of a network explains its loss of plasticity; one agent a point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from pliant.claims import Claim, Effect, Exists, Resampled
from pliant.diagnostics import DeadUnits, FeatureRanks, ParameterNorm, WeightRanks
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.optim import Adam, Optimizer, RMSProp
from pliant.papers.agents import SAID, Agents
from pliant.plots import Scatter
from pliant.plots.scatter import rank_correlation
from pliant.results import Results
from pliant.trials import Numbers, When

COLUMNS = {
    "weight norm": "parameter_norm",
    "weight rank": "weight_srank",
    "dead units (share)": "dead",
    "feature rank": "feature_rank",
}
LOST = 0.05  # probe loss gained, of a constant predictor's 0.5
MORE_DEAD = 0.01  # share of units

Axes = tuple[str, str, str, str]


@dataclass(frozen=True)
class Settings(Agents):
    """Settings of figure 3: all combinations of these are arms; `rmsprop` is that optimizer's learning rate."""

    data: tuple[str, ...] = ("mnist", "cifar10")
    nets: tuple[str, ...] = ("mlp", "cnn")
    mdps: tuple[str, ...] = ("true", "random", "sparse")
    optimizers: tuple[str, ...] = ("adam", "rmsprop")
    rmsprop: float = 2.5e-4
    num_images: int = 500
    batch_size: int = 32
    target_period: int = 30
    hidden: tuple[int, ...] = (64, 64)
    together: int = 6


def name(data: str, net: str, mdp: str, optimizer: str) -> str:
    """The arm of a combination.

    >>> name("mnist", "mlp", "true", "adam")
    'mnist_mlp_true_adam'
    """
    return f"{data}_{net}_{mdp}_{optimizer}"


def setup(settings: Settings) -> Setup:
    """Agents over data sets, networks, rewards and optimizers."""
    optimizers: dict[str, Optimizer] = {"adam": Adam(settings.lr), "rmsprop": RMSProp(settings.rmsprop)}
    every = max(settings.hidden[-1], settings.cnn_hidden[-1])
    size = max(2 * every, settings.num_images)
    stats = Numbers(
        (ParameterNorm(), WeightRanks(), DeadUnits(), FeatureRanks()), When(ends=False, at=(settings.num_steps,)), size
    )
    arms = {}
    axes: list[Axes] = list(product(settings.data, settings.nets, settings.mdps, settings.optimizers))
    for data, net, mdp, optimizer in axes:
        trial = settings.trial(data, net, mdp=mdp, measures=(settings.probe("scalar"), stats))
        trial = replace(trial, optimizer=optimizers[optimizer], together=settings.together, fill=max(trial.fill, size))
        label = f"{SAID.get(data, data)}, {SAID[net]}, {SAID[mdp]}, {optimizer}"
        arms[name(data, net, mdp, optimizer)] = Arm(label, trial)

    def grouped(place: int) -> dict[str, tuple[str, ...]]:
        kinds = dict.fromkeys(one[place] for one in axes)
        return {SAID.get(kind, kind): tuple(name(*one) for one in axes if one[place] == kind) for kind in kinds}

    groups = {label: grouped(place) for label, place in zip(COLUMNS, (0, 0, 1, 2), strict=True)}
    return Setup(
        arms=arms,
        plots=(Scatter("probe_loss", "change of the probe loss", COLUMNS, groups),),
        table=(
            Column("initial\nloss", "probe_loss", "first"),
            Column("final\nloss", "probe_loss"),
            Column("accuracy", "accuracy"),
            Column("dead", "dead"),
            Column("norm", "parameter_norm", digits=1),
        ),
        claims=_claims(axes),
        deviations=(
            *settings.deviations(),
            f"{len(arms)} settings of {settings.together} seeds or more (P1: 128 agents over tasks, observations, "
            f"architectures, optimizers and seeds). RMSProp has learning rate {settings.rmsprop:g}; P1 names neither.",
            f"MLP {settings.hidden}; CNN with {settings.channels} channels and {settings.cnn_hidden} units.",
            "The weight rank is the mean of the matrices' srank (99 % of the sum of singular values), the feature "
            "rank that "
            "of Lyle et al. 2022; P1 defines neither. Dead units are a share (P1: a number).",
        ),
    )


def _read(axes: list[Axes]) -> Effect:
    """Statistics and loss of plasticity of every agent, `(settings, agents, 5)`."""

    def read(results: Results) -> np.ndarray:
        found = []
        for one in axes:
            arm = name(*one)
            lost = results.last(arm, "probe_loss") - results.first(arm, "probe_loss")
            found.append(np.stack([*(results.last(arm, column) for column in COLUMNS.values()), lost], axis=1))
        return np.stack(found)

    return read


def _correlation(values: np.ndarray, column: int) -> float:
    """Over all agents of an array `(settings, agents, 5)`."""
    flat = values.reshape(-1, values.shape[-1])
    flat = flat[np.isfinite(flat).all(1)]
    return rank_correlation(flat[:, column], flat[:, -1])


def _of(axes: list[Axes], place: int, kind: str, column: int) -> Callable[[np.ndarray], float]:
    """The correlation over the settings of one kind."""
    chosen = np.array([one[place] == kind for one in axes])
    return lambda values: _correlation(values[chosen], column)


def _claims(axes: list[Axes]) -> tuple[Claim, ...]:
    read, (norm, rank, dead, feature) = _read(axes), range(4)
    data, nets, mdps, _ = (list(dict.fromkeys(one[place] for one in axes)) for place in range(4))
    told = dict(enumerate(COLUMNS))
    first, second = data[0], data[-1]
    made: list[Claim] = [
        Resampled(
            f"The weight norm correlates positively with the loss of plasticity on {SAID.get(second, second)} "
            "(Spearman).",
            read, paper="positive", checklist=(10,), statistic=_of(axes, 0, second, norm),
        ),
        Resampled(
            f"It does not correlate positively on {SAID.get(first, first)}: its correlation is at most 0.1 (0.1 "
            "minus it).",
            read, paper="slightly negative", ours=True, checklist=(10,),
            statistic=lambda values: 0.1 - _of(axes, 0, first, norm)(values),
        ),
    ]  # fmt: skip
    for column, place, kinds in ((rank, 0, data), (dead, 1, nets), (feature, 2, mdps)):

        def reversal(values: np.ndarray, column: int = column, place: int = place, kinds: list[str] = kinds) -> float:
            found = [_of(axes, place, kind, column)(values) for kind in kinds]
            return min(max(found), -min(found))

        made.append(
            Resampled(
                f"The correlation of {told[column]} changes its sign over {', '.join(SAID.get(k, k) for k in kinds)} "
                "(the "
                "smaller one of the largest and of minus the smallest).",
                read, checklist=(11,), statistic=reversal,
            )
        )  # fmt: skip
    made += [
        Resampled(
            f"{label.capitalize()}: the rank correlation over all agents is at most 0.8 in size (0.8 minus it).",
            read, ours=True, checklist=(12,),
            statistic=lambda values, column=column: 0.8 - abs(_correlation(values, column)),
        )
        for column, label in told.items()
    ]  # fmt: skip

    def quietly(results: Results) -> np.ndarray:
        """What each setting lost, where the share of dead units did not rise, a seed; else nothing."""
        values = read(results).swapaxes(0, 1)
        return np.where(values[..., dead] <= MORE_DEAD, values[..., -1], 0.0)

    made.append(
        Exists(
            f"Some setting loses more than {LOST} of probe loss with at most {MORE_DEAD:g} of its units dead.",
            quietly, threshold=LOST, ours=True, checklist=(13,),
        )
    )  # fmt: skip
    return tuple(made)


EXPERIMENT = Experiment(
    id="lyle2023/fig3",
    title="No single statistic of a network explains its loss of plasticity",
    figure="P1 figure 3",
    references=("lyle2023", "lyle2022"),
    tiers={
        "smoke": Settings(
            data=("digits",), nets=("mlp",), optimizers=("adam",), num_images=100, hidden=(8, 8), cnn_hidden=(8, 8),
            batch_size=16, target_period=10, target_updates=2, targets=2, steps=3, examples=40,
        ),
        "laptop": Settings(),
        "paper": Settings(
            num_images=50_000, hidden=(512, 512), channels=(64, 64), cnn_hidden=(256, 256), batch_size=512,
            target_period=1000, act_every=1, targets=10, steps=2000, examples=10_000,
        ),
    },
    setup=setup,
)  # fmt: skip
