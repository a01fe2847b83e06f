"""Decoupled weight decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pliant.interventions.base import Change, Intervention, Seen, State
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class WeightDecay(Intervention):
    """After each step, every weight and bias shrinks: w <- (1 - lr strength) w, with the optimizer's learning rate lr.

    Unlike `L2` it does not go through the optimizer's moments; it is not what P2 means by L2.

    Args:
        strength: at least 0; 0 is no decay.
        normalisers: whether the scales and offsets of normalisation layers decay, too.

    >>> import torch
    >>> network = Network(torch.nn.Linear(1, 1, bias=False))
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> WeightDecay(0.5).after_step(network, {"weight": torch.tensor([[2.0]])}, {}, {}, seen).params
    {'weight': tensor([[1.9000]])}

    Source: Loshchilov & Hutter 2019. Deviation: `torch.optim.AdamW` shrinks before the gradient step, this after:
    they differ by lr strength times the step.
    """

    reference: ClassVar[str] = "loshchilov2019"
    touches: ClassVar[str] = "weights, biases"

    strength: float
    normalisers: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"expected strength of WeightDecay to be at least 0 and finite, got {self.strength!r}")

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        keep = 1 - seen.lr * self.strength
        names = [name for name in network.names if self.normalisers or name not in network.normalisers]
        return Change(params={name: params[name].mul_(keep) for name in names})
