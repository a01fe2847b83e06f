"""L2 regularisation towards the initial parameters."""

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
class L2Init(Intervention):
    """`strength` times ||theta - theta_0||^2, added to the loss (gradient: 2 strength (theta - theta_0)).

    What an event draws anew is pulled to the first initial draw.

    Args:
        strength: at least 0; 0 is no penalty. The published sweep is 1e-5 to 1e-2, with a factor 1/2 (below).
        normalisers: whether the scales and offsets of normalisation layers are in: they are pulled to where they began,
            not to 0.

    >>> network = Network(torch.nn.Linear(2, 1))
    >>> regenerate = L2Init(0.1)
    >>> zeros = {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}
    >>> state = regenerate.init(network, zeros)
    >>> params = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}
    >>> regenerate.penalty(network, params, state, Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None))
    tensor(1.4000)

    Source: Kumar et al. 2024 (regenerative regularization). Deviations: their code has a factor 1/2, so that its
    strength is twice ours; its agents with layer norm leave scales and offsets out, as `normalisers=False` does.
    """

    reference: ClassVar[str] = "kumar2024"
    touches: ClassVar[str] = "gradients"

    strength: float
    normalisers: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"expected strength of L2Init to be at least 0 and finite, got {self.strength!r}")

    def init(self, network: Network, params: Params) -> State:
        names = [name for name in network.names if self.normalisers or name not in network.normalisers]
        return {name: params[name].clone() for name in names}

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        away = [real(params[name] - w).flatten() for name, w in state.items()]
        return self.strength * (torch.stack([d @ d for d in away]).sum() if away else torch.zeros(()))

    def penalty_gradient(self, network: Network, params: Params, state: State, seen: Seen) -> dict[str, Scaled]:
        return {name: Scaled(2 * self.strength, params[name] - w) for name, w in state.items()}
