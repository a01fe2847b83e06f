"""Numerics of soft actor-critic: the distribution of actions, two critics an agent, and the losses of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.network import Network
from pliant.stacking import at

CRITICS = 2  # of each agent


@dataclass(frozen=True)
class ActorLoss:
    """The mean of alpha log p(a) - min Q(s, a), a drawn by the actor, of one agent."""

    critic: Network
    log_std: tuple[float, float]

    def __call__(self, output: Tensor, y: dict) -> Tensor:
        action, log_prob = squashed(output, y["noise"], self.log_std)
        pairs = torch.cat([y["x"], action], -1)
        critics = at(y["critics"], 0)  # of any example
        values = [self.critic(at(critics, i), pairs) for i in range(CRITICS)]
        return (y["alpha"] * log_prob - torch.minimum(*values).squeeze(-1)).mean()


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared error.

    >>> half_squared_error(torch.tensor([2.0, 0.0]), torch.zeros(2))
    tensor(1.)
    """
    return 0.5 * F.mse_loss(output, target)


def squashed(outputs: Tensor, noise: Tensor, log_std: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Actions of a normal distribution squashed by tanh, and the logarithm of their density.

    Args:
        outputs: mean and log standard deviation of each control, `(..., 2 controls)`.
        noise: standard normal, `(..., controls)`.
        log_std: the bounds of the log standard deviation.

    >>> action, log_prob = squashed(torch.zeros(2), torch.tensor([0.0]), (-20.0, 2.0))
    >>> action.tolist(), round(log_prob.item(), 4) == round(-0.5 * math.log(2 * math.pi), 4)
    ([0.0], True)

    Source: Haarnoja et al. 2018, appendix C.
    """
    mean, spread = outputs.chunk(2, -1)
    spread = spread.clamp(*log_std)
    raw = mean + spread.exp() * noise
    log_normal = -0.5 * noise.square() - spread - 0.5 * math.log(2 * math.pi)
    log_slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))  # log(1 - tanh(raw)^2), exact where that rounds to 0
    return raw.tanh(), (log_normal - log_slope).sum(-1)


def twice(values: Tensor) -> Tensor:
    """What an agent has, for each of its critics: `(members, ...)` to `(2 members, ...)`.

    >>> twice(torch.tensor([1, 2])).tolist()
    [1, 1, 2, 2]
    """
    return values.repeat_interleave(CRITICS, 0)


def halved(values: Tensor) -> Tensor:
    """The mean over the critics of each agent: `(2 members, ...)` to `(members, ...)`.

    >>> halved(torch.tensor([1.0, 2.0, 5.0, 7.0])).tolist()
    [1.5, 6.0]
    """
    return values.view(-1, CRITICS, *values.shape[1:]).to(torch.float64).mean(1)
