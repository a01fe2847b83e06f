"""Regularisation of the size of the features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pliant.interventions.base import Intervention, Seen, State
from pliant.network import Network, Params


@dataclass(frozen=True)
class FeatureNormPenalty(Intervention):
    """`strength` times E_x ||phi(x)||^2 over the batch, added to the loss; phi(x) are the penultimate features.

    Args:
        strength: at least 0; 0 is no penalty.

    >>> import torch
    >>> features = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None, features=features)
    >>> FeatureNormPenalty(0.1).penalty(Network(torch.nn.Linear(2, 1)), {}, {}, seen)
    tensor(0.7000)

    Source: P2 section 4.1, the soft way to stop the growth of norms; P2 finds it weaker than normalisation. Deviations:
    P2 says neither which features are meant nor how strong the penalty is, so the strength has no default.
    """

    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    strength: float

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(
                f"expected strength of FeatureNormPenalty to be at least 0 and finite, got {self.strength!r}"
            )

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        assert seen.features is not None
        return self.strength * seen.features.square().sum(-1).mean()
