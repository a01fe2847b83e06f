"""Rectifiers written by hand: `x.clamp(min=0)`, `maximum(x, 0)`, `x * (x > 0)`, `where(x > 0, x, 0.01 * x)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from pliant.levels import unwrapped
from pliant.maps import functions

CLAMPS = functions("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_")
MAXIMA = functions("maximum", "max", "fmax")
COMPARISONS = functions("gt", "ge", "lt", "le", "greater", "less", "__gt__", "__ge__", "__lt__", "__le__")
CASTS = functions("float", "double", "half", "bfloat16", "to", "type_as")
PRODUCTS = functions("mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__")
WHERE = functions("where")


def rectifies(func: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call keeps what is above 0 of its first argument, by a clamp from 0 on or as the maximum with zeros.

    >>> rectifies(torch.clamp, (torch.ones(1),), {"min": 0}), rectifies(torch.clamp, (torch.ones(1), -1, 1), {})
    (True, False)
    """
    if func in CLAMPS:
        low = args[1] if len(args) > 1 else kwargs.get("min")
        return isinstance(low, (int, float)) and low == 0
    if func in MAXIMA:
        other = args[1] if len(args) > 1 else kwargs.get("other")
        return isinstance(other, Tensor) and _zero(other)
    return False


class Masks:
    """Knows the masks of a forward pass, and of which tensor each is: so that a product with it is a nonlinearity."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Any, float | None]] = {}  # by id: a tensor, what it is made of, a factor

    def note(self, func: Callable, args: tuple, result: Any) -> None:
        """Told of every call: of `x > 0`, of a mask in another dtype, of a tensor times a number."""
        if not args or not isinstance(args[0], Tensor) or not isinstance(result, Tensor):
            return
        if func in COMPARISONS and len(args) == 2 and isinstance(args[1], (int, float)):
            self._know(result, args[0], None)
        elif func in CASTS and (source := self._source(args[0], None)) is not None:
            self._know(result, source, None)
        elif func in PRODUCTS and len(args) == 2 and isinstance(args[1], (int, float)) and result is not args[0]:
            self._know(result, args[0], args[1])

    def function(self, func: Callable, args: tuple) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        """What is rectified and the call as a function of it alone, of a product with its mask or a choice by it."""
        if func in PRODUCTS and len(args) == 2 and all(isinstance(arg, Tensor) for arg in args):
            for x, mask in (args, args[::-1]):
                if self._source(mask, None) is x:
                    return x, lambda t, mask=mask: t * mask
        if func in WHERE and len(args) == 3 and isinstance(args[0], Tensor) and args[1] is self._source(args[0], None):
            mask, x, other = args
            if isinstance(other, (int, float)) or (isinstance(other, Tensor) and _zero(other)):
                return x, lambda t: torch.where(mask, t, torch.zeros_like(t) + other)
            factor = self.known[id(other)][2] if id(other) in self.known else None
            if factor is not None and self._source(other, factor) is x:
                return x, lambda t: torch.where(mask, t, factor * t)
        return None

    def _know(self, made: Tensor, source: Tensor, factor: float | None) -> None:
        self.known[id(made)] = ref(made), ref(source), factor

    def _source(self, made: Tensor, factor: float | None) -> Tensor | None:
        """What it was made of, by this factor (None: as a mask), if both are still there."""
        itself, source, by = self.known.get(id(made), (lambda: None, lambda: None, None))
        return source() if itself() is made and by == factor else None


def _zero(t: Tensor) -> bool:
    """Whether all its numbers are 0, also where a transform of `torch.func` wraps it."""
    return not unwrapped(t).any()
