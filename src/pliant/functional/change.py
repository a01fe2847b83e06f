"""What an update changed: outputs and losses on the same inputs, before and after."""

from __future__ import annotations

from torch import Tensor

from pliant.functional.precision import wide


def churn(now: Tensor, before: Tensor) -> Tensor:
    """How far outputs moved: E_x |f_now(x) - f_before(x)|, the mean over inputs and outputs.

    Source: Tang et al. 2025, on inputs outside of the training batch. Deviation: the mean over several outputs is ours.

    >>> import torch
    >>> churn(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [3.0, 7.0]]))
    tensor(1.)
    """
    return (wide(now) - wide(before)).abs().mean()


def sample_plasticity(after: Tensor, before: Tensor, eps: float = 1e-8) -> Tensor:
    """How much of each sample's loss an update on it took away, from 0 to 1: max(1 - after / max(before, eps), 0).

    A loss of 0 that stays 0 counts as 1. Source: Elsayed and Mahmood 2024; the value of `eps` is ours.

    >>> import torch
    >>> sample_plasticity(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([4.0, 2.0, 2.0]))
    tensor([0.7500, 0.0000, 1.0000])
    """
    return (1 - wide(after) / wide(before).clamp(min=eps)).clamp(min=0)
