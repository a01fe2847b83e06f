"""What the contract runs over: tiny networks, their formulas, and what an intervention promises."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from pliant.interventions import Intervention
from tests.reference.interventions import base as naive


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
        scores = F.pad(query @ key.transpose(1, 2) / 2, (0, 1))  # with a score of 0 beside them, key.bias counts
        x = x + scores.softmax(-1)[..., :-1] @ value
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
        intervention: with all its settings; strong enough that 12 steps show it.
        naive: makes its naive transcription (a `tests.reference.interventions.base.Nothing`), given the names it
            touches.
        touches: names of the parameters that its penalty, step or event changes.
        whole: whether every entry of these changes, or only some.
        zero: the same at zero strength, where there is one.
        event: what it answers to.
        moments: what becomes of the optimizer's moments when it acts: kept, all cleared, or cleared exactly where
            parameters changed ("touched").
        shifts: names of parameters that change without their moments being cleared.
        idle: names of parameters whose gradient is 0 but for rounding, which Adam divides by itself.
        clock: what becomes of the optimizer's step count.
        vary: the same for another member of a population, with other numbers where it has any.
        warns: a pattern of the warnings that it may give on some of the nets, under some of the optimizers.
        draws: whether it draws random numbers after a step or at its event.
        nets: those it makes sense on.
        refuses: names of the interventions that, standing before it in a chain, make its `build` raise a `ValueError`.
        pointless_after: names of those that, standing before it, make its `build` warn.
        idle_beside: names of those beside which, in either order, it warns that it leaves units as they are.
        tolerance: of the comparison with the transcription, relative and absolute.
    """

    intervention: Intervention
    naive: Callable[[set[str]], naive.Nothing]
    touches: Callable[[Net], set[str]] = lambda net: set()
    whole: bool = True
    zero: Intervention | None = None
    event: str | None = None
    moments: Literal["keep", "clear", "touched"] = "keep"
    shifts: Callable[[Net], set[str]] = lambda net: set()
    idle: Callable[[Net], set[str]] = lambda net: set()
    clock: Literal["keep", "clear"] = "keep"
    vary: Callable[[Intervention, int], Intervention] = lambda intervention, member: intervention
    warns: str = ""
    draws: bool = False
    nets: tuple[str, ...] = ("MLP", "CNN", "residual", "attention")
    refuses: tuple[str, ...] = ()
    pointless_after: tuple[str, ...] = ()
    idle_beside: tuple[str, ...] = ()
    tolerance: float = 1e-9


def stronger(intervention: Intervention, member: int) -> Intervention:
    """For `vary`: another strength a member."""
    return replace(intervention, strength=intervention.strength * (1 + member))
