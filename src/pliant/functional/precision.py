"""The numbers of what is measured: real, and at least float32, whatever a network computes in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, if it has fewer digits (bfloat16, float16): sums and thresholds need them; else `x` itself.

    >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype, wide(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x


def real(t: Tensor) -> Tensor:
    """A tensor of real numbers: of complex ones, both parts, along a last axis, which is a view where it can be.

    >>> real(torch.ones(2)).shape, real(torch.ones(2, dtype=torch.complex64)).shape
    (torch.Size([2]), torch.Size([2, 2]))
    """
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
