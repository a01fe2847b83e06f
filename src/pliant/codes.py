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
    found, unclear = decode(gradients(), size)
    if any(0 < unclear[name].sum() < 0.01 * units.numel() for name, units in found.items()):
        again, _ = decode(gradients(), size)
        found = {n: torch.where(units < 0, again.get(n, units), units) for n, units in found.items()}
    return found


def decode(gradients: list[Tensors], size: int) -> tuple[Tensors, Tensors]:
    """The unit that the gradients with three codes name, by parameter, and the entries that name none."""
    first, _, third = three_codes(size)
    found, unclear = {}, {}
    for name, one in gradients[0].items():
        two, three = gradients[1][name], gradients[2][name]
        scale = torch.stack([t.abs().amax() for t in (one, two, three)]).amax()
        if scale == 0:
            continue
        there = one.abs() > 1e-12 * one.abs().amax()  # the codes' places make the second gradient larger
        place = torch.where(there, two / torch.where(there, one, 1.0), 0.0)
        unit = place.round().long() - 1
        valid = there & (unit >= 0) & (unit < size) & ((place - place.round()).abs() < PLACE)
        expected = (third / first)[unit.clamp(0, size - 1)] * one
        valid &= (expected - three).abs() <= CODE * three.abs()
        if valid.any():
            found[name], unclear[name] = torch.where(valid, unit, -1), (one != 0) & ~valid
    return found, unclear


def along(code: Tensor, axis: int, ndim: int) -> Tensor:
    """Values a unit, to multiply what has units along an axis."""
    shape = [1] * ndim
    shape[axis] = len(code)
    return code.reshape(shape)


def some_half(size: int) -> Tensor:
    """A random half of the units, the same whenever there are so many."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(0)) < (size + 1) // 2
