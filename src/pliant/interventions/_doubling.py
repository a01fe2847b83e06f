"""Nonlinearities that return two numbers a unit, and the layers that read them resized."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from pliant.adapter import adapted
from pliant.interventions._building import TRANSPOSED, Among, prepared
from pliant.interventions._nonlinearities import Call, Replacement, check_replaced, nonlinearity_calls, replaced
from pliant.interventions.infer import Heads
from pliant.modules import seeded
from pliant.poking import find_units
from pliant.sites import LAYERS, arguments
from pliant.units import UnitGroup
from pliant.words import first_line

Sizes = dict[str, tuple[int, ...]]


class Doubled(nn.Module):
    """Several functions of each unit, one behind the other along the axis of the units.

    Args:
        parts: the functions by name.
        axes: the axis of the units, from the end, by the number of axes of the input.

    >>> both = Doubled({"positive": Replacement("relu"), "negative": Replacement("relu", flip=True)}, {2: -1})
    >>> both(torch.tensor([[-2.0, 3.0]]))
    tensor([[0., 3., 2., 0.]])
    """

    def __init__(self, parts: dict[str, Replacement], axes: dict[int, int]):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        axis = self.axes.get(x.ndim, next(iter(self.axes.values())))  # of a size not seen at the build: as elsewhere
        return torch.cat([part(x) for part in self.children()], axis)


def doubled(
    method: str,
    module: nn.Module,
    example: Any,
    among: Among,
    parts: Callable[[], dict[str, Replacement]],
    equal_parameters: bool,
) -> nn.Module:
    """A copy with two functions in place of every hidden nonlinearity, and twice the inputs where they are read.

    With `equal_parameters`, all hidden layers shrink by one factor, so that there are as many parameters as before, or
    a few less. Layers that change their size are drawn anew from their initial distribution, a function of the seed of
    the global stream; the stream is kept.
    """
    plain = prepared(method, module)
    if any(isinstance(layer, Heads) for layer in plain.children()):
        raise ValueError(
            f"{method} would change what InFeR's heads read: write Chain({method}(), InFeR()) in this order"
        )
    groups = _groups(method, plain, example, among)
    axes = {site: axis for units in groups for site, axis in units.sites}

    def make(calls: list[Call]) -> nn.Module:
        found = {(call.ndim, axes[call.site] - call.ndim) for call in calls}
        if len({ndim for ndim, _ in found}) < len(found):
            sites = ", ".join(call.site for call in calls)
            raise ValueError(
                f"{method} cannot tell where the units of {sites} are: write an nn.Module of its own for each"
            )
        return Doubled(parts(), dict(found))

    built, calls = replaced(method, plain, example, lambda call: call.site in axes, make)
    before = {name: tuple(p.shape) for name, p in built.named_parameters()}
    sizes = {units.name: units.size for units in groups}
    if equal_parameters:
        sizes = _fitting(method, groups, before)
    after = _shapes(method, groups, sizes, before)
    for units in groups:
        _resize_normalisers(built, units, sizes[units.name])
    changed = dict.fromkeys(name.rpartition(".")[0] for name, shape in after.items() if shape != before[name])
    with seeded(torch.initial_seed()):  # other draws where the caller's seed is another
        for path in changed:
            _resize(method, built, path, after)
    _check(method, plain, built, example, 2 * len(calls))
    return built


def _groups(method: str, module: nn.Module, example: Any, among: Among) -> list[UnitGroup]:
    """The units to double."""
    kind = type(module).__name__
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no weights feed the units of")  # an error here
        found = {site: units for units in find_units(module, example) for site, _ in units.sites}
    chosen: list[UnitGroup] = []
    for call in nonlinearity_calls(module, example)[0]:
        if not call.within(among):
            continue
        units = found.get(call.site)
        if units is None or not units.exact:
            why = (
                "no weights feed them one by one"
                if units is None
                else "more than linear or convolution layers read them"
            )
            raise ValueError(f"{method} cannot double the units of {call.site!r} of {kind}: {why}")
        chosen += [units] if units not in chosen else []
    if not chosen:
        raise ValueError(f"{method} found no hidden nonlinearity in {kind}")
    return chosen


def _shapes(method: str, groups: list[UnitGroup], sizes: dict[str, int], before: Sizes) -> Sizes:
    """The shapes of all parameters with so many units in each group."""
    after = {name: list(shape) for name, shape in before.items()}
    for units in groups:
        n = sizes[units.name]
        for entries, new in ((units.incoming | units.normaliser, n), (units.outgoing, 2 * n)):
            for name, owned in entries.items():
                axis, length = _axis(method, name, owned.codes)
                after[name][axis] += length // units.size * (new - units.size)
    return {name: tuple(shape) for name, shape in after.items()}


def _axis(method: str, name: str, codes: Tensor) -> tuple[int, int]:
    """The axis of a parameter along which the units run, and how long they run along it."""
    for axis in range(codes.ndim):
        rows = codes.movedim(axis, 0).flatten(1) if codes.ndim > 1 else codes.unsqueeze(1)
        if torch.equal(rows, rows[:, :1].expand_as(rows)):
            return axis, int((rows[:, 0] >= 0).sum())
    raise ValueError(f"{method} cannot resize {name}: its entries do not belong to units along one axis")


def _fitting(method: str, groups: list[UnitGroup], before: Sizes) -> dict[str, int]:
    """The largest sizes, all by one factor smaller, at which the parameters are not more than before."""

    def scaled(factor: float) -> dict[str, int]:
        return {units.name: max(1, round(factor * units.size)) for units in groups}

    def number(shapes: Sizes) -> int:
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        fits = number(_shapes(method, groups, scaled(middle), before)) <= number(before)
        low, high = (middle, high) if fits else (low, middle)
    return scaled(low)


def _resize(method: str, built: nn.Module, path: str, shapes: Sizes) -> None:
    """A layer's parameters in their new shapes, drawn anew."""
    layer = built.get_submodule(path)
    known = isinstance(layer, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm, nn.Linear))
    convolution = isinstance(layer, (*LAYERS, *TRANSPOSED)) and not isinstance(layer, nn.Linear)
    if not known and not (convolution and layer.groups == 1):
        what = type(layer).__name__ if any(True for _ in layer.children()) else layer
        raise ValueError(f"{method} cannot resize {path}, which is {what}")
    for name, p in layer.named_parameters(recurse=False):
        shape = shapes[f"{path}.{name}".lstrip(".")]
        layer.register_parameter(name, nn.Parameter(p.new_empty(shape), requires_grad=p.requires_grad))
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif convolution:
        sizes = ("in_channels", "out_channels") if isinstance(layer, TRANSPOSED) else ("out_channels", "in_channels")
        vars(layer).update(zip(sizes, layer.weight.shape, strict=False))  # type: ignore[arg-type]
    layer.reset_parameters()  # type: ignore[operator]


def _resize_normalisers(built: nn.Module, units: UnitGroup, size: int) -> None:
    """How many units the normalisers behind the layers that feed them expect."""
    paths = {name.rpartition(".")[0] for name in (*units.incoming, *units.normaliser)}
    for path in paths:
        for layer in built.get_submodule(path).modules():
            if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
                layer.normalized_shape = (size,)
            elif isinstance(layer, nn.GroupNorm):
                layer.num_channels = size
            elif isinstance(layer, _BatchNorm):
                layer.num_features = size


def _check(method: str, plain: nn.Module, built: nn.Module, example: Any, number: int) -> None:
    """Runs what was built: it must give outputs of the same shapes."""

    def shapes(module: nn.Module) -> Any:
        args, kwargs = arguments(example)
        with torch.no_grad(), seeded(0):
            return tree_map(lambda t: t.shape if isinstance(t, Tensor) else t, adapted(module)(*args, **kwargs))

    kind = type(plain).__name__
    try:
        same = shapes(plain) == shapes(built)
    except RuntimeError as error:
        raise ValueError(f"{method} cannot be built into {kind}: {first_line(error)}") from error
    if not same:
        raise ValueError(f"{method} cannot be built into {kind}: its outputs would change their shapes")
    check_replaced(method, built, example, number)
