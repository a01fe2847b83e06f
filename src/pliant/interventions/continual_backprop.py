"""Continual backprop: a few units of low utility are replaced all the time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pliant.interventions._recycling import activity, recycle, refuse_without_units
from pliant.interventions.base import Change, Draw, Intervention, Seen, State, check_choice
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class ContinualBackprop(Intervention):
    """After each step, mature hidden units of the lowest utility are replaced, a small fraction of a layer at a time.

    The utility of a unit is a running average, u <- eta u + (1 - eta) E|h| sum_k |w_out,k|, corrected for its bias.
    Units older than `maturity` steps may go; a layer collects `rho` times their number each step, and once that reaches
    1, so many of the lowest utility are replaced: incoming weights drawn anew, incoming biases and outgoing weights 0,
    age 0. The biases that follow take over the unit's mean activation times its outgoing weights.

    A step in which no sample reaches a unit (of an expert without tokens) is none for it: its averages and age stay.
    Nothing is drawn and nothing written while no unit is due. Units on a residual stream lose their outgoing weights
    only; behind a per-sample normaliser incoming weights stay (see `ReDo`), unless `side_effects`.

    Args:
        rho: fraction of a layer's mature units replaced in a step.
        eta: decay of the running averages, in [0, 1).
        maturity: steps for which a new unit is safe; the published code uses 20 to 100.
        moments: of the entries that were reset: `"clear"` or `"keep"`; the step count is left alone (see `cleared`).
        side_effects: whether to draw units anew whose reset moves others.

    >>> from torch import nn
    >>> network = Network(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), example=torch.ones(1, 1))
    >>> method = ContinualBackprop(rho=0.3, eta=0.5, maturity=1)
    >>> state = method.init(network, {"0.weight": torch.ones(2, 1)})
    >>> state["age"].tolist(), state["due"].item()
    ([0.0, 0.0], False)

    Source: Dohare et al. 2024 (algorithm 1) and its code: `rho` 1e-4, `eta` 0.99. Deviations: the published code sets a
    unit's mean to 0 before the biases take it over, so that they stay as they are; with the order mended it equals
    ours. Of its utilities, only the contribution above is offered, not `adaptable_contribution`.
    """

    reference: ClassVar[str] = "dohare2024"
    touches: ClassVar[str] = "units, moments"
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})

    rho: float = 1e-4
    eta: float = 0.99
    maturity: int = 100
    moments: Literal["clear", "keep"] = "clear"
    side_effects: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ValueError(f"expected rho of ContinualBackprop to be in [0, 1], got {self.rho!r}")
        if not 0 <= self.eta < 1:
            raise ValueError(f"expected eta of ContinualBackprop to be in [0, 1), got {self.eta!r}")
        if not self.maturity >= 0:
            raise ValueError(f"expected maturity of ContinualBackprop to be at least 0 steps, got {self.maturity!r}")
        check_choice("ContinualBackprop", "moments", self.moments, ("clear", "keep"))

    def init(self, network: Network, params: Params) -> State:
        refuse_without_units(network, "ContinualBackprop", self.side_effects)
        zeros = next(iter(params.values())).new_zeros(sum(units.size for units in network.units))
        return {
            "due": torch.tensor(False, device=zeros.device),
            "utility": zeros.clone(),  # of all units, group after group
            "mean": zeros.clone(),
            "age": zeros.clone(),
            "collected": zeros.new_zeros(len(network.units)),
        }

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        assert seen.activations is not None
        found = [activity(units, seen.activations) for units in network.units]
        measured = [h for h in found if h is not None]
        missing = None
        if len({len(h) for h in measured}) == 1 and len(measured) == len(found):
            together = torch.cat(measured, 1)  # few calls: they are what takes the time in small batches
            size, mean = together.abs().mean(0), together.mean(0)
        else:
            zeros = [state["age"].new_zeros(units.size) for units in network.units]
            pairs = list(zip(found, zeros, strict=True))
            size = torch.cat([zero if h is None else h.abs().mean(0) for h, zero in pairs])
            mean = torch.cat([zero if h is None else h.mean(0) for h, zero in pairs])
            if len(measured) < len(found):
                missing = torch.cat([zero.bool() if h is not None else zero == 0 for h, zero in pairs])
        outgoing = torch.cat([units.outgoing_magnitude(params) for units in network.units])
        age = state["age"] + 1
        groups = _groups(tuple(units.size for units in network.units), age.dtype, age.device)
        mature = groups @ (age > self.maturity).to(age.dtype)
        collected = state["collected"] + self.rho * mature
        of_units = {
            "utility": torch.lerp(size * outgoing, state["utility"], self.eta),
            "mean": torch.lerp(mean, state["mean"], self.eta),
            "age": age,
        }
        if missing is not None:
            of_units = {name: torch.where(missing, state[name], value) for name, value in of_units.items()}
        return Change(state={"due": (collected >= 1).any(), **of_units, "collected": collected})

    def renew(self, network: Network, params: Params, moments: Moments, state: State, draw: Draw) -> Change:
        sizes = [units.size for units in network.units]
        trust = (1 - self.eta ** state["age"]).clamp_min(torch.finfo(state["age"].dtype).tiny)
        utility, mean = state["utility"] / trust, state["mean"] / trust
        old = state["age"] > self.maturity
        number = torch.minimum(state["collected"].floor(), torch.stack([part.sum() for part in old.split(sizes)]))
        parts = zip(utility.split(sizes), old.split(sizes), number, strict=True)
        chosen = [_lowest(part, mature, int(count)) for part, mature, count in parts]
        gone = torch.cat(chosen)
        new = recycle(
            network, dict(zip((u.name for u in network.units), chosen, strict=True)), params, moments, draw,
            side_effects=self.side_effects, clear=self.moments == "clear",
            compensate=dict(zip((u.name for u in network.units), mean.split(sizes), strict=True)),
        )  # fmt: skip
        kept = {name: torch.where(gone, 0, state[name]) for name in ("utility", "mean", "age")}
        return Change(new.params, new.moments, {**kept, "collected": state["collected"] - number})


@cache
def _groups(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Which units are in which group, `(groups, units)`: a product with it sums over each group."""
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return (group == torch.arange(len(sizes))[:, None]).to(device, dtype)


def _lowest(utility: Tensor, mature: Tensor, count: int) -> Tensor:
    """So many mature units of the lowest utility."""
    order = torch.where(mature, utility, torch.inf).argsort(stable=True)
    return torch.zeros_like(mature).index_fill(0, order[:count], True)
