"""The numbers of what is measured: real, and at least float32, whatever a network computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SMALLEST = 2.0**-1022  # of the normal numbers of float64


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


@contextmanager
def flushed() -> Iterator[None]:
    """Within it, this thread takes numbers too small for full precision (denormal, below 1.2e-38 in float32) as 0.

    Adam's mean gradient of a dead unit decays to some 1e-45 and stays there, as rounding brings it back: on a CPU the
    optimizer's step then takes ten times as long, for updates that change nothing. Before and after, numbers are
    treated as the caller wants; where the processor cannot do it, nothing happens.

    >>> smallest = torch.tensor([1e-40])
    >>> with flushed():
    ...     print((smallest * 1).item())
    0.0
    >>> (smallest * 1).item() > 0
    True
    """
    before = SMALLEST / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
