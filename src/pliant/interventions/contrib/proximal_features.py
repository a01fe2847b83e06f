"""Proximal feature optimization (PFO)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pliant.interventions.base import Change, Draw, Intervention, Seen, State
from pliant.network import Network, Params
from pliant.optim import Moments
from pliant.sites import Watch


@dataclass(frozen=True)
class ProximalFeatures(Intervention):
    """`strength` times E_x ||a(x) - a_old(x)||^2 over the batch, added to the loss.

    a(x) are the preactivations of the last hidden nonlinearity, all positions of an example together; `old` are the
    parameters at the latest event (before the first, the initial ones). Costs about two more forward passes a step.

    Raises `ValueError` for a network without a hidden nonlinearity.

    Args:
        strength: at least 0; 0 is no penalty.
        event: when `old` becomes what the parameters are; in PPO, where an iteration begins.

    >>> import torch
    >>> network = Network(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1)))
    >>> old = {name: torch.ones_like(p) for name, p in network.params().items()}
    >>> proximal = ProximalFeatures(0.5, event="iteration")
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=torch.tensor([[3.0]]))
    >>> proximal.penalty(network, {**old, "0.weight": torch.tensor([[2.0]])}, proximal.init(network, old), seen)
    tensor(4.5000)

    Source: Moalla et al. 2024 and their code. Deviations: the squares are summed over features, where the code takes
    their mean, so that its strength is ours times their number; the published use is PPO alone; the strength has no
    default.
    """

    reference: ClassVar[str] = "moalla2024"
    touches: ClassVar[str] = "gradients"

    strength: float
    event: str

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(
                f"expected strength of ProximalFeatures to be at least 0 and finite, got {self.strength!r}"
            )

    def init(self, network: Network, params: Params) -> State:
        return {name: p.clone() for name, p in params.items()}

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        moved = _preactivations(network, params, seen.x) - _preactivations(network, state, seen.x)
        return self.strength * moved.square().sum() / len(moved)

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        return Change(state={name: params[name] for name in state}) if event == self.event else None


class _Preactivations(Watch):
    """Keeps what enters every site, with its graph."""

    def __init__(self, network: Network):
        super().__init__(network.tracer.composites)
        self.pres: list[Tensor] = []

    def keep(self, x: Tensor) -> Tensor:
        return x.clone()  # the call may be in place

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        self.pres.append(before)
        return post


def _preactivations(network: Network, params: Params, x: Any) -> Tensor:
    watch = _Preactivations(network)
    with watch.over(network.module):
        network(params, x)
    if not watch.hidden:
        raise ValueError(f"ProximalFeatures saw no hidden nonlinearity in {type(network.module).__name__}")
    return watch.pres[watch.hidden - 1]
