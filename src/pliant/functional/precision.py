"""The precision of what is measured: at least float32, whatever a network computes in."""

from __future__ import annotations

from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, if it has fewer digits (bfloat16, float16): sums and thresholds need them; else `x` itself.

    >>> import torch
    >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype, wide(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x
