"""Sizes of dicts of tensors: parameters, gradients, updates. A dict of one tensor gives that tensor's number."""

from __future__ import annotations

import torch
from torch import Tensor


def norm(tensors: dict[str, Tensor]) -> Tensor:
    """The Euclidean length of all entries of all tensors as one vector: sqrt(sum_j t_j^2).

    >>> norm({"weight": torch.tensor([[3.0, 0.0]]), "bias": torch.tensor([4.0])})
    tensor(5.)
    """
    return _length(torch.stack([_length(t) for t in tensors.values()]))


def norm_ratio(tensors: dict[str, Tensor], reference: dict[str, Tensor]) -> Tensor:
    """How many times longer `tensors` are than `reference`: norm(tensors) / norm(reference).

    NaN when the reference is zero (a bias that began at zero has no ratio).

    >>> norm_ratio({"weight": torch.tensor([3.0, 4.0])}, {"weight": torch.tensor([0.0, 2.0])})
    tensor(2.5000)
    """
    length = norm(reference)
    return torch.where(length == 0, torch.nan, norm(tensors) / length)


def relative_update(update: dict[str, Tensor], params: dict[str, Tensor]) -> Tensor:
    """The length of one step as a share of the parameters': norm(update) / norm(params), NaN for zero parameters.

    >>> relative_update({"weight": torch.tensor([0.0, 0.1])}, {"weight": torch.tensor([0.0, 10.0])})
    tensor(0.0100)
    """
    return norm_ratio(update, params)


def _length(x: Tensor) -> Tensor:
    """In units of the largest entry: squares of vanishing gradients underflow.

    `torch.linalg.vector_norm` is off by 4e-4 in float32 for 10 million entries; `sum` adds in pairs and is not.
    """
    top = x.abs().amax()
    return top * (x / torch.where(top == 0, 1.0, top)).square().sum().sqrt()
