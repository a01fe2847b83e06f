"""Shrink and perturb, a little after every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from pliant.interventions.base import Change, Draw, Intervention, Seen, State
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class SoftShrinkAndPerturb(Intervention):
    """After each step, w <- shrink w + perturb w', with w' a fresh draw of the initial distribution.

    A draw of the whole network a step is not free: `Scheduled(SoftShrinkAndPerturb(...), every=k)` draws every k steps.
    The optimizer's moments are kept.

    Args:
        shrink: what is kept of the weights; 1 with `perturb=0` changes nothing.
        perturb: how much of a fresh draw is added.

    >>> network = Network(torch.nn.Linear(1, 1, bias=False))
    >>> soft = SoftShrinkAndPerturb(shrink=0.9, perturb=0.0)
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> soft.after_step(network, {"weight": torch.ones(1, 1)}, {}, {}, seen).params
    {'weight': tensor([[0.9000]])}

    Source: Juliani & Ash 2024; the defaults are those of their code (1 - 1e-6 and 1e-6).
    """

    reference: ClassVar[str] = "juliani2024"
    touches: ClassVar[str] = "all parameters"

    shrink: float = 1 - 1e-6
    perturb: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("shrink", "perturb"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"expected {name} of SoftShrinkAndPerturb to be at least 0 and finite, got {value!r}")

    def init(self, network: Network, params: Params) -> State:
        return {"due": torch.tensor(self.perturb > 0, device=next(iter(params.values())).device)}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        return Change(params={name: params[name].mul_(self.shrink) for name in network.names})

    def renew(self, network: Network, params: Params, moments: Moments, state: State, draw: Draw) -> Change:
        fresh = draw.fresh(network, network.names)
        return Change({name: params[name] + self.perturb * fresh[name].to(params[name]) for name in network.names})
