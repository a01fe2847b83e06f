"""Situations in which networks lose plasticity for different reasons, eight cures of each, and which one is advised.

This file is the protocol of `toolbox/prescription`: it was committed, with the analysis in its neighbour, before the
first attribution in any of these situations was computed. Strengths are those of `toolbox/cures`. Rates and lengths
are such that networks without a cure lose the ability to learn (seed 100, losses alone).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from math import log
from typing import Protocol

from torch import nn

from pliant.causes import REPAIRS, Norm, OptimizerState, OutputLayer, TargetScale, Units
from pliant.heads import Head, HLGauss, Scalar
from pliant.interventions import (
    L2,
    Chain,
    Intervention,
    LayerNorm,
    NormalizeAndProject,
    OptimizerReset,
    ReDo,
    Reset,
    SoftShrinkAndPerturb,
    WeightNormRescale,
)
from pliant.nets import CNN, MLP
from pliant.optim import SGD, Adam, Optimizer, RMSProp
from pliant.papers.agents import Agents
from pliant.papers.lyle2024.swiss_cheese import MECHANISMS
from pliant.probe import FreshLabels, Probe, Sines
from pliant.tasks import OffsetNoise, PermutedClasses, PermutedPixels, RandomLabels, Task
from pliant.trials import Fit, Mechanisms, Supervised, ValueLearning, When
from pliant.trials.building import Net
from pliant.trials.supervised import SWITCH
from pliant.trials.value import TARGET_UPDATE

PROJECTED = "nap"


@dataclass(frozen=True)
class Cure:
    """One way to train anew: interventions, the optimizer tuned as in P1, or a value head over bins.

    >>> Cure("L2", (L2(1e-3),)).tuned
    False
    """

    label: str
    interventions: tuple[Intervention, ...] = ()
    tuned: bool = False
    bins: bool = False


PRESCRIBED = {  # by mechanism, for networks without layer norm and with it
    Units.name: ("layer_norm", "redo"),
    Norm.name: ("l2", "rescale"),
    OutputLayer.name: ("reset_last", "reset_last"),
    TargetScale.name: ("bins", "bins"),
    OptimizerState.name: ("optimizer_reset", "optimizer_reset"),
}


class Sizes(Protocol):
    """How large a situation is: see the settings of `toolbox/prescription`."""

    @property
    def data(self) -> str: ...
    @property
    def hidden(self) -> tuple[int, ...]: ...
    @property
    def channels(self) -> tuple[int, ...]: ...
    @property
    def num_examples(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def every(self) -> int: ...
    @property
    def num_tasks(self) -> int: ...
    @property
    def target_period(self) -> int: ...
    @property
    def target_updates(self) -> int: ...
    @property
    def targets(self) -> int: ...
    @property
    def steps(self) -> int: ...


@dataclass(frozen=True)
class Situation:
    """A network, its optimizer and what it learns.

    Args:
        label: in words.
        lr: learning rate.
        stream: `"half"`, half of all labels are drawn again at each switch; `"classes"` and `"pixels"`, the true
            classes under new names, or with permuted pixels; `"offset"`, normal targets around a mean that grows from 0
            to 30; `"true"` and `"random"`, an agent in the classification MDP of P1 of that name.
        net: `"mlp"` or `"cnn"`.
        activation: its nonlinearity.
        normed: whether layer norm is part of it.
        optimizer: adam, rmsprop or sgd (momentum 0.9).

    >>> SITUATIONS["gelu"].agent, SITUATIONS["agent"].values
    (False, True)
    """

    label: str
    lr: float = 1e-2
    stream: str = "half"
    net: str = "mlp"
    activation: type[nn.Module] = nn.ReLU
    normed: bool = False
    optimizer: str = "adam"

    @property
    def agent(self) -> bool:
        """Whether an agent learns values in an MDP."""
        return self.stream in ("true", "random")

    @property
    def values(self) -> bool:
        """Whether numbers are learned, whose scale is a mechanism, too."""
        return self.agent or self.stream == "offset"

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What can have taken its plasticity."""
        return tuple(repair.name for repair in (REPAIRS if self.values else MECHANISMS))

    @property
    def column(self) -> str:
        """The loss that is compared: of the tasks, or of an agent's probe."""
        return "probe_loss" if self.agent else "error" if self.values else "loss"

    @property
    def constant(self) -> float:
        """The best constant predictor's loss, beyond which nothing is left to lose; of tasks."""
        return 1.0 if self.values else log(10)

    def prescribed(self, mechanism: str) -> str:
        """The cure of a mechanism: the first that pliant names, what it leaves to cure where layer norm is there.

        >>> SITUATIONS["relu"].prescribed("units"), SITUATIONS["norm"].prescribed("units")
        ('layer_norm', 'redo')
        """
        return PRESCRIBED[mechanism][self.normed]

    def cures(self, sizes: Sizes) -> dict[str, Cure]:
        """Eight cures by name."""
        event = TARGET_UPDATE if self.agent else SWITCH
        every = sizes.target_period if self.agent else sizes.every
        first = (
            {PROJECTED: Cure("Normalize-and-Project", (NormalizeAndProject(scales="project"),))}
            if self.normed
            else {"layer_norm": Cure("layer norm", (LayerNorm(),))}
        )
        last = (
            {"bins": Cure("HL-Gauss head", bins=True)}
            if self.values
            else {"shrink": Cure("soft shrink and perturb", (SoftShrinkAndPerturb(),))}
        )
        return {
            **first,
            "redo": Cure("ReDo", (ReDo(tau=0.025, every=every),)),
            "l2": Cure("L2", (L2(1e-3),)),
            "rescale": Cure("weight-norm rescaling", (WeightNormRescale(),)),
            "reset_last": Cure("reset last layer", (Reset("last", event=event),)),
            "optimizer_reset": Cure("optimizer reset", (OptimizerReset(event=event),)),
            "tuned": Cure("tuned optimizer (P1)", tuned=True),
            **last,
        }

    def treatments(self, sizes: Sizes) -> dict[str, Cure]:
        """No cure, the eight, the two cures of each pair of mechanisms, and layer norm with L2, by name."""
        cures = self.cures(sizes)
        of_mechanisms = [self.prescribed(mechanism) for mechanism in self.mechanisms]
        pairs = {pair(a, b): _both(cures[a], cures[b]) for a, b in combinations(of_mechanisms, 2)}
        return {"none": Cure("no cure"), **cures, **pairs}

    @property
    def fixed(self) -> str:
        """The strong baseline, layer norm with L2."""
        return "l2" if self.normed else pair("layer_norm", "l2")

    def trial(self, sizes: Sizes, name: str) -> Supervised | ValueLearning:
        """The situation with one of the `treatments`; without a cure, causes are asked for at the end."""
        cure = self.treatments(sizes)[name]
        norm = (LayerNorm(),) if self.normed and name != PROJECTED else ()
        chain, optimizer = Chain(*norm, *cure.interventions), self._optimizer(cure.tuned)
        return (self._agent if self.agent else self._supervised)(sizes, chain, optimizer, cure.bins, name == "none")

    def _supervised(self, sizes: Sizes, chain: Chain, optimizer: Optimizer, bins: bool, asked: bool) -> Supervised:
        head = (HLGauss(-10.0, 40.0, 101) if bins else Scalar()) if self.values else None
        fit = Fit(When(every=max(1, sizes.every // 10)), sizes.num_examples, head)
        causes = (self._causes(sizes, sizes.num_tasks - 1, sizes.num_examples),) if asked else ()
        return Supervised(
            self._task(sizes), sizes.data, self._net(sizes), optimizer, chain, head, measures=(fit, *causes)
        )

    def _agent(self, sizes: Sizes, chain: Chain, optimizer: Optimizer, bins: bool, asked: bool) -> ValueLearning:
        size = min(256, sizes.num_examples)
        agents = Agents(
            num_images=sizes.num_examples, batch_size=sizes.batch_size, target_period=sizes.target_period,
            target_updates=sizes.target_updates, targets=sizes.targets, steps=sizes.steps, examples=size,
        )  # fmt: skip
        head: Head = HLGauss(-5.0, 105.0, 111) if bins else Scalar()
        probe = agents.probe("scalar")
        probe = replace(probe, probe=Sines(head=head)) if bins else probe
        causes = (self._causes(sizes, sizes.target_updates - 1, size),) if asked else ()
        trial = agents.trial(sizes.data, self._net(sizes), mdp=self.stream, measures=(probe, *causes))
        policy = replace(trial.measures[0], head=head)  # type: ignore[type-var]
        return replace(
            trial, chain=chain, optimizer=optimizer, head=head, begin=0.0 if bins else None,
            measures=(policy, *trial.measures[1:]),
        )  # fmt: skip

    def _causes(self, sizes: Sizes, task: int, examples: int) -> Mechanisms:
        probe: Probe = Sines() if self.values else FreshLabels(10)
        repairs = REPAIRS if self.values else MECHANISMS
        return Mechanisms(
            probe, repairs, When(tasks=(task,)), sizes.targets, sizes.steps, sizes.batch_size, min(512, examples)
        )

    def _net(self, sizes: Sizes) -> Net:
        if self.net == "cnn":
            return partial(CNN, channels=sizes.channels, hidden=sizes.hidden[:1], activation=self.activation)
        return partial(MLP, hidden=sizes.hidden, activation=self.activation)

    def _task(self, sizes: Sizes) -> Task:
        shape = sizes.num_examples, sizes.batch_size, sizes.every, sizes.num_tasks
        if self.stream == "offset":
            return OffsetNoise.growing(
                30.0, num_examples=shape[0], batch_size=shape[1], every=shape[2], num_tasks=shape[3]
            )
        if self.stream == "half":
            return RandomLabels(*shape, fraction=0.5)
        return {"classes": PermutedClasses, "pixels": PermutedPixels}[self.stream](*shape)

    def _optimizer(self, tuned: bool) -> Optimizer:
        """P1's tuning: second moments that forget as fast as the first, and a floor under their root."""
        if self.optimizer == "sgd":
            return SGD(self.lr, momentum=0.0 if tuned else 0.9)
        if self.optimizer == "rmsprop":
            return RMSProp(self.lr, alpha=0.9, eps_root=1e-3) if tuned else RMSProp(self.lr)
        return Adam(self.lr, betas=(0.9, 0.9), eps=1e-9, eps_root=1e-3) if tuned else Adam(self.lr)


def pair(one: str, other: str) -> str:
    """The name of two cures together.

    >>> pair("layer_norm", "l2")
    'layer_norm+l2'
    """
    return f"{one}+{other}"


def _both(one: Cure, other: Cure) -> Cure:
    """Two cures at once; normalisers are built in first."""
    made = sorted((*one.interventions, *other.interventions), key=lambda i: not isinstance(i, LayerNorm))
    return Cure(f"{one.label} + {other.label}", tuple(made), one.tuned or other.tuned, one.bins or other.bins)


SITUATIONS: Mapping[str, Situation] = {
    "relu": Situation("ReLU"),
    "slow": Situation("ReLU, Adam 3e-3", lr=3e-3),
    "gelu": Situation("GELU", activation=nn.GELU),
    "tanh": Situation("tanh, Adam 3e-2", lr=3e-2, activation=nn.Tanh),
    "norm": Situation("layer norm, Adam 3e-2", lr=3e-2, normed=True),
    "norm_gelu": Situation("layer norm, GELU", lr=2e-2, activation=nn.GELU, normed=True),
    "cnn": Situation("CNN", net="cnn"),
    "rmsprop": Situation("RMSProp 5e-3", lr=5e-3, optimizer="rmsprop"),
    "sgd": Situation("SGD with momentum", lr=0.1, optimizer="sgd"),
    "classes": Situation("classes renamed", stream="classes"),
    "pixels": Situation("pixels permuted", stream="pixels"),
    "norm_pixels": Situation("pixels permuted, layer norm", lr=3e-2, stream="pixels", normed=True),
    "offset": Situation("regression, growing mean", lr=3e-3, stream="offset"),
    "norm_offset": Situation("regression, growing mean, layer norm", lr=3e-3, stream="offset", normed=True),
    "agent": Situation("agent, true labels", lr=1e-3, stream="true"),
    "agent_random": Situation("agent, random labels", lr=1e-3, stream="random"),
}
