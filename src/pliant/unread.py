"""Layers whose output no nonlinearity reads, as far as can be seen: two in a row, or with something between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pliant import written
from pliant.adapter import adapted, inexact, uncheckpointed
from pliant.functional.precision import real
from pliant.levels import depth
from pliant.maps import PRODUCTS
from pliant.modules import seeded
from pliant.nonlinear import elementwise_modules
from pliant.sites import Watch, arguments

PRODUCT = written.PRODUCTS | PRODUCTS  # of two activations: a gate, attention
SUM = {  # with what was skipped
    getattr(place, name)
    for place in (torch, Tensor)
    for name in (
        "add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "__isub__",
        "lerp",
    )
    if hasattr(place, name)
}  # fmt: skip
ATTENTION = {
    F.scaled_dot_product_attention, F.multi_head_attention_forward,
    F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, Tensor.softmax, Tensor.log_softmax,
}  # fmt: skip


class _Unread(Watch):
    """Cuts the graph behind every layer, and keeps what layers, nonlinearities, gates and sums read."""

    def __init__(self, composites: set[nn.Module]):
        super().__init__(composites)
        self.outputs: dict[str, list[Tensor]] = {}  # of every layer, as the beginning of a graph
        self.inputs: list[Tensor] = []
        self.read: list[Tensor] = []

    def called(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        found = super().called(func, args, kwargs)
        if depth():  # inside torch.vmap no graph can begin
            return found
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.requires_grad]
        if self.map is not None:
            assert self.features is not None
            self.inputs += [self.features] if self.features.requires_grad else []
            found = _begun(found)
            self.outputs.setdefault(self.stack[-1][0] if self.stack else "", []).append(found)
            return found.clone()  # in case it is written to
        if func in (F.embedding, F.embedding_bag):
            return _begun(found)
        gate = func in PRODUCT and len({id(t) for t in tensors}) > 1
        if gate or func in ATTENTION or (func in SUM and len({_origins(t) for t in tensors}) > 1):
            self.read += tensors
        return found

    def keep(self, x: Tensor) -> Tensor:
        return x.clone()

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        self.read += [before] if before.requires_grad else []
        return post


@torch.inference_mode(False)
@torch.enable_grad()
def unread(module: nn.Module, example: Any) -> tuple[str, ...]:
    """Paths of the layers whose output reaches another layer, but no site, no gate, no attention and no residual sum.

    Found by the graph of one forward pass: whatever has a gradient counts as a way. None where no nonlinearity is seen
    at all, which is refused elsewhere.

    >>> layers = nn.Linear(2, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)
    >>> unread(nn.Sequential(*layers), torch.ones(1, 2))
    ('0',)
    """
    module = adapted(module).requires_grad_(False)
    watch = _Unread(elementwise_modules(module))
    args, kwargs = arguments(tree_map(_data, example))
    with seeded(0), uncheckpointed(), watch.over(module):
        module(*args, **kwargs)
    if not watch.names:
        return ()
    layers = [(path, leaf) for path, leaves in watch.outputs.items() for leaf in leaves]

    def reached(ends: list[Tensor]) -> set[str]:
        if not ends or not layers:
            return set()
        total = torch.stack([real(end).double().sum() for end in ends]).sum()
        found = torch.autograd.grad(total, [leaf for _, leaf in layers], retain_graph=True, allow_unused=True)
        return {path for (path, _), gradient in zip(layers, found, strict=True) if gradient is not None}

    found = reached(watch.inputs) - reached(watch.read)
    return tuple(path for path in watch.outputs if path in found)


def _origins(t: Tensor) -> frozenset[int]:
    """The beginnings of the graph that a tensor hangs on: those of (t + |t|) / 2 are the same, a skip adds others."""
    found, left, seen = set(), [t.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (begun := getattr(node, "variable", None)) is not None:
            found.add(id(begun))
        left += [before for before, _ in node.next_functions]
    return frozenset(found)


def _begun(t: Tensor) -> Tensor:
    return t.detach().requires_grad_() if inexact(t) else t


def _data(leaf: Any) -> Any:
    return _begun(leaf).clone() if isinstance(leaf, Tensor) else leaf
