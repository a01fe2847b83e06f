"""How a network stretches its inputs: the singular values of its Jacobian."""

from __future__ import annotations

from torch import Tensor

from pliant.functional.precision import wide


def isometry_gap(s: Tensor) -> Tensor:
    """How far singular values are from 1: sqrt(mean_i (s_i - 1)^2), 0 for a map that keeps lengths and angles.

    `s` is `(..., values)`, the result has one axis less. Source: ours; dynamical isometry has all of them near 1.

    >>> import torch
    >>> isometry_gap(torch.tensor([[1.0, 1.0], [3.0, 1.0]]))
    tensor([0.0000, 1.4142])
    """
    return (wide(s) - 1).square().mean(-1).sqrt()
