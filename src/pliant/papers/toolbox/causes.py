"""The question in P2's title, asked of the four arms of swiss_cheese: which mechanism took how much, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pliant.claims import Claim
from pliant.experiment import Column, Experiment, Setup
from pliant.papers.lyle2024 import swiss_cheese
from pliant.plots import Areas
from pliant.results import Results


@dataclass(frozen=True)
class Settings(swiss_cheese.Probed):
    """Settings of causes."""

    checkpoints: int = 5


def setup(settings: Settings) -> Setup:
    """The arms of swiss_cheese, disentangled on the way."""
    base = swiss_cheese.setup(settings)
    return replace(
        base,
        plots=(Areas("loss of plasticity [nats]", PARTS), swiss_cheese.WATERFALLS),
        table=(
            Column("lost\n[nats]", "lost"),
            *(Column(name, column) for name, column in PARTS.items()),
            Column("last\ntask", "accuracy"),
        ),
        claims=CLAIMS,
        deviations=(
            "An experiment of ours: P2 names the mechanisms and does not say how much each takes.",
            f"Probe: {settings.targets} labellings, {settings.steps} steps of the arm's Adam with the state it has, "
            "without the arm's L2; parts are Shapley values of the repairs, which with the unexplained sum to the loss "
            "against fresh networks. A claim's share is a part over that loss.",
            *base.deviations[2:],
        ),
    )


PARTS = swiss_cheese.PARTS


def _share(arm: str, column: str) -> Callable[[Results], np.ndarray]:
    """A mechanism's share of what an arm has lost at its last task, one a seed."""
    return lambda r: r.last(arm, column) / r.last(arm, "lost")


def _lost(arm: str, label: str) -> Claim:
    return Claim(
        f"{label} has lost plasticity: more than 0.1 of the constant predictor's loss.",
        partial(swiss_cheese.lost_share, arm=arm),
        threshold=0.1,
        ours=True,
    )


CLAIMS = (
    Claim(
        "The plain network's loss is mostly dead and linearized units (their share).",
        _share("none", "lost/units"),
        threshold=0.5,
        ours=True,
        given=(swiss_cheese.fresh_learn("none"), _lost("none", "The plain network")),
    ),
    Claim(
        "The layer-norm network's loss is mostly norm growth (its share).",
        _share("layer_norm", "lost/norm growth"),
        threshold=0.5,
        ours=True,
        given=(swiss_cheese.fresh_learn("layer_norm"), _lost("layer_norm", "The layer-norm network")),
    ),
)

EXPERIMENT = Experiment(
    id="toolbox/causes",
    title="Which mechanism took the plasticity: units in a plain network, norms behind layer norm?",
    figure="ours; the question of P2, on the arms of its figures 4 and 5",
    references=("lyle2024", "lyle2023"),
    tiers={
        "smoke": Settings(
            data="digits", hidden=(32, 32), num_examples=200, batch_size=32, every=20, num_tasks=4, l2=1e-3,
            checkpoints=2, targets=2, steps=8,
        ),
        "laptop": Settings(),
        "paper": Settings(
            data="cifar10", hidden=(512, 512), num_examples=50_000, every=50_000, num_tasks=20, l2=1e-5, targets=10,
            steps=2000,
        ),
    },
    setup=setup,
    sentences=swiss_cheese.sentences,
)  # fmt: skip
