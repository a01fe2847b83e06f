"""Rescaling weights to their initial norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.interventions.base import Change, Intervention, Seen, State
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class WeightNormRescale(Intervention):
    """After each step, every weight matrix is brought back to its initial Frobenius norm: W <- W ||W(0)|| / ||W||.

    Biases and the scales and offsets of normalisers are left alone. The function of the network changes, unless
    a normaliser follows each layer. A matrix of zeros stays one.

    >>> network = Network(torch.nn.Linear(2, 1, bias=False))
    >>> rescale = WeightNormRescale()
    >>> state = rescale.init(network, {"weight": torch.tensor([[3.0, 4.0]])})
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> rescale.after_step(network, {"weight": torch.tensor([[0.0, 2.0]])}, {}, state, seen).params
    {'weight': tensor([[0., 5.]])}

    Source: P2 section 4.1, one of the ways to stop norm growth; P2 reports that it slows optimisation.
    """

    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "weights"

    def init(self, network: Network, params: Params) -> State:
        return {name: params[name].norm() for name in network.weights}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        return Change(params={name: params[name].mul_(scale(params[name], state[name])) for name in network.weights})


def rescaled(w: Tensor, norm: Tensor | float) -> Tensor:
    """A tensor brought to a norm; zeros stay zeros.

    >>> rescaled(torch.tensor([0.0, 2.0]), 5.0)
    tensor([0., 5.])
    """
    return w * scale(w, norm)


def scale(w: Tensor, norm: Tensor | float) -> Tensor:
    """What brings a tensor to a norm; 0 for zeros."""
    size = w.norm()
    return torch.where(size > 0, norm / size, 0)
