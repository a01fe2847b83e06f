"""Resetting the optimizer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch

from pliant.interventions.base import Change, Draw, Intervention, State
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class OptimizerReset(Intervention):
    """At an event, the optimizer's moments and its step count become 0, as if it had just been made; weights stay.

    Restricted by `Only` to a part of the network, it clears the moments of that part and leaves the step count, which
    all parameters share.

    Args:
        event: when; target-network updates in reinforcement learning.

    >>> network = Network(torch.nn.Linear(1, 1, bias=False))
    >>> moments = {"exp_avg": {"weight": torch.ones(1, 1)}, "step": {"": torch.tensor(9.0)}}
    >>> OptimizerReset().on_event(network, "task_switch", {}, moments, {}, Draw(0, 0)).moments
    {'exp_avg': {'weight': tensor([[0.]])}, 'step': {'': tensor(0.)}}

    Source: Asadi et al. 2023. P1 (B.1) reports that it does not help alone.
    """

    reference: ClassVar[str] = "asadi2023"
    touches: ClassVar[str] = "moments, step count"

    event: str = "task_switch"

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        return Change(moments=reset_moments(moments, network.names)) if event == self.event else None


def reset_moments(moments: Moments, names: Collection[str]) -> Moments:
    """The moments of some parameters at 0, and the step count if these are all there are.

    >>> reset_moments({"exp_avg": {"w": torch.ones(1)}, "step": {"": torch.tensor(9.0)}}, ["w"])
    {'exp_avg': {'w': tensor([0.])}, 'step': {'': tensor(0.)}}
    """
    whole = all(name in names for kind, group in moments.items() if kind != "step" for name in group)
    return {
        kind: {name: torch.zeros_like(m) for name, m in group.items() if (whole if kind == "step" else name in names)}
        for kind, group in moments.items()
    }
