"""Does `disentangle` find what was planted? One cause of plasticity loss an arm, made by hand in a healthy network."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from pliant.causes import EVERY
from pliant.causes.rescaling import rescalings
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import Chain
from pliant.interventions.base import Change, Intervention, Seen, State
from pliant.nets import CNN, MLP, ViT, layer_norm
from pliant.network import Network, Params
from pliant.optim import Adam, Moments
from pliant.papers.lyle2024.swiss_cheese import lost_share
from pliant.papers.toolbox.answers import NETS, NORM, PARTS, SHIFTED, arm, causes, claims, growth, label
from pliant.plots import Cells
from pliant.probe import Sines
from pliant.tasks import OffsetNoise
from pliant.trials import Fit, Mechanisms, Supervised, When
from pliant.trials.building import Net
from pliant.words import unknown


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
    """The first three quarters of every layer's units never fire again.

    They get no input and a bias of -1; behind a normaliser that is their scale and offset.
    """

    def init(self, network: Network, params: Params) -> State:
        assert network.units  # found now: finding them draws, which populations forbid
        return {}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        new: Params = {}
        for units in network.units:
            first = torch.arange(units.size) < 3 * units.size // 4
            for name, entries in (units.normaliser or units.incoming).items():
                value = -1.0 if name.endswith("bias") else 0.0
                new[name] = torch.where(entries.mask(first), value, new.get(name, params[name]))
        return Change(new)


@dataclass(frozen=True)
class ShiftPreactivations(Plant):
    """The biases of all hidden units are larger."""

    by: float

    def init(self, network: Network, params: Params) -> State:
        assert network.units  # found now, for the same reason
        return {}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        names = {name for units in network.units for name in units.incoming if name.endswith("bias")}
        return Change({name: params[name] + self.by for name in names})


@dataclass(frozen=True)
class OneDirection(Plant):
    """Every hidden weight matrix is almost of one direction, at the norm that it had."""

    def init(self, network: Network, params: Params) -> State:
        assert self.names(network)  # found now, for the same reason
        return {}

    def names(self, network: Network) -> list[str]:
        """The weights of hidden layers."""
        return [name for name in network.weights if name not in network.head]

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        new = {}
        for name in self.names(network):
            w = params[name].flatten(1)
            u, s, v = torch.linalg.svd(w, full_matrices=False)
            uneven = torch.where(torch.arange(s.shape[-1]) > 0, 0.005 * s, s)
            new[name] = (u * (uneven * s.norm() / uneven.norm()) @ v).view_as(params[name])
        return Change(new)


@dataclass(frozen=True)
class Scaled(Plant):
    """Some parameters are larger, all by one factor."""

    by: float

    def init(self, network: Network, params: Params) -> State:
        assert self.factors(network)  # found now, for the same reason
        return {}

    @abstractmethod
    def factors(self, network: Network) -> dict[str, float]:
        """The share of the logarithm of `by` that each parameter gets."""

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        return Change({name: self.by**share * params[name] for name, share in self.factors(network).items()})


@dataclass(frozen=True)
class GrowNorms(Scaled):
    """Hidden layers are larger, but for what normalisers undo."""

    def factors(self, network: Network) -> dict[str, float]:
        kept = GrowBeforeNormalisers(self.at, self.by).factors(network)
        names = [n for layer in rescalings(network).modules for n in layer if n not in network.head]
        return {n: share for n in names if (share := 1 - kept.get(n, 0.0)) > 0.5}


@dataclass(frozen=True)
class GrowBeforeNormalisers(Scaled):
    """Layers are larger whose scale a normaliser undoes; in a residual stream all that add to it."""

    def factors(self, network: Network) -> dict[str, float]:
        found = rescalings(network)
        kept = found.kept(torch.ones(len(found.modules)).double()).tolist()
        return {n: share for layer, share in zip(found.modules, kept, strict=True) for n in layer if share > 0.5}


@dataclass(frozen=True)
class ScaleNormalisers(Scaled):
    """Scales and offsets of all normalisers are larger (or smaller)."""

    def factors(self, network: Network) -> dict[str, float]:
        return dict.fromkeys((name for name in network.names if name in network.normalisers), 1.0)


@dataclass(frozen=True)
class ScaleOutputs(Scaled):
    """The output layer is larger."""

    def factors(self, network: Network) -> dict[str, float]:
        return dict.fromkeys(network.head, 1.0)


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
        channels: of the CNN's convolutions; one hidden layer follows.
        features: of the transformer's tokens; its hidden layer is twice as wide.
        patch: side of the transformer's patches.
        num_examples: images a seed keeps.
        batch_size: examples a step.
        every: steps of training before the damage.
        offset: how far targets are shifted.
        outputs: targets an example has.
        noise: standard deviation of the targets.
        lr: learning rate of Adam.
        targets: fresh targets of the probe.
        steps: of each refit.
        nets: of `mlp`, `cnn`, `transformer`.
    """

    data: str = "digits"
    hidden: tuple[int, ...] = (64, 64)
    channels: tuple[int, ...] = (8, 16)
    features: int = 32
    patch: int = 4
    num_examples: int = 256
    batch_size: int = 64
    every: int = 300
    offset: float = 100.0
    outputs: int = 2
    noise: float = 0.1
    lr: float = 3e-3
    targets: int = 3
    steps: int = 200
    nets: tuple[str, ...] = tuple(NETS)

    def net(self, name: str, normed: bool) -> Net:
        """A network by name, with layer norm or without."""
        norm = layer_norm if normed else None
        if name == "transformer":
            return partial(
                ViT, patch=self.patch, features=self.features, ff=2 * self.features, dropout=0.0, activation=nn.ReLU,
                norm=norm,
            )  # fmt: skip
        given = {"norm": norm} if normed else {}
        if name == "cnn":
            return partial(CNN, channels=self.channels, hidden=self.hidden[:1], **given)
        return partial(MLP, hidden=self.hidden, **given)


def setup(settings: Settings) -> Setup:
    """Of every network a healthy arm and one a planted cause; an MLP that was trained on shifted targets."""
    for net in settings.nets:
        if net not in NETS:
            raise ValueError(unknown("net", net, list(NETS)))
    sizes = settings.num_examples, settings.batch_size, settings.every, 1
    asked = Mechanisms(
        Sines(), EVERY, When(tasks=(0,)), settings.targets, settings.steps, settings.batch_size, settings.num_examples
    )
    task = OffsetNoise(*sizes, outputs=settings.outputs, noise=settings.noise)
    end, offset = settings.every, settings.offset
    damage: dict[str, Plant] = {
        "units": KillUnits(end),
        "shift": ShiftPreactivations(end, 3.0),
        "hidden": GrowBeforeNormalisers(end, 30.0),
        "spectrum": OneDirection(end),
        "scales": ScaleNormalisers(end, 1 / 30),
        "logits": ScaleOutputs(end, 30.0),
        "target scale": ShiftHead(end, offset),
        "optimizer": StaleMoments(end),
    }
    arms = {}
    for net in settings.nets:
        for normed in (False, True):
            trial = Supervised(
                task, settings.data, settings.net(net, normed), Adam(lr=settings.lr), measures=(Fit(), asked)
            )
            name = NETS[net] + (f", {NORM}" if normed else "")
            arms[arm("healthy", net, normed)] = Arm(f"{name}: nothing planted", trial)
            for cause in causes(net, normed):
                chain = Chain(GrowNorms(end, growth(net, normed)) if cause == "norm" else damage[cause])
                arms[arm(cause, net, normed)] = Arm(f"{name}: {label(cause, net, normed)}", replace(trial, chain=chain))
            if net == "mlp" and not normed:
                shifted = replace(trial, task=replace(task, offset=offset))
                arms[SHIFTED] = Arm(f"{name}: trained on targets + {offset:g}", shifted)
    return Setup(
        arms=arms,
        plots=(
            Cells(
                "lost",
                "loss of plasticity, and what took it [of the constant predictor's loss]",
                ("lost", *(part.replace(" ", "\n") for part in PARTS)),
                {
                    one.label: tuple(partial(lost_share, arm=name, column=c) for c in ("lost", *PARTS.values()))
                    for name, one in arms.items()
                },
                ordered=True,
            ),
        ),
        table=(Column("lost", "lost"), *(Column(name, column) for name, column in PARTS.items())),
        claims=claims(settings.nets),
        deviations=(
            "An experiment of ours, with known answers.",
            "Weights are times 10 in the transformer without layer norm, times 30 elsewhere: at 30 its outputs came "
            "near 1e6 in one of seeds 0 to 2, where float32 is too coarse for the probe, and nothing could be "
            "measured. 10 was tried on seeds 100 to 102.",
            "The arm trained on shifted targets has no known answer: one direction of weights grows until it is all "
            "there is, units die and turn linear, Adam keeps large second moments; the head's mean is a small part.",
        ),
    )


EXPERIMENT = Experiment(
    id="toolbox/planted",
    title="Does disentangle find what was planted?",
    figure="ours; a test of the measurement",
    references=("lyle2024", "lyle2023"),
    tiers={
        "smoke": Settings(
            hidden=(16, 16), num_examples=100, batch_size=32, every=20, targets=2, steps=5, nets=("mlp",)
        ),
        "laptop": Settings(),
        "paper": Settings(
            data="mnist",
            hidden=(512, 512),
            channels=(64, 64),
            features=256,
            num_examples=10_000,
            targets=10,
            steps=2000,
        ),
    },
    setup=setup,
)
