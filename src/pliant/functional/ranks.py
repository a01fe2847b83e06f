"""How many directions a feature matrix uses: six definitions of rank on one list of singular values.

The names are apart because the numbers are: for one and the same matrix they can read 3, 23 and 246. All are about the
matrix as it is (not centred), and all are 0 for a matrix of zeros. They are floats, NaN when the singular values are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.functional.precision import wide


def singular_values(features: Tensor) -> Tensor:
    """The singular values of a `(samples, units)` matrix, largest first, `(min(samples, units),)`.

    In float32 (half precision, too) from the smaller Gram matrix in float64, which is several times faster and exact to
    1e-8 of the largest (a Gram matrix in float32 would lose what is below 3e-4 of it); in float64 from the matrix
    itself. All NaN if the matrix is not finite: raising would take the rest of a population with it.

    >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
    tensor([4., 3.])
    """
    finite = features.isfinite().all()
    x = torch.where(finite, wide(features), 0.0)
    if x.dtype == torch.float64:
        return torch.where(finite, torch.linalg.svdvals(x), torch.nan)
    small = (x if x.shape[0] < x.shape[1] else x.T).double()
    squares = torch.linalg.eigvalsh(small @ small.T).flip(0)
    return torch.where(finite, squares.clamp(min=0.0).sqrt().to(x.dtype), torch.nan)


def effective_rank(s: Tensor) -> Tensor:
    """The number of equal singular values that would have the entropy of these: from 1 to their number.

    exp(-sum_i p_i ln p_i), p_i = s_i / sum_j s_j. Source: Roy and Vetterli 2007.

    >>> effective_rank(torch.tensor([2.0, 2.0, 0.0]))
    tensor(2.)
    """
    r = _relative(s)
    p = r / r.sum().clamp(min=1.0)
    return torch.special.entr(p).sum().exp() * r.amax()  # the last factor is 0 for zeros, else 1


def srank(s: Tensor, delta: float = 0.01) -> Tensor:
    """How many singular values hold all but `delta` of their sum; several public repositories call this stable rank.

    min k with sum_{i<=k} s_i / sum_i s_i >= 1 - delta, `s` largest first. Source: Kumar et al. 2021.

    >>> srank(torch.tensor([99.0, 0.6, 0.4]))
    tensor(1.)
    """
    return _leading(_relative(s), delta)


def feature_rank(s: Tensor, num_samples: int, eps: float = 0.01) -> Tensor:
    """How many singular values exceed `eps` for features of unit scale: the one rank here that depends on the scale.

    #{i: s_i / sqrt(num_samples) > eps}, `s` of the `(num_samples, units)` matrix. Source: Lyle et al. 2022. Deviation:
    what is below 32 rounding errors of the largest is noise and not counted (in float32, above 1e5, it would be).

    >>> feature_rank(torch.tensor([5.0, 0.2, 0.05]), num_samples=100)
    tensor(2.)
    """
    s = wide(s)
    noise = 32 * torch.finfo(s.dtype).eps * s.amax()
    return _count((s / num_samples**0.5 > eps) & (s > noise), s)


def stable_rank(s: Tensor) -> Tensor:
    """The squared Frobenius norm over the squared spectral norm: sum_i s_i^2 / max_i s_i^2.

    >>> stable_rank(torch.tensor([2.0, 1.0, 1.0]))
    tensor(1.5000)
    """
    return _relative(s).square().sum()


def participation_ratio(s: Tensor) -> Tensor:
    """The number of equal eigenvalues of the Gram matrix G that would spread as these do: (tr G)^2 / tr G^2.

    (sum_i s_i^2)^2 / sum_i s_i^4.

    >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0]))
    tensor(2.)
    """
    energy = _relative(s).square()
    return energy.sum().square() / energy.square().sum().clamp(min=1.0)


def pca_rank(s: Tensor, share: float = 0.99) -> Tensor:
    """How many directions hold a `share` of the squared norm: min k with sum_{i<=k} s_i^2 >= share sum_i s_i^2.

    `s` largest first. The features are not centred, so their mean counts as a direction.

    >>> pca_rank(torch.tensor([10.0, 0.9, 0.1]))
    tensor(1.)
    """
    return _leading(_relative(s).square(), 1 - share)


def rank_bound(num_samples: int, num_units: int) -> int:
    """How many directions a sample can show at most around its mean: min(num_samples - 1, num_units).

    A rank near this bound speaks of the sample, not of the network. The ranks above do not centre, and may count the
    mean as one direction more.

    >>> rank_bound(64, 512)
    63
    """
    return min(num_samples - 1, num_units)


def _relative(s: Tensor) -> Tensor:
    """In units of the largest, so that squares neither over- nor underflow; zeros stay zeros."""
    s = wide(s)
    top = s.amax()
    return s / torch.where(top == 0, 1.0, top)


def _leading(parts: Tensor, rest: float) -> Tensor:
    """How many leading parts it takes until what follows is at most a share `rest` of all, up to rounding.

    Summed from the smallest up: a float32 sum from the largest down would round the tail away.
    """
    tails = parts.flip(0).cumsum(0).flip(0)
    return _count(tails > (rest + 8 * torch.finfo(parts.dtype).eps) * tails[0], parts)


def _count(flags: Tensor, s: Tensor) -> Tensor:
    return torch.where(s.isnan().any(), torch.nan, flags.sum()).to(s.dtype)
