"""What every optimizer is, and what several of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from pliant.network import Params

Moments = dict[str, Params]


@dataclass(frozen=True)
class Optimizer(ABC):
    """A frozen dataclass of settings; its state (`Moments`) lives with the caller.

    `Moments` maps the name of a moment to one tensor a parameter; `"step"` maps the empty name to the step count, which
    all parameters share (names of parts to those of parts that count by themselves).

    >>> @dataclass(frozen=True)
    ... class SignDescent(Optimizer):
    ...     def init(self, params):
    ...         return {}
    ...     def update(self, params, grads, moments, generator=None):
    ...         for name, p in params.items():
    ...             p.sub_(self.lr * grads[name].sign())
    >>> params = {"w": torch.ones(1)}
    >>> SignDescent(lr=0.5).update(params, {"w": torch.full((1,), 7.0)}, {})
    >>> params
    {'w': tensor([0.5000])}
    """

    reference: ClassVar[str | None] = None  # a key of refs.bib, where a publication is to be cited

    lr: float

    def __post_init__(self) -> None:
        for setting in fields(self):
            name, value = setting.name, getattr(self, setting.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not (isinstance(number, (int, float)) and math.isfinite(number) and number >= 0):
                    raise ValueError(f"expected {name} of {type(self).__name__} to be at least 0, got {value!r}")

    @property
    def elementwise(self) -> bool:
        """Whether every number is updated on its own, so that networks stacked along a leading axis may be at once."""
        return True

    @property
    def draws(self) -> bool:
        """Whether `update` draws random numbers, and so wants a generator."""
        return False

    @property
    def ascends(self) -> bool:
        """Whether the gradient is to be computed a second time, at `ascent`, and that one handed to `update`."""
        return False

    @abstractmethod
    def init(self, params: Params) -> Moments:
        """Zero moments for these parameters."""

    @abstractmethod
    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        """One step: `params` and `moments` are overwritten, and `grads` may be."""

    def ascent(self, params: Params, grads: Params) -> Params:
        """Where the second gradient is taken, for one network: new tensors; a pure function."""
        return params

    def with_lr(self, lr: float) -> Self:
        """The same optimizer with another learning rate."""
        return replace(self, lr=lr)


@dataclass(frozen=True)
class Around(Optimizer):
    """An optimizer that hands everything on to `base`, whose learning rate it has; subclasses change a part of it."""

    lr: float = field(init=False, repr=False)
    base: Optimizer

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", self.base.lr)

    @property
    def elementwise(self) -> bool:
        return self.base.elementwise

    @property
    def draws(self) -> bool:
        return self.base.draws

    @property
    def ascends(self) -> bool:
        return self.base.ascends

    def init(self, params: Params) -> Moments:
        return self.base.init(params)

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        self.base.update(params, grads, moments, generator)

    def ascent(self, params: Params, grads: Params) -> Params:
        return self.base.ascent(params, grads)

    def with_lr(self, lr: float) -> Self:
        return replace(self, base=self.base.with_lr(lr))


def noise_generator(seed: int, step: int) -> torch.Generator:
    """A generator that is a function of seed and step, on the CPU, so that every device gets the same numbers."""
    words = [seed, step, 0, 0, 1]  # interventions mix four words, so no stream of theirs is this one
    return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))


def aligned(params: Params, grads: Params) -> list[Tensor]:
    """Gradients in the order and memory layout of the parameters, none twice: autograd promises none of it."""
    found, seen = [], set()
    for name, p in params.items():
        g = grads[name]
        if g.stride() != p.stride() or g.data_ptr() in seen:
            g = torch.empty_like(p).copy_(g)
        seen.add(g.data_ptr())
        found.append(g)
    return found


def zeros(params: Params) -> Params:
    """A moment before the first step."""
    return {name: torch.zeros_like(p) for name, p in params.items()}


def clock(params: Params) -> Params:
    """The step count, in float32 as torch's fused kernels want it."""
    return {"": torch.zeros((), device=next(iter(params.values())).device)}
