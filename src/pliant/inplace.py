"""Calls that write in place: which tensor each overwrites, and how others are kept from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.levels import depth

WRITING = re.compile(r"[a-z]\w*[a-z\d]_|__setitem__|__i(add|sub|mul|truediv|floordiv|pow|mod|and|or|xor)__")
IN_PLACE = {getattr(place, name) for place in (torch, Tensor, F) for name in dir(place) if WRITING.fullmatch(name)}
FLAGGED = {  # where the argument `inplace` is
    function: function.__code__.co_varnames.index("inplace")
    for function in vars(F).values()
    if isinstance(function, FunctionType)
    and "inplace" in function.__code__.co_varnames[: function.__code__.co_argcount]
}


def overwritten(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a call of a torch function overwrites, its first argument, if it does.

    >>> x = torch.ones(1)
    >>> [overwritten(*call, {}) is x for call in ((Tensor.add_, (x, 1)), (F.relu, (x, True)), (F.relu, (x,)))]
    [True, True, False]
    """
    at = FLAGGED.get(func)
    if func in IN_PLACE or (at is not None and (args[at] if len(args) > at else kwargs.get("inplace"))):
        return args[0] if args else kwargs["input"]
    return None


def spared(kept: Tensor, target: Tensor) -> Tensor:
    """A tensor to keep, before another one is overwritten: a copy if they share memory."""
    return kept.clone() if memory(kept) is memory(target) else kept


def overwrite(x: Tensor, found: Tensor) -> Tensor:
    """`x` with other numbers and without its own graph, through which writing in place would send zeros."""
    if x.grad_fn is not None and not x._is_view() and not depth():
        x.detach_()
    return x.copy_(found)


def memory(t: Any) -> Any:
    """The tensor of which this is a view, or itself."""
    return t if getattr(t, "_base", None) is None else t._base
