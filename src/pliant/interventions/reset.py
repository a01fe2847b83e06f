"""Resetting layers."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from pliant.interventions.base import Change, Draw, Intervention, State, check_choice
from pliant.interventions.optimizer_reset import reset_moments
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class Reset(Intervention):
    """At an event, the output layer, named layers or all of them are drawn anew from their initial distribution.

    Raises `ValueError` when training starts if no parameter is meant.

    Args:
        layers: `"last"` is the output layer (see `Network.head`), `"all"` every parameter, anything else a pattern of
            parameter names such as `"hidden.*"`.
        event: when; P1 resets the last layer at every target-network update.
        moments: of what was drawn: `"clear"` or `"keep"`. The step count is cleared along only if nothing of the
            optimizer's state is left; else see `pliant.interventions.base.cleared` on the length of the next step.

    >>> import torch
    >>> layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> network = Network(layers, example=torch.ones(1, 2))
    >>> list(Reset("last").on_event(network, "task_switch", network.params(), {}, {}, Draw(0, 0)).params)
    ['2.weight', '2.bias']

    Source: Nikishin et al. 2022; as used in P1 section 6.2. P1 does not say what happens to the moments.
    """

    reference: ClassVar[str] = "nikishin2022"
    touches: ClassVar[str] = "layers, moments"

    layers: str
    event: str = "task_switch"
    moments: Literal["clear", "keep"] = "clear"

    def __post_init__(self) -> None:
        check_choice("Reset", "moments", self.moments, ("clear", "keep"))

    def init(self, network: Network, params: Params) -> State:
        if not self._meant(network):
            raise ValueError(
                f"expected layers of Reset to be 'last', 'all' or a pattern that matches some of "
                f"{', '.join(network.names)}, got {self.layers!r}"
                f"{': the output layer is not among them' if self.layers == 'last' else ''}"
            )
        return {}

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        if event != self.event:
            return None
        names = self._meant(network)
        fresh = draw.fresh(network, names)
        gone = reset_moments(moments, names) if self.moments == "clear" else {}
        return Change({name: fresh[name].to(params[name]) for name in names}, gone)

    def _meant(self, network: Network) -> tuple[str, ...]:
        if self.layers == "last":
            return network.head
        pattern = "*" if self.layers == "all" else self.layers
        return tuple(name for name in network.names if fnmatchcase(name, pattern))
