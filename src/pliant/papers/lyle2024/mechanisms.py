"""P2-E5: interventions against one mechanism each, on labels that are drawn again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pliant.claims import Claim, Exists
from pliant.experiment import Arm, Experiment, Setup
from pliant.interventions import (
    Activation,
    BatchNorm,
    Chain,
    FeatureNormPenalty,
    GradientNormPenalty,
    InFeR,
    Intervention,
    LayerNorm,
    ReDo,
    WeightNormRescale,
)
from pliant.nets import CNN
from pliant.optim import Shampoo
from pliant.papers.memorisation import (
    Memorisation,
    above,
    average,
    complementary,
    fell,
    fits,
    keeps,
    looks,
    table,
    whole,
)
from pliant.plots import Cells, Lines
from pliant.results import Results

CONVOLUTIONAL = ("none", "layer_norm", "l2", "both", "redo", "leaky_relu")  # arms that a CNN is trained in, too


@dataclass(frozen=True)
class Settings(Memorisation):
    """Settings of mechanisms.

    Args:
        l2: strength of L2 in all arms that have it.
        feature: strength of the penalty on the feature norm.
        gradient: strength of the penalty on the gradient norm.
        shampoo: learning rate of Shampoo.
        channels: of the CNN's convolutions.
        cnn_hidden: widths of its hidden linear layers.
        cnn_every: steps a task of the CNN.
    """

    num_tasks: int = 21
    l2: float = 1e-4
    feature: float = 1e-3
    gradient: float = 1e-2
    shampoo: float = 0.02
    channels: tuple[int, ...] = (8, 16)
    cnn_hidden: tuple[int, ...] = (64,)
    cnn_every: int = 150


@dataclass(frozen=True)
class Way:
    """One arm: what it is called, what it does, against which mechanisms (columns of the figure)."""

    label: str
    make: Callable[[Settings], tuple[Intervention, ...]]
    against: tuple[str, ...]


NORM, UNITS, CONDITION = "norm growth", "preactivations", "conditioning"
WAYS = {
    "none": Way("no intervention", lambda s: (), (NORM, UNITS, CONDITION)),
    "l2": Way("L2", lambda s: (whole(s.l2),), (NORM,)),
    "layer_norm": Way("layer norm", lambda s: (LayerNorm(),), (NORM, UNITS)),
    "both": Way("layer norm + L2", lambda s: (LayerNorm(), whole(s.l2)), (NORM, UNITS, CONDITION)),
    "batch_norm": Way("batch norm", lambda s: (BatchNorm(),), (NORM, UNITS)),
    "batch_norm_l2": Way("batch norm + L2", lambda s: (BatchNorm(), whole(s.l2)), (NORM, UNITS)),
    "feature_norm": Way("feature-norm penalty", lambda s: (FeatureNormPenalty(s.feature),), (NORM,)),
    "rescale": Way("weight-norm rescaling", lambda s: (WeightNormRescale(),), (NORM,)),
    "redo": Way("ReDo", lambda s: (ReDo(tau=0.025, every=s.every),), (UNITS,)),
    "leaky_relu": Way("leaky ReLU", lambda s: (Activation("leaky_relu"),), (UNITS,)),
    "gradient_norm": Way("gradient-norm penalty", lambda s: (GradientNormPenalty(s.gradient),), (CONDITION,)),
    "infer": Way("InFeR", lambda s: (InFeR(),), (CONDITION,)),
    "shampoo": Way("Shampoo", lambda s: (), (CONDITION,)),
}


def cnn(arm: str) -> str:
    """The arm of the convolutional network.

    >>> cnn("both")
    'cnn_both'
    """
    return f"cnn_{arm}"


def setup(settings: Settings) -> Setup:
    """Every way alone, layer norm and batch norm with L2, on the MLP; the first ones on a CNN, too."""
    trial = settings.trial(looks())
    optimizer = {"shampoo": Shampoo(settings.shampoo)}
    arms = {
        name: Arm(
            way.label, replace(trial, chain=Chain(*way.make(settings)), optimizer=optimizer.get(name, trial.optimizer))
        )
        for name, way in WAYS.items()
    }
    net = partial(CNN, channels=settings.channels, hidden=settings.cnn_hidden)
    short = replace(settings, every=settings.cnn_every)
    convolved = replace(short.trial(trial.measures), net=net)
    for name in CONVOLUTIONAL:
        chain = Chain(*WAYS[name].make(short))
        arms[cnn(name)] = Arm(f"CNN, {WAYS[name].label}", replace(convolved, chain=chain))
    against = {
        mechanism: tuple(n for n, w in WAYS.items() if mechanism in w.against) for mechanism in (NORM, UNITS, CONDITION)
    }
    return Setup(
        arms=arms,
        plots=(
            *(
                Lines("accuracy", f"accuracy, ways against {mechanism}", limits=(0, 1.02), arms=shown)
                for mechanism, shown in against.items()
            ),
            Lines("norm_ratio", "parameter norm / initial norm", log=True, arms=against[NORM]),
            Lines("dead", "dead units (share)", limits=(0, 1.02), arms=against[UNITS]),
            Lines("accuracy", "accuracy, CNN", limits=(0, 1.02), arms=tuple(map(cnn, CONVOLUTIONAL))),
            Cells(
                "accuracy",
                "accuracy at the end of the last task",
                ("MLP", "CNN"),
                {way.label: (n, cnn(n) if n in CONVOLUTIONAL else None) for n, way in WAYS.items()},
            ),
        ),
        table=table(),
        claims=CLAIMS,
        deviations=(
            "P2 does not state network sizes, batch size, learning rate, steps a task or the number of images here; "
            f"ours are in the settings: {settings.num_examples:,} images, {settings.num_tasks} tasks of "
            f"{settings.every:,} steps, an MLP with hidden layers of {', '.join(map(str, settings.hidden))}; the CNN "
            f"has {' and '.join(map(str, settings.channels))} channels, hidden layers of "
            f"{', '.join(map(str, settings.cnn_hidden))}, and {settings.cnn_every:,} steps a task. No ResNet-18.",
            f"L2 strength {settings.l2:g} (P2: 1e-5 suffices on CIFAR-10 with its own, unstated, task length), "
            "normalisers' scales and offsets included; P2 does not say.",
            f"One strength a method, not tuned, P2's are not known: feature norm {settings.feature:g}, gradient norm "
            f"{settings.gradient:g}, ReDo with tau 0.025 once a task, InFeR as published; Shampoo with learning rate "
            f"{settings.shampoo:g} and averages in place of sums.",
            f"Data: {settings.data} (P2: CIFAR-10), standardised.",
        ),
    )  # fmt: skip


def _falls(arm: str) -> Claim:
    """That a way alone loses accuracy on the MLP or on the CNN, corrected for the two that were looked at."""
    return Exists(
        f"With {WAYS[arm].label} alone, accuracy falls over 20 relabellings, on the MLP or on the CNN.",
        lambda r: np.stack([fell(one)(r) for one in (arm, cnn(arm))], axis=1),
        given=(fits(arm, f"{WAYS[arm].label} alone fits its"),),
        checklist=(36,),
    )


def _weaker(arm: str, than: str) -> Claim:
    def difference(r: Results) -> np.ndarray:
        return average(than)(r) - average(arm)(r)

    return Claim(
        f"The {WAYS[arm].label} is weaker or slower than {WAYS[than].label}: its accuracy, averaged over tasks, is "
        "lower.",
        difference,
        checklist=(38,),
    )


def _no_better(arm: str) -> Claim:
    return Claim(
        f"Layer norm and L2 together end above {WAYS[arm].label}: it does not beat them.",
        above("both", arm),
        checklist=(39,),
    )


CLAIMS = (
    *map(_falls, ("layer_norm", "l2", "redo", "leaky_relu")),
    *(
        keeps(arm, f" over 20 relabellings, on the {net}", f"both on the {net} fit their")
        for arm, net in (("both", "MLP"), (cnn("both"), "CNN"))
    ),
    *complementary(),
    *(_weaker(arm, than) for arm in ("feature_norm", "rescale") for than in ("layer_norm", "batch_norm")),
    *map(_no_better, ("infer", "gradient_norm", "shampoo")),
)

EXPERIMENT = Experiment(
    id="lyle2024/mechanisms",
    title="What acts on one mechanism alone has holes: layer norm with L2 acts on two, and keeps a network learning",
    figure="P2 figure 4",
    references=("lyle2024", "ba2016", "ioffe2015", "sokar2023", "lyle2022", "gupta2018"),
    tiers={
        "smoke": Settings(
            data="digits", hidden=(16, 16), num_examples=100, batch_size=32, every=10, num_tasks=2, channels=(4, 4),
            cnn_hidden=(8,), cnn_every=5,
        ),
        "laptop": Settings(num_examples=500, batch_size=64, every=300),
        "paper": Settings(
            data="cifar10", hidden=(512, 512), num_examples=50_000, batch_size=512, every=20_000, l2=1e-5,
            channels=(64, 64), cnn_hidden=(256, 256), cnn_every=20_000,
        ),
    },
    setup=setup,
)  # fmt: skip
