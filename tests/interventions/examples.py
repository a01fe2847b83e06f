"""What the contract runs over: tiny networks, and one entry a registered intervention (a new one is added here)."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

import pliant.interventions
from pliant.interventions import L2, Intervention, LayerNorm, ShrinkAndPerturb, WeightNormRescale
from tests.reference import interventions as naive


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.output(torch.tanh(self.second(F.relu(self.first(x)))))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 2), nn.Conv2d(2, 3, 2)
        self.hidden, self.output = nn.Linear(12, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.second(self.first(x).relu())).flatten(1)
        return self.output(F.relu(self.hidden(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 3, padding=1)
        self.back, self.output, self.act = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3), nn.ReLU()

    def forward(self, x):
        x = self.act(self.stem(x))
        return self.output(self.act(x + self.back(self.act(self.inner(x)))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.query, self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.expand, self.act, self.contract = nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4)
        self.output = nn.Linear(4, 3)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm(x)
        query, key, value = self.query(y), self.key(y), self.value(y)
        x = x + (query @ key.transpose(1, 2) / 2).softmax(-1) @ value
        return self.output((x + self.contract(self.act(self.expand(x)))).mean(1))


@dataclass(frozen=True)
class Net:
    """A module, the same by its formulas, and by hand: its matrices, its normalisers, its hidden layers with a site."""

    module: type[nn.Module]
    forward: Callable
    shape: tuple[int, ...]
    layers: tuple[str, ...]
    hidden: tuple[str, ...]
    normalisers: tuple[str, ...] = ()
    unfed: bool = False  # whether a nonlinearity follows a sum

    @property
    def weights(self) -> set[str]:
        return {f"{layer}.weight" for layer in self.layers}

    @property
    def normaliser_params(self) -> set[str]:
        return {f"{layer}.{kind}" for layer in self.normalisers for kind in ("weight", "bias")}

    @property
    def plain_params(self) -> set[str]:
        return {f"{layer}.{kind}" for layer in self.layers for kind in ("weight", "bias")}


NETS = {
    "MLP": Net(Perceptron, naive.mlp, (4,), ("first", "second", "output"), ("first", "second")),
    "CNN": Net(
        Convolutional,
        naive.cnn,
        (1, 4, 4),
        ("first", "second", "hidden", "output"),
        ("first", "second", "hidden"),
    ),
    "residual": Net(
        Residual, naive.residual, (1, 4, 4), ("stem", "inner", "back", "output"), ("stem", "inner"), unfed=True
    ),
    "attention": Net(
        Attention,
        naive.attention,
        (2, 3),
        ("embed", "query", "key", "value", "expand", "contract", "output"),
        ("expand",),
        ("norm",),
    ),
}


@dataclass(frozen=True)
class Example:
    """An intervention and what it promises.

    Args:
        intervention: with all its settings.
        naive: its naive transcription, given the names it touches.
        touches: names of the parameters that its gradient, step or event changes, every entry of them.
        zero: the same at zero strength, where there is one.
        event: what it answers to.
        moments: what becomes of the optimizer's moments when it acts.
        vary: the same for another member of a population, with other numbers where it has any.
    """

    intervention: Intervention
    naive: Callable[[set[str]], naive.Nothing]
    touches: Callable[[Net], set[str]]
    zero: Intervention | None = None
    event: str | None = None
    moments: Literal["keep", "clear"] = "keep"
    vary: Callable[[Intervention, int], Intervention] = lambda intervention, member: intervention


def _other_strength(intervention: Intervention, member: int) -> Intervention:
    return replace(intervention, strength=intervention.strength * (1 + member))


def _other_scalars(intervention: Intervention, member: int) -> Intervention:
    return replace(intervention, shrink=0.9 - 0.2 * member, perturb=0.1 * (1 + member))


EXAMPLES = {
    "L2": Example(
        L2(0.01),
        lambda names: naive.L2(names, 0.01),
        touches=lambda net: net.plain_params,
        zero=L2(0.0),
        vary=_other_strength,
    ),
    "L2 with normalisers": Example(
        L2(0.01, normalisers=True),
        lambda names: naive.L2(names, 0.01),
        touches=lambda net: net.plain_params | net.normaliser_params,
        zero=L2(0.0, normalisers=True),
        vary=_other_strength,
    ),
    "LayerNorm": Example(LayerNorm(eps=1e-3), naive.Nothing, touches=lambda net: set()),
    "ShrinkAndPerturb": Example(
        ShrinkAndPerturb(shrink=0.6, perturb=0.3),
        lambda names: naive.ShrinkAndPerturb(names, 0.6, 0.3, clear=False),
        touches=lambda net: net.plain_params | net.normaliser_params,
        zero=ShrinkAndPerturb(shrink=1.0, perturb=0.0),
        event="task_switch",
        vary=_other_scalars,
    ),
    "ShrinkAndPerturb clearing moments": Example(
        ShrinkAndPerturb(shrink=0.6, perturb=0.3, event="target_update", moments="clear"),
        lambda names: naive.ShrinkAndPerturb(names, 0.6, 0.3, clear=True),
        touches=lambda net: net.plain_params | net.normaliser_params,
        event="target_update",
        moments="clear",
        vary=_other_scalars,
    ),
    "WeightNormRescale": Example(WeightNormRescale(), naive.WeightNormRescale, touches=lambda net: net.weights),
}


def registered() -> list[type[Intervention]]:
    """Every concrete intervention in the files of the package."""
    package = pliant.interventions
    files = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    return [
        kind
        for file in files
        for kind in vars(file).values()
        if inspect.isclass(kind)
        and issubclass(kind, Intervention)
        and kind is not Intervention
        and not inspect.isabstract(kind)
        and kind.__module__ == file.__name__
    ]
