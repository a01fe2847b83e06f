"""P2-E3 (left, centre): what happens in a network right after the labels changed, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pliant.claims import Claim, Effect
from pliant.diagnostics import DeadUnits, LinearizedUnits, Observation, OneSidedUnits, PredictiveEntropy
from pliant.diagnostics._shared import given, sites
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.functional.preactivations import moments, sign_agreement
from pliant.interventions import Activation, Chain, LayerNorm
from pliant.papers.memorisation import Memorisation, fits
from pliant.plots import Lines, Profile
from pliant.results import Results
from pliant.trials import Arrays, Fit, Numbers, When

BINS = 40  # of the histograms
REACH = 4.0  # of the histogram of mean preactivations, to either side
ARMS = {"none": "ReLU", "layer_norm": "ReLU, layer norm", "leaky_relu": "leaky ReLU"}


@dataclass(frozen=True)
class Settings(Memorisation):
    """Settings of phases.

    Args:
        dense: steps of each task, from its first, at which everything is measured.
    """

    every: int = 400
    num_tasks: int = 4
    dense: int = 400


def moves(seen: Observation) -> Tensor:
    """By how much a step of gradient descent of size 1 moves each first-layer unit, on each input: `(inputs, units)`.

    -(<grad_{w_u} l, x> + grad_{b_u} l), to first order, by the first layer's parameters alone; before a normaliser.
    Raises `ValueError` for a network whose first layer is not linear.
    """
    name = given(seen.network, "network").weights[0]
    weight, x = given(seen.gradients, "gradients")[name], given(seen.x, "x").flatten(1)
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise ValueError(f"expected a network whose first layer {name} is linear in its inputs: write --set net=mlp")
    bias = given(seen.gradients, "gradients").get(name.removesuffix("weight") + "bias")
    return -(x @ weight.mT) - (0 if bias is None else bias)


def pushed(seen: Observation) -> Tensor:
    """The share of first-layer units that the gradient pushes the same way on more than 90 % of the inputs, among those
    that it moves at all; NaN where it moves none."""
    found = moves(seen)
    alive = (found != 0).any(0)
    alike = (sign_agreement(found) > 0.8) & alive
    return torch.where(alive.any(), alike.sum() / alive.sum().clamp(min=1), torch.nan)


def histogram(values: Tensor, low: float, high: float) -> Tensor:
    """The share of values in each of `BINS` equal bins; what lies beyond the ends counts in the outermost."""
    place = ((values - low) / (high - low) * BINS).floor().clamp(0, BINS - 1)
    return (place[:, None] == torch.arange(BINS, device=values.device)).to(values).mean(0)


def centres(low: float, high: float) -> tuple[float, ...]:
    """The middles of the bins.

    >>> centres(0.0, 40.0)[:3]
    (0.5, 1.5, 2.5)
    """
    width = (high - low) / BINS
    return tuple(low + width * (i + 0.5) for i in range(BINS))


def means(seen: Observation) -> Tensor:
    """How the units' mean preactivations are distributed, over all hidden layers."""
    return histogram(torch.cat([moments(site.pre).mean for site in sites(seen).values()]), -REACH, REACH)


def alignment(seen: Observation) -> Tensor:
    """How the share of inputs on which the gradient pushes a first-layer unit up is distributed over units."""
    return histogram((moves(seen) > 0).to(given(seen.x, "x")).mean(0), 0.0, 1.0)


def setup(settings: Settings) -> Setup:
    """ReLU with and without layer norm, and leaky ReLU, on few tasks, at every step of which is looked inside."""
    dense, late = When(first=settings.dense), tuple(range(max(0, settings.num_tasks - 2), settings.num_tasks))
    trial = settings.trial(
        (
            Fit(dense, examples=256),
            Numbers((DeadUnits(), LinearizedUnits(), OneSidedUnits(), PredictiveEntropy()), dense, examples=256),
            Arrays({"pushed": pushed}, frozenset({"network", "x", "gradients"}), dense, examples=256),
            Arrays(
                {"means": means, "alignment": alignment},
                frozenset({"network", "x", "gradients", "trace"}),
                When(every=max(1, settings.every // 4), first=1, tasks=late),
                examples=256,
            ),
        )
    )  # fmt: skip
    chains = {"none": Chain(), "layer_norm": Chain(LayerNorm()), "leaky_relu": Chain(Activation("leaky_relu"))}
    switch = settings.every * (settings.num_tasks - 1)
    window = (max(1, switch - settings.every // 8), min(switch + settings.dense, settings.every * settings.num_tasks))
    times = (-6, -5, -4, -1)  # before the switch, right after it, after a quarter of the task, at its end
    lines = {
        "accuracy": "accuracy",
        "entropy": "entropy of the predictions [nats]",
        "dead": "dead units (share)",
        "linearized": "linearized units (share)",
        "one_sided": "units with preactivations of one sign (share)",
        "pushed": "units pushed one way on > 90 % of inputs (share)",
    }
    return Setup(
        arms={name: Arm(said, replace(trial, chain=chains[name])) for name, said in ARMS.items()},
        plots=(
            *(Lines(column, title, over="step", window=window) for column, title in lines.items()),
            *(
                Profile(
                    "means", f"share of units, {ARMS[arm]}", "mean preactivation of a unit", {ARMS[arm]: arm},
                    centres(-REACH, REACH), moments=times,
                )
                for arm in ("none", "layer_norm")
            ),
            Profile(
                "alignment",
                "share of first-layer units; those that it does not move stand at 0",
                "share of inputs on which the gradient pushes a unit up",
                {"ReLU": "none"},
                centres(0.0, 1.0),
                moments=times,
            ),
        ),
        table=(
            Column("first task", "accuracy", "first"),
            Column("last task", "accuracy"),
            Column("dead", "dead"),
            Column("linear-\nized", "linearized"),
            Column("one-\nsided", "one_sided"),
            Column("entropy", "entropy"),
        ),
        claims=CLAIMS,
        deviations=(
            "P2 does not state network, batch size, learning rate and steps a task here; ours are in the settings: "
            f"{settings.num_examples:,} images, {settings.num_tasks} tasks of {settings.every:,} steps (all labels "
            f"new), hidden layers of {', '.join(map(str, settings.hidden))}.",
            "What is said of a switch is the mean over all of them. Before it: at the last step of the task before; "
            "right after: after the first step.",
            "Units of one sign are counted over all hidden layers, on up to 256 training images; behind layer norm, "
            "what enters the nonlinearity is looked at.",
            "The first gradients' push is that of the gradient over all examples through the first layer's weights and "
            "bias, before a normaliser; units that it does not move are left out. On MNIST that is a push along the "
            "mean image, at all times: with the mean of every pixel taken off the inputs, no unit is pushed one way "
            "(seen with seeds 100 and 101).",
            f"Data: {settings.data} (P2: CIFAR-10), standardised.",
        ),
    )  # fmt: skip


def switches(r: Results, arm: str, column: str) -> list[list[tuple[float, np.ndarray]]]:
    """A column around every switch, by seed: its value before, and its values at every measured step after."""
    found = []
    for seed in r.seeds_of(arm):
        r.first(arm, column)  # says what is missing
        table = r.tables[arm, seed]
        there = ~np.isnan(table[column])
        task, values = table["task"][there], table[column][there]
        found.append([(values[task == t - 1][-1], values[task == t]) for t in range(1, int(task.max()) + 1)])
    return found


def _over(arm: str, column: str, number: Callable[[float, np.ndarray], float]) -> Effect:
    """The mean over switches of a number of (before, after), one a seed."""
    return lambda r: np.array([np.mean([number(*each) for each in seed]) for seed in switches(r, arm, column)])


LEARNS = fits("none", "the plain network fits its"), fits("layer_norm", "layer norm fits its")
CLAIMS = (
    Claim(
        "Without layer norm, more units have preactivations of one sign at the end of a task than before its switch.",
        _over("none", "one_sided", lambda before, after: after[-1] - before),
        given=LEARNS[:1],
        checklist=(31,),
    ),
    Claim(
        "With layer norm, the share of such units rises after a switch (largest value after it, less that before).",
        _over("layer_norm", "one_sided", lambda before, after: after.max() - before),
        threshold=0.01,
        ours=True,
        given=LEARNS[1:],
        checklist=(31,),
    ),
    Claim(
        "With layer norm, it falls again: at the end of the task it is closer to the share before the switch than to "
        "the largest after it.",
        _over("layer_norm", "one_sided", lambda before, after: (before + after.max()) / 2 - after[-1]),
        given=LEARNS[1:],
        checklist=(31,),
    ),
    Claim(
        "A switch is unlearned first: the entropy of the predictions rises by more than half a nat above that before "
        "it.",
        _over("none", "entropy", lambda before, after: after.max() - before),
        threshold=0.5,
        ours=True,
        given=LEARNS[:1],
    ),
    Claim(
        "Right after a switch, the gradient pushes more than half of the first-layer units the same way on more than "
        "90 % of the inputs.",
        _over("none", "pushed", lambda before, after: after[0]),
        threshold=0.5,
        ours=True,
        given=LEARNS[:1],
        checklist=(33,),
    ),
    Claim(
        "At the end of a task, the gradient pushes fewer units so than right after the switch.",
        _over("none", "pushed", lambda before, after: after[0] - after[-1]),
        given=LEARNS[:1],
        checklist=(33,),
    ),
)

EXPERIMENT = Experiment(
    id="lyle2024/phases",
    title="After the labels change a network first unlearns, all units pushed one way, then learns again",
    figure="P2 figure 2 (left and centre)",
    references=("lyle2024", "ba2016"),
    tiers={
        "smoke": Settings(
            data="digits", hidden=(16, 16), num_examples=100, batch_size=20, every=16, num_tasks=3, dense=8
        ),
        "laptop": Settings(num_examples=500, batch_size=64),
        "paper": Settings(
            data="cifar10",
            hidden=(512, 512),
            num_examples=50_000,
            batch_size=512,
            every=20_000,
            num_tasks=5,
            dense=1000,
        ),
    },
    setup=setup,
)
