"""Random codes of units: what a gradient with three of them says about which unit an entry belongs to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pliant.units import Tensors

PLACE, CODE = 1e-4, 1e-6  # agreement of the codes in float64: absolute of the place, relative of the third


def three_codes(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three random codes a unit, the ratio of the second to the first being its place: 1, 2, 3, ..."""
    generator = torch.Generator().manual_seed(size)
    first, third = (torch.rand(size, dtype=torch.float64, generator=generator) + 0.5 for _ in range(2))
    return first, first * torch.arange(1, size + 1, dtype=torch.float64), third


def owned(gradients: Callable[[], list[Tensors]], size: int) -> Tensors:
    """The unit each entry belongs to alone, by parameter, for the parameters that have any.

    Of millions of entries, a few have gradients that cancel to rounding errors: those are looked at again.
    """
    found, unclear = {}, {}
    for name, (one, two, three) in _by_name(gradients()).items():
        if all(_largest(t) == 0 for t in (one, two, three)):
            continue
        units = _decoded(one, two, three, _largest(one), size)
        if (units >= 0).any():
            found[name], unclear[name] = units, (units < 0) & (one != 0)
    if any(0 < unclear[name].sum() < 0.01 * units.numel() for name, units in found.items()):
        again = _by_name(gradients())
        for name in [name for name in found if name in again and unclear[name].any()]:
            places = unclear[name].nonzero(as_tuple=True)
            one, two, three = (g[places] for g in again[name])
            found[name][places] = _decoded(one, two, three, _largest(again[name][0]), size)
    return found


def _decoded(one: Tensor, two: Tensor, three: Tensor, largest: Tensor, size: int) -> Tensor:
    """The unit that the gradients with three codes name, an entry; -1 for none. Few passes: entries are millions."""
    first, _, third = three_codes(size)
    nothing = ~(one.abs() > 1e-12 * largest)  # the codes' places make the second gradient larger
    place = (two / one.masked_fill(nothing, 1.0)).masked_fill_(nothing, 0.0)
    nearest = place.round()
    unit = nearest.long().sub_(1)
    nothing |= (unit < 0) | (unit >= size) | ~(place.sub_(nearest).abs_() < PLACE)
    expected = (third / first)[unit.clamp(0, size - 1)].mul_(one)
    nothing |= ~(expected.sub_(three).abs_() <= three.abs().mul_(CODE))
    return unit.masked_fill_(nothing, -1)


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
