"""Shrink and perturb."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.interventions.base import Change, Draw, Intervention, State, check_choice
from pliant.interventions.optimizer_reset import reset_moments
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class ShrinkAndPerturb(Intervention):
    """At an event, w <- shrink w + perturb w', with w' a fresh draw of the initial distribution.

    Args:
        shrink: what is kept of the weights; 1 with `perturb=0` changes nothing.
        perturb: how much of a fresh draw is added.
        event: when; P1 uses every target-network update, continual learning the task switch.
        moments: what happens to the optimizer's moments: `"keep"` or `"clear"` (the step count too). P1 does not say.

    >>> import torch
    >>> network = Network(torch.nn.Linear(1, 1, bias=False))
    >>> halve = ShrinkAndPerturb(shrink=0.5, perturb=0.0)
    >>> halve.on_event(network, "task_switch", {"weight": torch.ones(1, 1)}, {}, {}, Draw(0, 0)).params
    {'weight': tensor([[0.5000]])}

    Source: Ash & Adams 2020. The papers give no values for the two scalars, so neither has a default.
    """

    reference: ClassVar[str] = "ash2020"
    touches: ClassVar[str] = "all parameters, moments"

    shrink: float
    perturb: float
    event: str = "task_switch"
    moments: Literal["keep", "clear"] = "keep"

    def __post_init__(self) -> None:
        for name in ("shrink", "perturb"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"expected {name} of ShrinkAndPerturb to be at least 0 and finite, got {value!r}")
        check_choice("ShrinkAndPerturb", "moments", self.moments, ("keep", "clear"))

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        if event != self.event:
            return None
        new = {name: self.shrink * params[name] for name in network.names}
        if self.perturb:
            fresh = draw.fresh(network, network.names)
            new = {name: w + self.perturb * fresh[name].to(w) for name, w in new.items()}
        return Change(new, reset_moments(moments, network.names) if self.moments == "clear" else {})
