"""What enters the nonlinearities: per unit, over the samples of a `(samples, units)` matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pliant.functional.precision import wide
from pliant.functional.units import centred


class Moments(NamedTuple):
    """Mean and variance of each unit's preactivation over the samples, `(units,)` each: for histograms over units."""

    mean: Tensor
    variance: Tensor


def moments(pre: Tensor) -> Moments:
    """Mean and (biased) variance of each unit's preactivation over the samples.

    Source: Lyle et al. 2024, which shows their histograms over units at several times after a task switch.

    >>> mean, variance = moments(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> mean.tolist(), variance.tolist()
    ([2.0, 0.0], [1.0, 0.0])
    """
    deviation, size = centred(pre)
    return Moments(wide(pre).mean(0), size.square() * deviation.square().mean(0))


def z_shift(pre: Tensor, before: Tensor) -> Tensor:
    """How far each unit's mean preactivation moved, in standard deviations it had: |mu_now - mu_before| / std_before.

    NaN for a unit that was constant before. `pre` is `(samples, units)`, `before` may have other samples.

    Source: ours; the papers look at histograms.

    >>> z_shift(torch.tensor([[5.0, 1.0], [7.0, 2.0]]), torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    tensor([4., nan])
    """
    deviation, size = centred(before)
    std = size * deviation.square().mean(0).sqrt()
    moved = (wide(pre).mean(0) - wide(before).mean(0)).abs()
    return torch.where(std == 0, torch.nan, moved / torch.where(std == 0, 1.0, std))


def one_sided(pre: Tensor) -> Tensor:
    """Units whose preactivation has one sign on all samples, 0 counting as either: their nonlinearity's kink is out of
    reach.

    A ReLU that is dead or always on is one-sided. Source: ours, as a scalar for the histograms of Lyle et al. 2024.

    >>> one_sided(torch.tensor([[1.0, -1.0, 1.0], [2.0, -2.0, -1.0]]))
    tensor([ True,  True, False])
    """
    return ((pre >= 0).all(0) | (pre <= 0).all(0)) & (len(pre) > 0)


def sign_agreement(moves: Tensor) -> Tensor:
    """How far each unit's preactivation moves the same way on every sample: |E_x sign(move)|, from 0 to 1.

    `moves` is `(samples, units)`; right after a task switch nearly all of a unit's signs are equal. Source: Lyle et al.
    2024, which shows a histogram of signs; the scalar is ours.

    >>> sign_agreement(torch.tensor([[0.1, 1.0], [2.0, -1.0], [3.0, 5.0], [1.0, -4.0]]))
    tensor([1., 0.])
    """
    return wide(moves).sign().mean(0).abs()
