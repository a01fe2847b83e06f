"""Drawing hidden units anew: what every method that resets units shares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from pliant.interventions.base import Change, Draw, State, cleared
from pliant.network import Network, Params
from pliant.optim import Moments
from pliant.units import UnitGroup

Incoming = Literal["initial", "xavier"]


def refuse_without_units(network: Network, name: str, side_effects: bool = False) -> None:
    """A setting without effect is an error: there must be hidden units. Those that no reset changes are named."""
    if not network.units and network.whole.units:
        raise ValueError(
            f"{name} found no hidden units in {type(network.module).__name__} that parameters feed one by one and "
            f"that may be reset: frozen layers, and those that Only leaves out, are left alone; leave {name} out"
        )
    if not network.units:
        raise ValueError(
            f"{name} found no hidden units in {type(network.module).__name__} that parameters feed one by one: leave "
            f"{name} out, or look at pliant.poking.find_units(model, x)"
        )
    kept = [units for units in network.units if not side_effects and not _feeds_anew(units)]
    if left := [units.name for units in kept if not units.outgoing]:
        warnings.warn(
            f"{name} leaves the units of {', '.join(left)} as they are: no weights read them one by one (what "
            "reads them is normalised or a residual stream), so nothing can be reset without moving the rest",
            stacklevel=2,
        )
    if halves := [units.name for units in kept if units.outgoing]:
        warnings.warn(
            f"{name} draws no units of {', '.join(halves)} anew and only sets to 0 the weights that read them: "
            "something else (a normaliser across units, a residual stream) would see what feeds them change",
            stacklevel=2,
        )


def _feeds_anew(units: UnitGroup) -> bool:
    """Whether a reset without side effects changes anything that feeds these units."""
    return units.exact and (bool(units.normaliser) or not units.shared_statistics)


def activity(units: UnitGroup, activations: dict[str, Tensor]) -> Tensor | None:
    """What left the units, `(samples, units)`; None where no sample came by (an expert without tokens): not measured.

    >>> from pliant import Network
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> (units,) = Network(net, example=torch.ones(1, 1)).units
    >>> activity(units, {"1": torch.zeros(3, 2)}).shape, activity(units, {"1": torch.zeros(0, 2)}), activity(units, {})
    (torch.Size([3, 2]), None, None)
    """
    sites = tuple((site, axis) for site, axis in units.sites if site in activations and activations[site].numel())
    if len(sites) == len(units.sites):
        return units.activity(activations)
    return replace(units, sites=sites).activity(activations) if sites else None


def recycle(
    network: Network,
    chosen: dict[str, Tensor],
    params: Params,
    moments: Moments,
    draw: Draw,
    *,
    incoming: Incoming = "initial",
    side_effects: bool = False,
    compensate: dict[str, Tensor] | None = None,
    clear: bool = True,
    connected: bool = False,
) -> Change:
    """Chosen units (booleans by the name of their `UnitGroup`) drawn anew, with nothing reading them.

    Incoming weights are drawn from the layer's initial distribution (or Glorot's), incoming biases set to 0, entries of
    normalisers to their initial values, then outgoing weights to 0, so that these are 0 also where the unit that reads
    is drawn anew, unless it reads such units alone (the kernel between two dead channels). A unit whose function
    something else would see is left as it is but for its outgoing weights, and one behind a per-sample normaliser keeps
    its incoming entries, unless `side_effects`.

    With `connected`, units drawn anew read each other: weights between them are drawn rather than set to 0. As nothing
    else reads them, the function is the same, and gradients pass even where all units of a layer are drawn anew.

    `compensate` are mean activations by the name of the units: before all that, the biases that follow take over mean
    times weight.
    """
    groups = [units for units in network.units if chosen[units.name].any()]
    drawn = [u for u in groups if side_effects or (u.exact and not u.shared_statistics)]
    fresh = _fresh(network, groups, drawn, draw, incoming)
    new: Params = {}
    touched: dict[str, Tensor] = {}

    def put(name: str, mask: Tensor, value: Tensor | float) -> None:
        old = new.get(name, params[name])
        new[name] = torch.where(mask, value.to(old) if isinstance(value, Tensor) else value, old)
        touched[name] = touched[name] | mask if name in touched else mask

    for units in groups if compensate is not None else ():
        for name, bias in units.biases.items():
            mean = torch.where(chosen[units.name], compensate[units.name], 0)  # type: ignore[index]
            carried = units.outgoing[name].spread(mean) * params[name]
            new[bias] = new.get(bias, params[bias]) + units.outgoing[name].by_output(carried)

    def draw_incoming() -> None:
        for units in drawn:
            for name, entries in units.incoming.items():
                put(name, entries.mask(chosen[units.name]), fresh[name] if params[name].ndim > 1 else 0.0)

    if not connected:
        draw_incoming()
    for units in groups:
        if units.exact or side_effects:
            for name, entries in units.normaliser.items():
                put(name, entries.mask(chosen[units.name]), fresh[name])
    for units in groups:
        for name, entries in units.outgoing.items():
            put(name, entries.mask(chosen[units.name]), 0.0)
    if connected:
        draw_incoming()
    for units in () if connected else drawn:  # a unit that reads new units alone would stay dead: it is drawn after all
        weights = {name: entries for name, entries in units.incoming.items() if params[name].ndim > 1}
        reads = torch.stack([entries.sums(new[name].abs()) for name, entries in weights.items()]).sum(0)
        for name, entries in weights.items():
            put(name, entries.mask(chosen[units.name] & (reads == 0)), fresh[name])
    return Change(new, cleared(moments, touched) if clear else {})


def _fresh(
    network: Network, groups: Sequence[UnitGroup], drawn: Sequence[UnitGroup], draw: Draw, incoming: Incoming
) -> Params:
    """New values of what is to be drawn; biases are not (they start at 0), so only these layers are."""
    normalisers = [name for units in groups for name in units.normaliser]
    weights = [name for units in drawn for name in units.incoming]
    if incoming == "initial":
        return draw.fresh(network, [*normalisers, *weights])
    found = draw.fresh(network, normalisers) if normalisers else {}
    generator = draw.generator()
    shapes = {name: p.shape for name, p in network.module.named_parameters()}
    for name in dict.fromkeys(weights):
        if len(shapes[name]) > 1:
            space = shapes[name][2:].numel()
            bound = (6 / (space * (shapes[name][0] + shapes[name][1]))) ** 0.5
            found[name] = torch.empty(shapes[name]).uniform_(-bound, bound, generator=generator)
    return found


def none_due(network: Network, params: Params) -> State:
    """A choice of no units, to be carried in a state, where the parameters are."""
    device = next(iter(params.values())).device
    units = {units.name: torch.zeros(units.size, dtype=torch.bool, device=device) for units in network.units}
    return {"due": torch.tensor(False, device=device), "units": units}
