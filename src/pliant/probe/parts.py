"""Optimizers of parts of a network, and their weight decay: how torch's parameter groups are trained in a refit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from pliant.network import Params
from pliant.optim import Moments, Optimizer
from pliant.optim.base import Around


@dataclass(frozen=True)
class Only(Around):
    """Another optimizer for some parameters; the others stay as they are, and it never sees them.

    >>> from pliant.optim import SGD
    >>> params, grads = {"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}
    >>> Only(SGD(lr=0.5), ("a",)).update(params, grads, {})
    >>> params
    {'a': tensor([0.5000]), 'b': tensor([1.])}
    """

    names: tuple[str, ...]

    def init(self, params: Params) -> Moments:
        return self.base.init(self._part(params))

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        self.base.update(self._part(params), self._part(grads), moments, generator)

    def ascent(self, params: Params, grads: Params) -> Params:
        return params | self.base.ascent(self._part(params), self._part(grads))

    def _part(self, tensors: Params) -> Params:
        return {name: tensors[name] for name in self.names}


@dataclass(frozen=True)
class Decayed(Around):
    """Another optimizer with weight decay as torch has it: in the gradient, or `decoupled`, before the step (AdamW).

    >>> from pliant.optim import SGD
    >>> params = {"w": torch.ones(1)}
    >>> Decayed(SGD(lr=0.5), 0.1, decoupled=False).update(params, {"w": torch.zeros(1)}, {})
    >>> params
    {'w': tensor([0.9500])}
    """

    decay: float
    decoupled: bool

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        values = list(params.values())
        if self.decoupled:
            torch._foreach_mul_(values, 1 - self.lr * self.decay)
        else:
            summed = torch._foreach_add([grads[name] for name in params], values, alpha=self.decay)
            grads = dict(zip(params, summed, strict=True))
        self.base.update(params, grads, moments, generator)


@dataclass(frozen=True)
class Parts(Optimizer):
    """Optimizers side by side, each for a part of the parameters; each counts its own steps.

    Its moments are those of the parts, by kind and name; `"step"` maps the number of a part to its count.

    >>> from pliant.optim import SGD
    >>> params, grads = {"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}
    >>> Parts((Only(SGD(lr=0.5), ("a",)), Only(SGD(lr=0.25), ("b",)))).update(params, grads, {})
    >>> params
    {'a': tensor([0.5000]), 'b': tensor([0.7500])}
    """

    lr: float = field(init=False, repr=False)
    parts: tuple[Only, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", self.parts[0].lr)
        if any(part.ascends for part in self.parts):
            raise ValueError(
                "expected one optimizer with SAM, whose gradient is that of all parameters, got several: write "
                "optimizer=pliant.optim.SAM(Adam(lr=...), rho=...), with one setting for all"
            )

    @property
    def elementwise(self) -> bool:
        return all(part.elementwise for part in self.parts)

    @property
    def draws(self) -> bool:
        return any(part.draws for part in self.parts)

    def init(self, params: Params) -> Moments:
        found: Moments = {}
        for i, part in enumerate(self.parts):
            for kind, group in part.init(params).items():
                found.setdefault(kind, {}).update({str(i): group[""]} if kind == "step" else group)
        return found

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        for i, part in enumerate(self.parts):
            part.update(params, grads, _of(moments, str(i), part.names), generator)

    def with_lr(self, lr: float) -> Self:
        return replace(self, parts=tuple(part.with_lr(lr) for part in self.parts))


def _of(moments: Moments, number: str, names: tuple[str, ...]) -> Moments:
    """A part's moments, in the order of its parameters."""
    found: Moments = {}
    for kind, group in moments.items():
        wanted: dict[str, Tensor] = {"": group[number]} if kind == "step" and number in group else {}
        if kind != "step" and names[0] in group:
            wanted = {name: group[name] for name in names}
        if wanted:
            found[kind] = wanted
    return found
