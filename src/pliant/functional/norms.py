"""Sizes of dicts of tensors: parameters, gradients, updates. A dict of one tensor gives that tensor's number."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.functional.precision import real, wide


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


def feature_norm(features: Tensor) -> Tensor:
    """The mean length of a sample's features: E_x |phi(x)|_2, of a `(samples, features)` matrix.

    >>> feature_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor(3.)
    """
    features = wide(features)
    top = features.abs().amax()
    return top * (features / torch.where(top == 0, 1.0, top)).square().sum(1).sqrt().mean()


def effective_lr(weight: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """What a learning rate amounts to for a weight whose scale the output does not depend on: under SGD, under Adam.

    lr / |W|^2 for SGD, whose gradients shrink as 1 / |W|, and lr / |W| for updates of a size of their own (Adam).

    Source: Lyle et al. 2024, Normalization and effective learning rates.

    >>> effective_lr(torch.tensor([[6.0, 8.0]]), lr=0.1)
    (tensor(0.0010), tensor(0.0100))
    """
    size = _length(weight)
    return lr / size / size, lr / size


def _length(x: Tensor) -> Tensor:
    """In units of the largest entry: squares of vanishing gradients underflow.

    `torch.linalg.vector_norm` is off by 4e-4 in float32 for 10 million entries; `sum` adds in pairs and is not.
    """
    x = real(wide(x))
    top = x.abs().amax()
    return top * (x / torch.where(top == 0, 1.0, top)).square().sum().sqrt()
