"""L2 regularisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.functional.precision import real
from pliant.interventions.base import Intervention, Scaled, Seen, State
from pliant.network import Network, Params


@dataclass(frozen=True)
class L2(Intervention):
    """`strength` times the sum of squares of all weights and biases, added to the loss (gradient: 2 strength w).

    With Adam this is not decoupled weight decay. P1 and P2 use 1e-5; P2 sweeps {0, 1e-6, 1e-5}.

    Args:
        strength: at least 0; 0 is no penalty.
        normalisers: whether the scales and offsets of normalisation layers are in. The papers do not say.

    >>> import torch
    >>> network = Network(torch.nn.Linear(2, 1))
    >>> params = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> L2(0.1).penalty(network, params, {}, seen)
    tensor(1.4000)

    Source: P2 section 4 (the squared norm of the parameter vector, without a factor 1/2).
    """

    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "gradients"

    strength: float
    normalisers: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"expected strength of L2 to be at least 0 and finite, got {self.strength!r}")

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        flat = [real(w).flatten() for w in self._touched(network, params).values()]
        squares = [w @ w for w in flat]
        return self.strength * (torch.stack(squares).sum() if squares else torch.zeros(()))

    def penalty_gradient(self, network: Network, params: Params, state: State, seen: Seen) -> dict[str, Scaled]:
        return {name: Scaled(2 * self.strength, w) for name, w in self._touched(network, params).items()}

    def _touched(self, network: Network, params: Params) -> Params:
        return {n: params[n] for n in network.names if self.normalisers or n not in network.normalisers}
