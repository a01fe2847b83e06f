"""Regularisation of the size of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.functional.precision import real
from pliant.interventions.base import Intervention, Seen, State
from pliant.network import Network, Params


@dataclass(frozen=True)
class GradientNormPenalty(Intervention):
    """`strength` times ||grad l(theta)||^2, the gradient of the batch's loss without penalties, added to the loss.

    Costs about two more backward passes a step. Its gradient is 2 strength H g, with H the Hessian of the loss.

    Args:
        strength: at least 0; 0 is no penalty.

    >>> params = {"weight": torch.tensor([[3.0]])}
    >>> seen = Seen(torch.tensor(0), torch.tensor(0.1), None, gradient=lambda: {"weight": 2 * params["weight"]})
    >>> GradientNormPenalty(0.5).penalty(Network(torch.nn.Linear(1, 1, bias=False)), params, {}, seen)
    tensor(18.)

    Source: P2 section 4.1 (Figure 4, right), where it does not beat layer norm with L2. Deviation: P2's strength is not
    known, so it has no default.
    """

    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    strength: float

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(
                f"expected strength of GradientNormPenalty to be at least 0 and finite, got {self.strength!r}"
            )

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        assert seen.gradient is not None
        gradient = seen.gradient()
        squares = (real(gradient[name]).square().sum() for name in network.names)
        return self.strength * sum(squares, start=torch.zeros(()))
