"""Random codes of units: what a gradient with three of them says about which unit an entry belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pliant.units import Tensors

PLACE, CODE = 1e-4, 1e-6  # agreement of the codes in float64: absolute of the place, relative of the third
NOTHING = 1e-12  # of the largest gradient of a parameter
CHUNK = 1 << 14  # entries at a time: what is made of them stays in the processor's cache


def three_codes(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three random codes a unit, the ratio of the second to the first being its place: 1, 2, 3, ..."""
    generator = torch.Generator().manual_seed(size)
    first, third = (torch.rand(size, dtype=torch.float64, generator=generator) + 0.5 for _ in range(2))
    return first, first * torch.arange(1, size + 1, dtype=torch.float64), third


def owned(gradients: Callable[[], list[Tensors]], size: int) -> Tensors:
    """The unit each entry belongs to alone, by parameter, for the parameters that have any.

    Of millions of entries, a few have gradients that cancel to rounding errors: those are looked at again.
    """
    found, unclear, first = {}, {}, _by_name(gradients())
    for name, asked in first.items():
        if not any(_largest(t) for t in asked):
            continue
        units, unclear[name] = _decoded(asked, _largest(asked[0]), size)
        if (units >= 0).any():
            found[name] = units
    if any(0 < unclear[name] < 0.01 * units.numel() for name, units in found.items()):
        again = _by_name(gradients())
        for name in [name for name in found if name in again and unclear[name]]:
            places = ((found[name] < 0) & (first[name][0] != 0)).nonzero(as_tuple=True)
            asked = [g[places] for g in again[name]]
            found[name][places], _ = _decoded(asked, _largest(again[name][0]), size)
    return {name: compact(units) for name, units in found.items()}


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape, some rows at a time."""
    rows = [t if t.ndim else t[None] for t in tensors]
    few = max(1, CHUNK * len(rows[0]) // max(1, rows[0].numel()))
    return zip(*(t.split(few) for t in rows), strict=True)


def compact(codes: Tensor) -> Tensor:
    """The same codes with one index along every axis along which they stay the same.

    >>> compact(torch.tensor([[0, 0, 0], [1, 1, 1]]))
    tensor([[0],
            [1]])
    """
    for axis, length in enumerate(codes.shape):
        first = codes.narrow(axis, 0, 1)
        if length > 1 and torch.equal(codes, first.expand_as(codes)):
            codes = first
    return codes


def alone(one: Tensor, two: Tensor, units: Tensor) -> bool:
    """Whether gradients with the first two codes say of most entries of units that they belong to these alone."""
    largest, agreeing, of = _largest(one), 0, 0
    for a, b, unit in chunks(one, two, units.expand_as(one)):
        known = unit >= 0
        right = b.sub((unit + 1) * a).abs_() < PLACE * a.abs()
        agreeing += int((right & known & (a.abs() > NOTHING * largest)).sum())
        of += int(known.sum())
    return 2 * agreeing >= of


def _decoded(asked: list[Tensor], largest: Tensor, size: int) -> tuple[Tensor, int]:
    """The unit that gradients with three codes name, an entry, -1 for none, and how many of these are unclear."""
    first, _, third = three_codes(size)
    ratio, unclear = third / first, 0
    found = torch.empty(asked[0].shape, dtype=torch.int64)
    for own, one, two, three in chunks(found, *asked):
        good = one.abs() > NOTHING * largest  # the codes' places make the second gradient larger
        place = two / torch.where(good, one, 1.0)
        nearest = place.round().clamp_(1, size)
        good &= place.sub_(nearest).abs_() < PLACE
        unit = nearest.long().sub_(1).clamp_(0, size - 1)
        good &= ratio[unit].mul_(one).sub_(three).abs_() <= three.abs().mul_(CODE)
        own.copy_(torch.where(good, unit, -1))
        unclear += int(one.count_nonzero() - good.sum())
    return found, unclear


def _by_name(gradients: list[Tensors]) -> dict[str, list[Tensor]]:
    return {name: [each[name] for each in gradients] for name in gradients[0]}


def _largest(t: Tensor) -> Tensor:
    low, high = t.aminmax()
    return torch.maximum(-low, high)


def along(code: Tensor, axis: int, ndim: int) -> Tensor:
    """Values a unit, to multiply what has units along an axis."""
    shape = [1] * ndim
    shape[axis] = len(code)
    return code.reshape(shape)


def some_half(size: int) -> Tensor:
    """A random half of the units, the same whenever there are so many."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(0)) < (size + 1) // 2
