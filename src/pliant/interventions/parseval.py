"""Regularisation of every layer towards orthogonal rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.interventions.base import Intervention, Scaled, Seen, State
from pliant.network import Network, Params


@dataclass(frozen=True)
class Parseval(Intervention):
    """`strength` times sum_l ||W_l W_l^T - scale I||_F^2, added to the loss (gradient: 4 strength (W W^T - scale I) W).

    It is 0 where the rows of every matrix are orthogonal, each with squared norm `scale`; a matrix with more rows than
    columns cannot have that. Kernels of convolutions are matrices `(out, rest)`. Every matrix is in, the output layer's
    too: write `Only(...)` to leave some out.

    Args:
        strength: at least 0; 0 is no penalty.
        scale: the squared norm of each row to go for; above 0.

    >>> network = Network(torch.nn.Linear(2, 2, bias=False))
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> Parseval(0.1, scale=4.0).penalty(network, {"weight": torch.tensor([[2.0, 0.0], [1.0, 2.0]])}, {}, seen)
    tensor(0.9000)

    Source: Chung et al. 2024. Our notes of it have no values for the two numbers, so neither has a default.
    """

    reference: ClassVar[str] = "chung2024"
    touches: ClassVar[str] = "gradients"

    strength: float
    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"expected strength of Parseval to be at least 0 and finite, got {self.strength!r}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"expected scale of Parseval to be above 0 and finite, got {self.scale!r}")

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        total = torch.zeros(())
        for w in (params[name].flatten(1) for name in network.weights):
            total = total + self._distance(w)
        return self.strength * total

    def _distance(self, w: Tensor) -> Tensor:
        """||W W^T - scale I||^2; of a matrix with more rows than columns (an embedding) through the smaller W^T W."""
        rows, columns = w.shape
        if rows <= columns:
            return (w @ w.T - self.scale * torch.eye(rows).to(w)).square().sum()
        return (w.T @ w - self.scale * torch.eye(columns).to(w)).square().sum() + (rows - columns) * self.scale**2

    def penalty_gradient(self, network: Network, params: Params, state: State, seen: Seen) -> dict[str, Scaled]:
        return {name: Scaled(4 * self.strength, self._residual(params[name])) for name in network.weights}

    def _residual(self, weight: Tensor) -> Tensor:
        """(W W^T - scale I) W, through the smaller of the two Gram matrices."""
        w = weight.flatten(1)
        product = (w @ w.T) @ w if w.shape[0] <= w.shape[1] else w @ (w.T @ w)
        return (product - self.scale * w).reshape(weight.shape)
