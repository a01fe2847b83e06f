"""Hare and Tortoise: going back to a slow average of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from pliant.interventions.base import Change, Draw, Intervention, Seen, State, check_choice
from pliant.interventions.optimizer_reset import reset_moments
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class HareAndTortoise(Intervention):
    """After each step, slow <- decay slow + (1 - decay) fast, with fast the weights; now and then, fast <- slow.

    The slow weights are in the state under `"slow"`; the paper evaluates with them. Tied copies (target networks)
    become the slow weights, too.

    Args:
        decay: of the average, in [0, 1).
        every: go back after every so many steps; None is never.
        event: go back at this event; None is at none. One of the two must be given.
        moments: of the optimizer, when going back: `"keep"`, or `"clear"` (the step count too).

    >>> network = Network(torch.nn.Linear(1, 1, bias=False))
    >>> race = HareAndTortoise(decay=0.75, every=2)
    >>> state = race.init(network, {"weight": torch.zeros(1, 1)})
    >>> seen = Seen(step=torch.tensor(1), lr=torch.tensor(0.1), x=None)
    >>> race.after_step(network, {"weight": torch.ones(1, 1)}, {}, state, seen).state
    {'due': tensor(True), 'slow': {'weight': tensor([[0.2500]])}}

    Source: Lee et al. 2024.
    """

    reference: ClassVar[str] = "lee2024hare"
    touches: ClassVar[str] = "all parameters"

    decay: float
    every: int | None = None
    event: str | None = None
    moments: Literal["keep", "clear"] = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"expected decay of HareAndTortoise to be in [0, 1), got {self.decay!r}")
        if self.every is None and self.event is None:
            raise ValueError("expected every or event of HareAndTortoise to be given, got neither: write every=1000")
        if self.every is not None and not self.every >= 1:
            raise ValueError(f"expected every of HareAndTortoise to be at least 1 step, got {self.every!r}")
        check_choice("HareAndTortoise", "moments", self.moments, ("keep", "clear"))

    def init(self, network: Network, params: Params) -> State:
        due = torch.tensor(False, device=next(iter(params.values())).device)
        return {"due": due, "slow": {name: params[name].clone() for name in network.names}}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        slow = {name: params[name].lerp(s, self.decay) for name, s in state["slow"].items()}
        due = state["due"] if self.every is None else (seen.step + 1) % self.every == 0
        return Change(state={"due": due, "slow": slow})

    def renew(self, network: Network, params: Params, moments: Moments, state: State, draw: Draw) -> Change:
        return self._back(network, moments, state)

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        return self._back(network, moments, state) if event == self.event else None

    def _back(self, network: Network, moments: Moments, state: State) -> Change:
        return Change(dict(state["slow"]), reset_moments(moments, network.names) if self.moments == "clear" else {})
