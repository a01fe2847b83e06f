"""What P1's experiments on classification MDPs share: settings, nets, heads, interventions, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pliant.claims import Claim, Effect
from pliant.heads import Head, Scalar, TwoHot
from pliant.interventions import (
    L2,
    Chain,
    LayerNorm,
    OptimizerReset,
    Reset,
    ShrinkAndPerturb,
    SpectralNorm,
)
from pliant.nets import CNN, MLP, ResNet18, ViT
from pliant.optim import Adam
from pliant.probe import Sines
from pliant.rl import ClassificationMDP, RandomLabel, SparseReward, TrueLabel, largest_value
from pliant.trials import Measure, Policy, ProbeLoss, ValueLearning, When
from pliant.trials.building import Net
from pliant.trials.value import TARGET_UPDATE

MDPS: dict[str, type[ClassificationMDP]] = {"true": TrueLabel, "random": RandomLabel, "sparse": SparseReward}
SAID = {
    "true": "true labels",
    "random": "random labels",
    "sparse": "sparse reward",
    "scalar": "regression",
    "two_hot": "two-hot",
    "mlp": "MLP",
    "cnn": "CNN",
    "resnet": "ResNet",
    "vit": "ViT",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "digits": "digits",
}
INTERVENTIONS = {
    "none": "no intervention",
    "reset": "reset last layer",
    "weight_decay": "weight decay",
    "spectral_norm": "spectral norm",
    "layer_norm": "layer norm",
    "perturb": "shrink and perturb",
    "optimizer": "reset optimizer",
}


@dataclass(frozen=True)
class Agents:
    """Settings of agents on classification MDPs.

    Args:
        num_images: images a seed keeps.
        hidden: widths of the MLP's hidden layers.
        channels: of the CNN's two convolutions, each with stride 2.
        cnn_hidden: widths of its hidden linear layers.
        resnet_width: of the ResNet-18's channels, as a share of the full ones.
        vit: side of a patch, features and feed-forward width of the transformer.
        batch_size: transitions an optimizer step.
        target_period: optimizer steps between updates of the target network.
        target_updates: how many of these periods.
        gamma: the discount.
        epsilon: the share of random actions.
        lr: learning rate of Adam.
        act_every: optimizer steps between actions, of as many environments side by side.
        bins: of the two-hot head, whose support reaches 5 % of 1 / (1 - gamma) beyond 0 and 1 / (1 - gamma).
        shrink: what shrink and perturb keeps of the weights.
        perturb: how much of a fresh draw it adds.
        weight_decay: strength of the L2 penalty.
        targets: of a probe.
        steps: of a probe.
        examples: of a probe.
    """

    num_images: int = 1000
    hidden: tuple[int, ...] = (128, 128)
    channels: tuple[int, ...] = (8, 16)
    cnn_hidden: tuple[int, ...] = (64, 64)
    resnet_width: float = 1 / 16
    vit: tuple[int, ...] = (8, 32, 64)
    batch_size: int = 64
    target_period: int = 100
    target_updates: int = 100
    gamma: float = 0.99
    epsilon: float = 0.1
    lr: float = 1e-3
    act_every: int = 10
    bins: int = 111
    shrink: float = 0.5
    perturb: float = 0.5
    weight_decay: float = 1e-5
    targets: int = 3
    steps: int = 400
    examples: int = 256

    @property
    def num_steps(self) -> int:
        """Optimizer steps of an agent."""
        return self.target_period * self.target_updates

    def build(self, name: str) -> Net:
        """The function that makes a network."""
        patch, features, ff = self.vit
        return {
            "mlp": partial(MLP, hidden=self.hidden),
            "cnn": partial(CNN, channels=self.channels, hidden=self.cnn_hidden),
            "resnet": partial(ResNet18, width=self.resnet_width),
            "vit": partial(ViT, patch=patch, features=features, ff=ff),
        }[name]

    def head(self, name: str) -> Head:
        """A value head."""
        largest = largest_value(self.gamma)
        return TwoHot(-0.05 * largest, 1.05 * largest, self.bins) if name == "two_hot" else Scalar()

    def chain(self, name: str) -> Chain:
        """An intervention of P1."""
        return {
            "none": Chain(),
            "reset": Chain(Reset("last", event=TARGET_UPDATE)),
            "weight_decay": Chain(L2(self.weight_decay)),
            "spectral_norm": Chain(SpectralNorm(num_iterations=3)),
            "layer_norm": Chain(LayerNorm()),
            "perturb": Chain(ShrinkAndPerturb(self.shrink, self.perturb, event=TARGET_UPDATE)),
            "optimizer": Chain(OptimizerReset(event=TARGET_UPDATE)),
        }[name]

    def probe(self, head: str, at: Sequence[int] = (), points: int = 21) -> ProbeLoss:
        """P1's probe at the start, at some steps and at the end."""
        made = Sines(head=self.head(head)) if head == "two_hot" else Sines()
        moments = tuple(dict.fromkeys((*at, self.num_steps)))
        when = When(ends=False, at=moments)
        size = min(self.examples, self.num_images)
        return ProbeLoss(made, when, self.targets, self.steps, self.batch_size, size, points)

    def trial(
        self,
        data: str,
        net: str | Net,
        *,
        mdp: str = "true",
        head: str = "scalar",
        intervention: str = "none",
        measures: Sequence[Measure] = (),
    ) -> ValueLearning:
        """An agent."""
        tenth = max(1, self.num_steps // 20)
        made = self.head(head)
        policy = Policy(When(every=tenth, ends=False), self.num_images, made)
        return ValueLearning(
            MDPS[mdp](self.num_images),
            data,
            self.build(net) if isinstance(net, str) else net,
            Adam(self.lr),
            self.num_steps,
            self.chain(intervention),
            made,
            begin=0.0 if isinstance(made, TwoHot) else None,
            gamma=self.gamma,
            epsilon=self.epsilon,
            batch_size=self.batch_size,
            target_period=self.target_period,
            fill=max(self.num_images, self.batch_size),
            envs=self.act_every,
            act_every=self.act_every,
            measures=(policy, *measures),
        )

    def deviations(self) -> tuple[str, ...]:
        """Where all of these experiments depart from P1."""
        return (
            f"P1 does not state discount, epsilon, optimizer and learning rate of its MDP agents: {self.gamma:g}, "
            f"{self.epsilon:g}, Adam, {self.lr:g}. Agents are DQN; the target network is not touched by interventions.",
            f"{self.num_steps:,} optimizer steps with a target update every {self.target_period} (P1: 1e5 to 1e6 "
            f"steps, an update every 1,000 or 10,000): {self.target_updates} updates, which values can follow.",
            f"Batches of {self.batch_size} (P1: 512 where it says so); {self.num_images:,} images a seed (P1: all of "
            f"the training set); {self.act_every} environments, each of which acts every {self.act_every} steps.",
            f"Probes: {self.targets} targets, {self.steps:,} steps, {min(self.examples, self.num_images):,} examples "
            "(P1: 10 targets, 2,000 steps, the replay), a fresh optimizer, all outputs.",
        )


def change(arm: str) -> Effect:
    """How much the probe loss rose from the start to the end."""
    return lambda r: r.last(arm, "probe_loss") - r.first(arm, "probe_loss")


def final(arm: str) -> Effect:
    """The probe loss at the end."""
    return lambda r: r.last(arm, "probe_loss")


def less(one: Effect, other: Effect) -> Effect:
    """The difference of two effects, seed by seed."""
    return lambda r: np.asarray(one(r)) - np.asarray(other(r))


def fits(arm: str, said: str) -> Claim:
    """A precondition: the probe is one that a fresh network can fit."""
    return Claim(
        f"a fresh network fits the probe to below 0.8 of the constant predictor's loss ({said})",
        lambda r: 0.8 * r.first(arm, "probe_baseline") - r.first(arm, "probe_loss"),
        ours=True,
    )
