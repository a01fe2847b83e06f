"""What targets with a large mean leave behind: one direction of the features that is the same for every input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pliant.functional.precision import wide


class Top(NamedTuple):
    """The singular values of a `(samples, features)` matrix, largest first, and the top left and right directions.

    float64; all zeros for a matrix of zeros, all NaN for one that is not finite.
    """

    s: Tensor
    left: Tensor
    right: Tensor


def top_direction(features: Tensor) -> Top:
    """The direction in which the features are largest.

    Source: Lyle et al. 2024, on the penultimate features of sampled inputs.

    >>> s, left, right = top_direction(torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]]))
    >>> s.tolist(), left.abs().tolist(), right.abs().tolist()
    ([4.24..., 1.0], [0.70..., 0.70..., 0.0], [1.0, 0.0])
    """
    finite = features.isfinite().all()
    x = torch.where(finite, features, 0.0).double()
    energies, directions = torch.linalg.eigh(x.T @ x)  # a third of the time of a decomposition of x itself
    s = energies.flip(0).clamp(min=0.0).sqrt()[: min(x.shape)]
    known = torch.where(finite, (s[0] > 0).to(s), torch.nan)
    right = directions[:, -1]
    left = x @ right / torch.where(s[0] > 0, s[0], 1.0)
    return Top(s * torch.where(finite, 1.0, torch.nan), left * known, right * known)


def gap(s: Tensor, eps: float) -> Tensor:
    """How many times larger the first singular value is than the second, at most 1 / eps: s_1 / max(s_2, eps s_1).

    1 / eps for a single one, 0 for zeros.

    >>> gap(torch.tensor([6.0, 2.0, 1.0]), eps=1e-5)
    tensor(3.)
    """
    second = s[1] if len(s) > 1 else torch.zeros_like(s[0])
    return s[0] / torch.where(s[0] == 0, 1.0, torch.maximum(second, eps * s[0]))


def constancy(left: Tensor) -> Tensor:
    """How equal the inputs are in the top direction: |cos(u_1, 1)| = |sum_i u_1i| / sqrt(n), 1 for all the same.

    `left` is the top left singular direction, `(samples,)`. Source: ours.

    >>> constancy(torch.tensor([0.5, 0.5, 0.5, 0.5])), constancy(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    (tensor(1.), tensor(0.5000))
    """
    return left.sum().abs() / len(left) ** 0.5


def head_share(weight: Tensor, right: Tensor) -> Tensor:
    """How much of the output layer reads the top direction: |W v_1| / |W|_F, from 0 to 1; 0 for weights of zero.

    For one output: the absolute cosine between its weights and the direction. `weight` is `(outputs, features)`.

    Source: Lyle et al. 2024. Deviation: the form for several outputs is ours.

    >>> head_share(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 0.0]))
    tensor(0.6000)
    """
    top = weight.abs().amax()
    w = (weight / torch.where(top == 0, 1.0, top)).to(right)
    return (w @ right).square().sum().sqrt() / w.square().sum().sqrt().clamp(min=1.0)


def offset(y: Tensor) -> Tensor:
    """How far targets are from zero, in their own spread: E[y] / Std[y] over all entries, signed.

    Infinite for targets that are all one number; 0 if that is 0. Source: Lyle et al. 2024.

    >>> offset(torch.tensor([9.0, 11.0]))
    tensor(10.)
    """
    y = wide(y)
    mean, std = y.mean(), y.std(correction=0)
    return mean / torch.where((std == 0) & (mean == 0), 1.0, std)
