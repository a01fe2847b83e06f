"""Tensors inside the transforms of `torch.func`: how deep they are, and what is under their wrappers."""

from __future__ import annotations

from torch import Tensor
from torch._C import _functorch  # type: ignore


def depth() -> int:
    """How many function transforms such as `torch.vmap` are under way, one inside the other."""
    inner = _functorch.peek_interpreter_stack()
    return 0 if inner is None else inner.level()


def batched(t: Tensor, depth: int = 0) -> bool:
    """Whether a `torch.vmap` below a depth maps over it."""
    return _functorch.is_batchedtensor(t) and _functorch.maybe_get_level(t) > depth


def carried(t: Tensor) -> Tensor:
    """The tensor inside the wrappers of `torch.vmap`, which the graph knows."""
    return carried(_functorch.get_unwrapped(t)) if batched(t) else t


def unwrapped(t: Tensor) -> Tensor:
    """The tensor inside the wrappers of all transforms."""
    while _functorch.is_functorch_wrapped_tensor(t):
        t = _functorch.get_unwrapped(t)
    return t


def unmapped(t: Tensor, depth: int = 0) -> tuple[Tensor, list[int]]:
    """A tensor with the examples of each `torch.vmap` below a depth as first axes, and the levels of these."""
    levels = []
    while batched(t, depth):
        axis = _functorch.maybe_get_bdim(t)
        levels.append(_functorch.maybe_get_level(t))
        t = _functorch.get_unwrapped(t).movedim(axis, 0)
    return t, levels


def mapped(t: Tensor, levels: list[int]) -> Tensor:
    """The inverse of `unmapped`."""
    for level in reversed(levels):
        t = _functorch._add_batch_dim(t, 0, level)
    return t
