"""Clipping weights to the range they started in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.interventions.base import Change, Intervention, Seen, State
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class WeightClipping(Intervention):
    """After each step, weights and biases of layer l are clipped to [-kappa s_l, kappa s_l], s_l the layer's bound.

    The bound is s_l = max(1 / sqrt(fan_in), the largest |w| of the layer at the start). The first is the bound of
    PyTorch's uniform initialisation, which biases share; where a layer is drawn from a wider distribution, one without
    a bound perhaps, the second is larger. So nothing is clipped at the start if kappa is at least 1, and a layer that
    starts at 0 can still learn. Scales and offsets of normalisers, and what belongs to no layer with weights (a
    policy's log-std), are left alone.

    Args:
        kappa: width of the range in bounds; above 0.

    >>> network = Network(torch.nn.Linear(4, 1, bias=False))
    >>> clip = WeightClipping(kappa=2.0)
    >>> state = clip.init(network, {"weight": torch.tensor([[0.3, -0.2, 0.0, 0.4]])})  # the bound is 1 / sqrt(4)
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> clip.after_step(network, {"weight": torch.tensor([[3.0, -0.2, -7.0, 0.4]])}, {}, state, seen).params
    {'weight': tensor([[ 1.0000, -0.2000, -1.0000,  0.4000]])}

    Source: Elsayed et al. 2024. Deviation: the published code takes 1 / sqrt(fan_in) whatever the initial distribution.
    """

    reference: ClassVar[str] = "elsayed2024clipping"
    touches: ClassVar[str] = "weights, biases"

    kappa: float

    def __post_init__(self) -> None:
        if not 0 < self.kappa < math.inf:
            raise ValueError(f"expected kappa of WeightClipping to be above 0 and finite, got {self.kappa!r}")

    def init(self, network: Network, params: Params) -> State:
        layers: dict[str, list[Tensor]] = {name.rpartition(".")[0]: [] for name in network.whole.weights}
        for name, p in params.items():
            if (path := name.rpartition(".")[0]) in layers:
                layers[path].append(p)
        bounds = {path: _bound(tensors) for path, tensors in layers.items()}
        owners = {name: name.rpartition(".")[0] for name in network.names if name not in network.normalisers}
        return {name: bounds[path].clone() for name, path in owners.items() if path in bounds}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        widths = {name: self.kappa * bound for name, bound in state.items()}
        # in two steps: torch's clamp to tensors takes four times as long
        return Change(params={n: params[n].clamp_min_(-width).clamp_max_(width) for n, width in widths.items()})


def _bound(layer: Sequence[Tensor]) -> Tensor:
    largest = torch.stack([p.abs().max() for p in layer]).max()
    fan_in = min(p[0].numel() for p in layer if p.ndim > 1)
    return largest.clamp_min(1 / math.sqrt(fan_in))
