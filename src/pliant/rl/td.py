"""Targets of Q-learning, over any value head."""

from __future__ import annotations

from torch import Tensor

from pliant.heads import Head


def picked(outputs: Tensor, action: Tensor) -> Tensor:
    """The outputs of one action each: `(..., actions, num_outputs)` and `(...)` to `(..., num_outputs)`.

    >>> import torch
    >>> picked(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([1, 0]))
    tensor([[2.],
            [3.]])
    """
    index = action[..., None, None].expand(*action.shape, 1, outputs.shape[-1])
    return outputs.gather(-2, index).squeeze(-2)


def largest_value(gamma: float) -> float:
    """The value of a reward of 1 at every step for ever: 1 / (1 - gamma), which no value of the MDPs here exceeds.

    Raises `ValueError` for a discount outside [0, 1).

    >>> round(largest_value(0.99)), largest_value(0.0)
    (100, 1.0)
    """
    if not 0 <= gamma < 1:
        raise ValueError(f"expected gamma in [0, 1), got {gamma}: values of an endless task need a discount")
    return 1 / (1 - gamma)


def td_target(
    head: Head, reward: Tensor, discount: Tensor | float, following: Tensor, chooser: Tensor | None = None
) -> Tensor:
    """What the outputs for the action taken should become: r + g * value of the best action in the next state.

    The best action is the one of the highest value to the target network, as in DQN; to `chooser`, the network that
    learns, as in double DQN.

    Args:
        head: makes values of outputs; the target is its own (a number, two bins, a distribution moved and projected).
        reward: `(...)`.
        discount: g, a number or `(...)`; 0 where an episode ends.
        following: the target network's outputs for all actions in the next state, `(..., actions, num_outputs)`.
        chooser: those of the network that learns.

    >>> import torch
    >>> from pliant.heads import Scalar
    >>> outputs = torch.tensor([[[2.0], [5.0]]])
    >>> td_target(Scalar(), torch.ones(1), 0.5, outputs), td_target(Scalar(), torch.ones(1), 0.5, outputs, -outputs)
    (tensor([[3.5000]]), tensor([[2.]]))

    Source: P1 eq. 1; Mnih et al. 2015; van Hasselt et al. 2016.
    """
    best = head.value(following if chooser is None else chooser).argmax(-1)
    return head.target(reward, discount, picked(following, best))
