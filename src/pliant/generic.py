"""A module at a generic point: random parameters and inputs, and passes over it that differ in what is asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from pliant.adapter import adapted, aliases, inexact, tensors_of
from pliant.codes import along, some_half
from pliant.cutting import Cut, Point, Tensors, noise
from pliant.modules import NORMALISERS
from pliant.nets.keyed import Keyed
from pliant.nonlinear import elementwise_modules
from pliant.sites import arguments

FEW, MANY = (1, 2), 8  # examples that may do, and enough to see whether they do
PATIENCE = 5.0  # seconds until something is said


class Generic:
    """A module in train mode and double precision, at a generic point.

    Attributes:
        params: random numbers.
        normalisers: names of the scales and offsets of normalisers.
        x: random inputs.
        point: what all passes share.
    """

    def __init__(self, module: nn.Module, example: Any):
        self.module = _in_training(module)
        self.composites = elementwise_modules(self.module)
        self.params = {n: p.requires_grad_() for n, p in self.drawn().items()}
        self.buffers, self.aliases = dict(self.module.named_buffers()), aliases(self.module)
        self.normalisers = {
            f"{path}.{name}".lstrip(".")
            for path, layer in self.module.named_modules()
            if "Norm" in type(layer).__name__
            for name, _ in layer.named_parameters(recurse=False)
        }
        self.started, self.patient = time.monotonic(), True
        self._weights: dict[tuple[int, str], Tensor] = {}
        self.x, self.point = self.few(example)

    def drawn(self) -> Tensors:
        """Random parameters, of which sums over inputs are of about size 1."""
        return {
            name: torch.randn(p.shape, dtype=torch.float32)  # a quarter of the time
            .double()
            .div_(max(1, p.numel() // max(1, len(p))) ** 0.5 if p.ndim > 1 else 1.0)
            for name, p in self.module.named_parameters()
            if p.is_floating_point()
        }

    def run(self, params: Tensors | None = None, leaves: Tensors | None = None, freeze: bool = True) -> Cut:
        """One forward pass, cut at every site, with its outputs among its pieces."""
        cut = Cut(self.composites, self.point, leaves or {}, freeze)
        self.called(cut, self.x, params or {})
        return cut

    def axes(self) -> dict[str, int]:
        """Where the units of each site run: along the channels or last axis of the layers that feed it.

        Found by cutting behind the layers, too: where some indices of an axis and the others move with other units of
        every layer. Where there is no such axis, it is that of the latest layer.
        """
        cut = Cut(self.composites, self.point, {}, freeze=True, mapping=True)
        self.called(cut, self.x, {})
        found = {}
        for site, usual in cut.axes.items():
            pre = cut.pieces[site]
            candidates = dict.fromkeys([usual, pre.ndim - 1, *range(1, pre.ndim)])
            found[site] = next((axis for axis in candidates if self.apart(pre, axis, cut.layers)), usual)
        return found

    def apart(self, pre: Tensor, axis: int, layers: list[tuple[Tensor, int]]) -> bool:
        """Whether indices of an axis are each made of other units of the layers behind it."""
        if pre.shape[axis] < 2:
            return False
        mask, told = some_half(pre.shape[axis]), False
        tensors = {str(i): layer for i, (layer, _) in enumerate(layers)}
        ones, others = (
            self.gradient((pre * noise(pre.shape) * along(half.double(), axis, pre.ndim)).sum(), tensors)
            for half in (mask, ~mask)
        )
        for i in ones.keys() & others.keys():
            unit = layers[int(i)][1]
            one, other = ((g != 0).movedim(unit, -1).flatten(0, -2).any(0) for g in (ones[i], others[i]))
            if (one & other).any():
                return False
            told |= bool(one.any() and other.any())
        return told

    def called(self, cut: Cut, x: Any, params: Tensors) -> Any:
        """The output of a forward pass as `cut` lets it be."""
        if self.patient and time.monotonic() - self.started > PATIENCE:
            self.patient = False
            print(f"pliant: finding the units of {type(self.module).__name__}, once", file=sys.stderr, flush=True)
        torch.default_generator.manual_seed(0)  # the same draws in every pass
        buffers = {name: b.clone() for name, b in self.buffers.items()}
        tensors = {**self.params, **buffers, **params}
        tensors |= {alias: tensors[name] for alias, name in self.aliases.items() if name in tensors}
        with cut.over(self.module):
            output = functional_call(self.module, tensors, *arguments(tree_map(_own, x)), tie_weights=False)
        leaves = tensors_of(output)
        cut.pieces |= {f"output {i}": t for i, t in enumerate(leaves) if t.is_floating_point()}
        return leaves

    @torch.no_grad()
    def few(self, example: Any) -> tuple[Any, Point]:
        """Random inputs of the same kind, and what the first pass over them fixes.

        One or two examples where each is a matter of its own. All of them where that is not so: the nodes of a graph,
        or examples that decide which nonlinearities are called.
        """
        whole, rows, scales = _generic(example), _rows(example), []

        def seen(x: Any, freeze: bool = True, drawn: bool = False) -> tuple[Point, Cut, list[Tensor]]:
            cut = Cut(self.composites, Point(scales=scales, drawn=drawn), None, freeze)
            return cut.point, cut, self.called(cut, x, {})

        def first(x: Any, point: Point) -> tuple[Any, Point]:
            return x, (seen(x, drawn=True)[0] if point.decisions else point).with_leaves()

        for num in (num for num in FEW if num < rows):
            try:  # a part may be no input to the module
                some, many = (_first(whole, rows, min(rows, n)) for n in (num, MANY))
                _, cut, outputs = seen(many)
                point, part, found = seen(some)
                if _independent(found, outputs, num) and _in_proportion(part, cut, num, min(rows, MANY)):
                    seen(some, freeze=False)
                    return first(some, point)
            except Exception:
                continue
        return first(whole, seen(whole)[0])

    def total(self, cut: Cut, salt: int = 0) -> Tensor:
        """All pieces as one generic number."""
        return torch.stack([(piece * self.weight(salt, name, piece)).sum() for name, piece in cut.pieces.items()]).sum()

    def weight(self, salt: int, name: str, piece: Tensor) -> Tensor:
        if (salt, name) not in self._weights:
            self._weights[salt, name] = noise(piece.shape, 1000 + len(self._weights))
        return self._weights[salt, name]

    def gradient(self, of: Tensor, tensors: Tensors) -> Tensors:
        """Gradients by name, of those that there are."""
        if not tensors or not of.requires_grad:
            return {}
        found = torch.autograd.grad(of, list(tensors.values()), retain_graph=True, allow_unused=True)
        return {name: g for name, g in zip(tensors, found, strict=True) if g is not None}


def _in_training(module: nn.Module) -> nn.Module:
    """A copy in double precision and train mode, but for batch normalisation; nothing drops."""
    module = adapted(module).cpu().double()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_complex():
            tensor.data = tensor.data.to(torch.complex128)
    still = [layer for layer in module.modules() if isinstance(layer, NORMALISERS) and not layer.training]
    module.train()
    for layer in still:
        layer.eval()
    for layer in module.modules():
        if isinstance(layer, Keyed):
            layer.key = torch.empty(0, dtype=torch.int64)
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
    return module


def _generic(example: Any) -> Any:
    """Random inputs of the same kind and shape."""

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if inexact(x):
            return torch.randn(x.shape, dtype=torch.complex128 if x.is_complex() else torch.float64)
        return x.cpu()

    return tree_map(one, example)


def _own(value: Any) -> Any:
    """A copy, which may be written into; with a graph, which tells what is made of inputs from constants."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().requires_grad_().clone()
    return value.clone() if isinstance(value, Tensor) else value


def _rows(example: Any) -> int:
    """How many examples there are: the length of the first input."""
    return next((len(x) for x in tree_leaves(example) if isinstance(x, Tensor) and x.ndim), 0)


def _first(example: Any, rows: int, num: int) -> Any:
    """Some examples; of several inputs, those as long as the first are taken to run over the same examples."""
    return tree_map(lambda x: x[:num] if isinstance(x, Tensor) and x.ndim and len(x) == rows else x, example)


def _independent(some: list[Tensor], many: list[Tensor], num: int) -> bool:
    """Whether some examples alone say the same as among many."""
    pairs = [(a, b) for a, b in zip(some, many, strict=True) if a.ndim]
    return bool(pairs) and all(
        len(a) == num and a.shape[1:] == b.shape[1:] and torch.allclose(a.double(), b[:num].double(), equal_nan=True)
        for a, b in pairs
    )


def _in_proportion(some: Cut, many: Cut, num: int, of: int) -> bool:
    """Whether some examples bring as many samples to every site as they should."""
    sizes, all_sizes = ({name: cut.pieces[name].numel() for name in cut.axes} for cut in (some, many))
    return sizes.keys() == all_sizes.keys() and all(n and n * of == all_sizes[name] * num for name, n in sizes.items())


@contextmanager
def in_double() -> Iterator[None]:
    """What a forward pass makes itself is float64, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
