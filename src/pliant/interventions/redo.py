"""ReDo: recycling dormant neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pliant.interventions._recycling import activity, none_due, recycle, refuse_without_units
from pliant.interventions.base import Change, Draw, Intervention, Seen, State, check_choice
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class ReDo(Intervention):
    """Every so many steps, dormant hidden units are drawn anew and their outgoing weights set to 0.

    The score of unit u is s_u = E|h_u| / mean_k E|h_k|, over the layer's units k and the batch of the step (and space);
    the unit is dormant where s_u <= tau. Scores of all layers are taken before anything is drawn. Incoming weights are
    drawn from the layer's own initial distribution, incoming biases and outgoing weights become 0.

    With `tau=0` and ReLU the network's function does not change. A unit that a residual stream reads loses its outgoing
    weights only; behind a per-sample normaliser, its scale, offset and outgoing weights are reset but its incoming
    weights stay, since drawing them would move the other units: `side_effects=True` draws them all the same.

    Args:
        tau: dormancy threshold; the paper has 0, 0.025 and 0.1.
        every: period in optimizer steps.
        incoming: `"initial"` draws as the layer was drawn, `"xavier"` from U(-b, b), b = sqrt(6 / (fan_in + fan_out)).
        moments: of the entries that were reset: `"clear"` or `"keep"`; the step count is left alone (see `cleared`).
        side_effects: whether to draw units anew whose reset moves others.

    >>> from torch import nn
    >>> network = Network(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), example=torch.ones(1, 1))
    >>> redo = ReDo(tau=0.0, every=1)
    >>> activations = {"1": torch.tensor([[0.0, 3.0]])}
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None, activations=activations)
    >>> redo.after_step(network, {}, {}, {}, seen).state["units"]
    {'1': tensor([ True, False])}

    Source: Sokar et al. 2023 (definition 3.1, algorithm 1). Deviations: the paper draws incoming weights by Xavier or
    He initialisation; here that is a choice. The published code keeps the moments of the biases that it sets to 0;
    here they are cleared with those of the weights.
    """

    reference: ClassVar[str] = "sokar2023"
    touches: ClassVar[str] = "units, moments"
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})

    tau: float
    every: int = 1000
    incoming: Literal["initial", "xavier"] = "initial"
    moments: Literal["clear", "keep"] = "clear"
    side_effects: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tau < math.inf:
            raise ValueError(f"expected tau of ReDo to be at least 0 and finite, got {self.tau!r}")
        if not self.every >= 1:
            raise ValueError(f"expected every of ReDo to be at least 1 step, got {self.every!r}")
        if self.incoming not in ("initial", "xavier"):
            raise ValueError(f"expected incoming of ReDo to be 'initial' or 'xavier', got {self.incoming!r}")
        check_choice("ReDo", "moments", self.moments, ("clear", "keep"))

    def init(self, network: Network, params: Params) -> State:
        refuse_without_units(network, "ReDo", self.side_effects)
        return none_due(network, params)

    def active(self, step: int) -> bool:
        return (step + 1) % self.every == 0

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        assert seen.activations is not None
        dormant: dict[str, Tensor] = {}
        for units in network.units:
            h = activity(units, seen.activations)
            alive = torch.zeros(units.size, dtype=torch.bool, device=seen.step.device)  # as far as is known
            dormant[units.name] = alive if h is None else _score(h) <= self.tau
        return Change(state={"due": torch.cat(list(dormant.values())).any(), "units": dormant})

    def renew(self, network: Network, params: Params, moments: Moments, state: State, draw: Draw) -> Change:
        return recycle(
            network, state["units"], params, moments, draw, incoming=self.incoming, side_effects=self.side_effects,
            clear=self.moments == "clear",
        )  # fmt: skip


def _score(activity: Tensor) -> Tensor:
    """ReDo's score of each unit; all 0 in a layer that is silent."""
    size = activity.abs().mean(0)
    return size / size.mean().clamp_min(torch.finfo(size.dtype).tiny)
