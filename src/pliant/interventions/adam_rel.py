"""Adam-Rel: Adam with time relative to the last event."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

from pliant.interventions.base import Change, Draw, Intervention, State
from pliant.interventions.optimizer_reset import reset_moments
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class AdamRel(Intervention):
    """At an event, Adam's step count becomes 0; its moments and the weights stay.

    The moments are then corrected for a bias they no longer have, by 1 / (1 - b1) and 1 / (1 - b2). While gradients
    stay as they were, the next step is about sqrt(1 - b2) / (1 - b1) learning rates long, 0.32 with the usual betas;
    under a gradient that is suddenly far larger, it is 1 long, where Adam's would be (1 - b1) / sqrt(1 - b2) = 3.2.

    Warns where the optimizer has no step count (SGD, RMSProp), and where `Only` leaves out a part of the network: all
    parameters share the count. Nothing happens then.

    Args:
        event: when; the paper has target-network updates and, with PPO, every new batch of data.

    >>> import torch
    >>> network = Network(torch.nn.Linear(1, 1, bias=False))
    >>> moments = {"exp_avg": {"weight": torch.ones(1, 1)}, "step": {"": torch.tensor(9.0)}}
    >>> AdamRel().on_event(network, "task_switch", {}, moments, {}, Draw(0, 0)).moments
    {'step': {'': tensor(0.)}}

    Source: Ellis et al. 2024.
    """

    reference: ClassVar[str] = "ellis2024"
    touches: ClassVar[str] = "step count"

    event: str = "task_switch"

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        if event != self.event:
            return None
        count = reset_moments(moments, network.names).get("step", {})
        if not count:
            warnings.warn("AdamRel found no step count to reset: use it on whole networks under Adam", stacklevel=2)
        return Change(moments={"step": count} if count else {})
