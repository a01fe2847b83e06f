"""Does `disentangle` find what was planted? One cause of plasticity loss an arm, made by hand in a healthy network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from pliant.causes import REPAIRS
from pliant.claims import Claim
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import Chain
from pliant.interventions.base import Change, Intervention, Seen, State
from pliant.nets import MLP
from pliant.network import Network, Params
from pliant.optim import Adam, Moments
from pliant.papers.lyle2024 import swiss_cheese
from pliant.plots import Areas
from pliant.probe import Sines
from pliant.results import Results
from pliant.tasks import OffsetNoise
from pliant.trials import Fit, Mechanisms, Supervised, When
from pliant.waterfall import UNEXPLAINED


@dataclass(frozen=True)
class Plant(Intervention):
    """Damage done once, after the last step of training."""

    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "weights"
    needs: ClassVar[frozenset[str]] = frozenset()

    at: int

    def active(self, step: int) -> bool:
        return step + 1 == self.at


@dataclass(frozen=True)
class KillUnits(Plant):
    """The first half of every layer's units never fires again: no input, a bias of -1."""

    def init(self, network: Network, params: Params) -> State:
        assert network.units  # found now: finding them draws, which populations forbid
        return {}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        new: Params = {}
        for units in network.units:
            half = torch.arange(units.size) < units.size // 2
            for name, entries in units.incoming.items():
                value = 0.0 if params[name].ndim > 1 else -1.0
                new[name] = torch.where(entries.mask(half), value, new.get(name, params[name]))
        return Change(new)


@dataclass(frozen=True)
class ScaleWeights(Plant):
    """Every weight and bias is 8 times as large."""

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        return Change({name: 8 * params[name] for name in network.names})


@dataclass(frozen=True)
class StaleMoments(Plant):
    """Adam's second moments are as after gradients 1000 times as large."""

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        return Change(moments={"exp_avg_sq": {name: 1e6 * v for name, v in moments["exp_avg_sq"].items()}})


@dataclass(frozen=True)
class ShiftHead(Plant):
    """The output layer follows targets that were shifted, by the least change of its weights: W <- W + offset m' / m'm.

    m is the mean of the penultimate features on the last batch; nothing else in the network moves.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    offset: float

    def init(self, network: Network, params: Params) -> State:
        assert network.head  # found now, for the same reason
        return {}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        assert seen.features is not None
        mean = seen.features.mean(0)
        (weight,) = (name for name in network.head if params[name].ndim == 2)
        return Change({weight: params[weight] + self.offset * mean / (mean @ mean)})


@dataclass(frozen=True)
class Settings:
    """Settings of planted.

    Args:
        data: a data set's name; only its images are used.
        hidden: widths of the hidden layers.
        num_examples: images a seed keeps.
        batch_size: examples a step.
        every: steps of training before the damage.
        offset: how far targets are shifted.
        outputs: targets an example has.
        noise: standard deviation of the targets.
        lr: learning rate of Adam.
        targets: fresh targets of the probe.
        steps: of each refit.
    """

    data: str = "mnist"
    hidden: tuple[int, ...] = (64, 64)
    num_examples: int = 1000
    batch_size: int = 128
    every: int = 500
    offset: float = 100.0
    outputs: int = 10
    noise: float = 0.1
    lr: float = 1e-3
    targets: int = 3
    steps: int = 300


def setup(settings: Settings) -> Setup:
    """A healthy arm, one a planted cause, and one that was trained on shifted targets; all regress noise first."""

    sizes = settings.num_examples, settings.batch_size, settings.every, 1
    asked = Mechanisms(
        Sines(), REPAIRS, When(tasks=(0,)), settings.targets, settings.steps, settings.batch_size, settings.num_examples
    )
    trial = Supervised(
        task=OffsetNoise(*sizes, outputs=settings.outputs, noise=settings.noise),
        data=settings.data,
        net=partial(MLP, hidden=settings.hidden),
        optimizer=Adam(lr=settings.lr),
        measures=(Fit(), asked),
    )

    def planted(*damage: Plant) -> Supervised:
        return replace(trial, chain=Chain(*damage))

    end, offset = settings.every, settings.offset
    return Setup(
        arms={
            "healthy": Arm("nothing planted", trial),
            "units": Arm("half the units killed", planted(KillUnits(end))),
            "norm": Arm("weights times 8", planted(ScaleWeights(end))),
            "optimizer": Arm("stale moments", planted(StaleMoments(end))),
            "target scale": Arm(f"head shifted by {offset:g}", planted(ShiftHead(end, offset))),
            "shifted": Arm(f"trained on targets + {offset:g}", replace(trial, task=replace(trial.task, offset=offset))),
        },
        plots=(Areas("loss of plasticity [squared error]", PARTS),),
        table=(Column("lost", "lost"), *(Column(name, column) for name, column in PARTS.items())),
        claims=CLAIMS,
        deviations=(
            "An experiment of ours, with known answers.",
            "The arm trained on shifted targets has no known answer: the shift also makes units die and turn linear, "
            "and leaves Adam large second moments, so that what it costs is not the shift of the head.",
        ),
    )


PARTS = {name: f"lost/{name}" for name in (*(repair.name for repair in REPAIRS), UNEXPLAINED)}


def _lead(arm: str, mechanism: str) -> Callable[[Results], np.ndarray]:
    """How much more a mechanism took than any other, as a share of what an arm lost, one a seed."""

    def lead(results: Results) -> np.ndarray:
        taken = {repair.name: results.last(arm, f"lost/{repair.name}") for repair in REPAIRS}
        others = np.max([values for name, values in taken.items() if name != mechanism], axis=0)
        return (taken[mechanism] - others) / results.last(arm, "lost")

    return lead


PLANTED = ("units", "norm", "optimizer", "target scale")
WORKS = swiss_cheese.fresh_learn("healthy", *PLANTED)


def _of_baseline(arm: str) -> Callable[[Results], np.ndarray]:
    """What an arm lost, as a share of the constant predictor's loss, one a seed."""
    return lambda r: r.last(arm, "lost") / r.last(arm, "probe_baseline")


def _lost(arm: str, what: str) -> Claim:
    text = f"{what} cost plasticity: more than 0.1 of the constant predictor's loss."
    return Claim(text, _of_baseline(arm), threshold=0.1, ours=True)


def _planted(arm: str, mechanism: str, what: str) -> Claim:
    text = f"{what}: {mechanism} takes the largest share (its lead over the next)."
    return Claim(text, _lead(arm, mechanism), ours=True, given=(WORKS, _lost(arm, what)))


CLAIMS = (
    _planted("units", "units", "Half the units killed"),
    _planted("norm", "norm growth", "Weights times 8"),
    _planted("optimizer", "optimizer state", "Stale moments"),
    _planted("target scale", "target scale", "A head shifted by 100"),
    _planted("shifted", "target scale", "Training on targets shifted by 100"),
    Claim(
        "With nothing planted, the loss of plasticity stays below 0.1 of the constant predictor's loss (what is left).",
        lambda r: 0.1 - _of_baseline("healthy")(r),
        ours=True,
        given=(WORKS,),
    ),
    Claim(
        "Each planted cause costs more than training alone (the mildest one).",
        lambda r: np.min([_of_baseline(arm)(r) for arm in PLANTED], axis=0) - _of_baseline("healthy")(r),
        ours=True,
        given=(WORKS,),
    ),
)

EXPERIMENT = Experiment(
    id="toolbox/planted",
    title="Does disentangle find what was planted?",
    figure="ours; a test of the measurement",
    references=("lyle2024", "lyle2023"),
    tiers={
        "smoke": Settings(
            data="digits", hidden=(32, 32), num_examples=200, batch_size=32, every=100, targets=2, steps=30
        ),
        "laptop": Settings(),
        "paper": Settings(hidden=(512, 512), num_examples=10_000, targets=10, steps=2000),
    },
    setup=setup,
)
