"""P2-E7: layer norm with L2 under several kinds of change, and what it costs on a single task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pliant.claims import Claim, Effect, Exists
from pliant.experiment import Arm, Experiment, Setup
from pliant.papers.memorisation import WAYS, Memorisation, chains, complementary, looks, table
from pliant.plots import Cells, Lines
from pliant.population import Population, PopulationState
from pliant.results import Results
from pliant.tasks import Composite, Growing, OffsetNoise, RandomLabels, Task
from pliant.trials import Fit, Row


@dataclass(frozen=True)
class Settings(Memorisation):
    """Settings of robustness.

    Args:
        l2: strength of L2.
        offset: of the growing targets in the last task.
    """

    num_tasks: int = 20
    l2: float = 1e-4
    offset: float = 16.0


@dataclass(frozen=True)
class Learned(Fit):
    """What `Fit` says, and on one scale whatever is learned, `learned`: the accuracy of class labels, or the share of
    targets of variance 1 that is explained, 0 for the constant predictor and for what is worse.

    >>> Learned().examples
    4096
    """

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Any) -> Row:
        found = super().__call__(population, state, x, y, update)
        return found | {"learned": found["accuracy"] if "accuracy" in found else (1 - found["loss"]).clamp(min=0)}


def streams(settings: Settings) -> dict[str, tuple[str, Task]]:
    """The kinds of change by name, each with what it is called."""
    sizes = {
        "num_examples": settings.num_examples, "batch_size": settings.batch_size, "every": settings.every,
        "num_tasks": settings.num_tasks,
    }  # fmt: skip
    begin = max(settings.batch_size, settings.num_examples // settings.num_tasks)
    return {
        "continual": ("new labels", RandomLabels(**sizes)),
        "composite": ("new labels and pixels", Composite(**sizes)),
        "growing": ("growing data", Growing(**sizes, begin=begin, random=True)),
        "targets": ("growing targets", OffsetNoise.growing(settings.offset, **sizes)),
    }


SCALES = {"targets": "share explained"}  # of what is learned, where it is no accuracy
STREAMS = ("continual", "composite", "growing", "targets")


def name(stream: str, way: str) -> str:
    """The arm of a stream and a way to keep a network learning.

    >>> name("growing", "both")
    'growing_both'
    """
    return f"{stream}_{way}"


def setup(settings: Settings) -> Setup:
    """Nothing, L2, layer norm and both, under each kind of change."""
    trial, kinds = settings.trial(looks(fit=Learned)), streams(settings)
    arms = {
        name(stream, way): Arm(f"{words}, {WAYS[way]}", replace(trial, task=task, chain=chain))
        for stream, (words, task) in kinds.items()
        for way, chain in chains(settings.l2).items()
    }
    of = {stream: tuple(name(stream, way) for way in WAYS) for stream in kinds}
    return Setup(
        arms=arms,
        plots=(
            *(
                Lines("learned", f"{SCALES.get(stream, 'accuracy')}, {words}", arms=of[stream])
                for stream, (words, _) in kinds.items()
            ),
            Cells(
                "learned",
                "learned at the end",
                tuple(said.replace(" + ", "\n+ ").replace("no ", "no\n") for said in WAYS.values()),
                {words: of[stream] for stream, (words, _) in kinds.items()},
            ),
        ),
        table=table("learned"),
        claims=CLAIMS,
        deviations=(
            "P2 does not state network sizes, batch size, learning rate and steps a task here; ours are in the "
            f"settings: {settings.num_examples:,} images, {settings.num_tasks} tasks of {settings.every:,} steps, an "
            f"MLP with hidden layers of {', '.join(map(str, settings.hidden))} (P2: MLP, CNN and ResNet-18).",
            f"L2 strength {settings.l2:g} (P2: 1e-5), normalisers' scales and offsets included.",
            "Composite: a permutation of the pixels with the new labels; P2 says a random transformation.",
            "P2's growing streams are read in two ways: data that grow, with random labels that stay, and regression "
            f"on noise whose mean grows from 0 to {settings.offset:g}.",
            "The peak accuracy is that on the training images, the best over tasks.",
            f"Data: {settings.data} (P2: CIFAR-10), standardised.",
        ),
    )  # fmt: skip


def _fell(arm: str) -> Effect:
    return lambda r: r.first(arm, "learned") - r.last(arm, "learned")


def _learns(arm: str, said: str) -> Claim:
    return Claim(f"{said} learns its first task to 0.5", lambda r: r.first(arm, "learned"), 0.5, ours=True)


def _falls(way: str) -> Claim:
    return Exists(
        f"With {WAYS[way]} there is a kind of change under which less is learned at the end than at first.",
        lambda r: np.stack([_fell(name(stream, way))(r) for stream in STREAMS], axis=1),
        given=(_learns(name("continual", way), WAYS[way]),),
        checklist=(36,),
    )


def _keeps(stream: str, words: str) -> Claim:
    arm = name(stream, "both")
    return Claim(
        f"Layer norm and L2 together lose at most 0.05 of what is learned, with {words}.",
        lambda r: -_fell(arm)(r),
        threshold=-0.05,
        ours=True,
        given=(_learns(arm, f"the pair, with {words},"),),
        checklist=(36,),
    )


def _peak(r: Results, stream: str, way: str) -> np.ndarray:
    return r.ends(name(stream, way), "learned").max(axis=1)


def _trades(stream: str, words: str) -> Claim:
    return Claim(
        f"The best task of layer norm with L2 is at most 0.02 above that of layer norm alone, with {words}.",
        lambda r: _peak(r, stream, "layer_norm") - _peak(r, stream, "both"),
        threshold=-0.02,
        ours=True,
        checklist=(46,),
    )


CLAIMS = (
    *map(_falls, ("none", "l2", "layer_norm")),
    _keeps("continual", "new labels"),
    _keeps("composite", "new labels and pixels"),
    _keeps("growing", "growing data"),
    _keeps("targets", "growing targets"),
    *complementary(lambda way: name("composite", way), "With new labels and pixels, "),
    _trades("continual", "new labels"),
    _trades("composite", "new labels and pixels"),
)  # fmt: skip

EXPERIMENT = Experiment(
    id="lyle2024/robustness",
    title="Layer norm with L2 keeps a network learning under several kinds of change",
    figure="P2 section 4.2 and figure 5",
    references=("lyle2024", "ba2016"),
    tiers={
        "smoke": Settings(data="digits", hidden=(16, 16), num_examples=100, batch_size=20, every=15, num_tasks=3),
        "laptop": Settings(num_examples=500, batch_size=64, every=300),
        "paper": Settings(
            data="cifar10", hidden=(512, 512), num_examples=50_000, batch_size=512, every=20_000, l2=1e-5
        ),
    },
    setup=setup,
)
