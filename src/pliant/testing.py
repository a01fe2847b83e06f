"""Does a reset of silent units do what it should? For resets of your own, in your own loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pliant.adapter import bare
from pliant.modules import seeded
from pliant.network import Network
from pliant.units import Entries, UnitGroup

TIMES = 20  # resets, each of a copy; their draws are pooled
NEVER = 1e-4  # chance of a Kolmogorov-Smirnov test that says "drawn otherwise" where draws are alike
ENTRIES = 30  # least pooled draws of a parameter that say anything of a distribution
MARK = 0.25  # what the optimizer keeps for silent units before the reset

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Finding:
    """One check of a reset: its name, whether it passed, and what was seen."""

    name: str
    passed: bool
    seen: str


@dataclass(frozen=True)
class CheckedReset:
    """All findings on a reset; true where every check passed. Printed, it has a line a check."""

    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """Names of the checks that did not pass."""
        return tuple(finding.name for finding in self.findings if not finding.passed)

    def __bool__(self) -> bool:
        return not self.wrong

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        return "\n".join(f"{'ok   ' if f.passed else 'WRONG'} {f.name:{width}}  {f.seen}" for f in self.findings)


def check_reset(
    reset: Callable[[nn.Module, torch.optim.Optimizer], Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Any,
    *,
    draw: Callable[[Tensor], Any] | None = None,
    fresh: Callable[[], nn.Module] | None = None,
) -> CheckedReset:
    """Tries a reset of silent units on copies of a model, in eval mode, in which every third unit has been silenced.

    Silenced units have zeros in all entries that feed them, so that ReLU, tanh, GELU and whatever else maps 0 to 0
    passes nothing on; those behind a normaliser that mixes units have them in its scale and offset alone, since other
    weights could not be drawn anew without moving other units. A reset that recycles them

    * draws all of them anew: no entry that feeds one stays 0 (biases may);
    * wakes them: each passes something on again, for some input after some of twenty resets;
    * writes zeros into what reads them, and so keeps the network's function;
    * leaves the entries of units that are not silent as they are;
    * draws as the layer's initialisation does, and other numbers each time;
    * clears what the optimizer keeps for the entries that it wrote, and nothing else.

    Args:
        reset: changes a model and its optimizer in place. It finds the silent units itself.
        model: any module with hidden units that can be told apart (see `Network.units`); not touched.
        optimizer: its optimizer, of `torch.optim`; not touched.
        inputs: a batch on which the reset will see the silenced units as silent.
        draw: fills a weight in place as the reset should, such as `torch.nn.init.kaiming_normal_`; by default the
            layers' own `reset_parameters`, or `fresh`.
        fresh: builds a new model, where its initialisation is not the layers' own.

    Raises:
        ValueError: no unit of the model can be silenced and drawn anew without a change of the function.

    >>> model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 2))
    >>> def reset(model, optimizer):
    ...     dead = (model[0].weight == 0).all(1)
    ...     with torch.no_grad():
    ...         model[0].weight[dead] = nn.Linear(4, 30).weight[dead]
    ...         model[0].bias[dead] = 0.0
    >>> check_reset(reset, model, torch.optim.SGD(model.parameters(), 0.1), torch.randn(20, 4)).wrong
    ('zeroes what reads them', 'keeps the function')

    Source: Sokar et al. 2023, section 4, for what recycling is.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"expected an optimizer of torch.optim, got {type(optimizer).__name__}")
    model, optimizer = copy.deepcopy((bare(model), optimizer))
    network = Network(model.eval(), example=inputs, fresh=fresh)
    groups = [units for units in network.units if units.exact and units.size > 1 and _fed(units)]
    if not groups:
        raise ValueError(f"{type(bare(model)).__name__} has no units that can be drawn anew without a change")
    dead = {units.name: torch.arange(units.size) % 3 == 1 for units in groups}
    feeding, reading, shared = _entries(groups, dead)
    before = _Tried(model, optimizer)
    before.age(inputs, feeding, reading)
    silent = _silent(network, groups, dead, before.params(), inputs)
    may_feed, may_read, _ = _entries(groups, silent)
    tried = []
    for _ in range(TIMES):
        made = _Tried(*copy.deepcopy((before.model, before.optimizer)))
        reset(made.model, made.optimizer)
        tried.append(made)
    first, weights = tried[0], {name: mask for name, mask in feeding.items() if name in network.weights}
    return CheckedReset(
        (
            _drawn(network, first, weights, shared),
            _woken(network, groups, dead, tried, inputs),
            _zeroed(first, reading, shared),
            _kept(before, first, inputs),
            _left_alone(before, first, may_feed, may_read),
            _distribution(network, tried, weights, shared, draw),
            _differs(tried, weights),
            _cleared(first, feeding, reading),
            _kept_moments(before, first, may_feed, may_read),
        )
    )


class _Tried:
    """A copy of the model with its optimizer."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.model, self.optimizer = model, optimizer

    def params(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def kept(self) -> Iterator[tuple[str, str, Tensor]]:
        """What the optimizer keeps of each parameter's shape: the parameter, the kind, the values."""
        names: dict[Tensor, str] = {p: name for name, p in self.model.named_parameters()}
        for p, state in self.optimizer.state.items():
            for kind, value in state.items():
                if p in names and isinstance(value, Tensor) and value.shape == p.shape and value.ndim:
                    yield names[p], kind, value

    def output(self, inputs: Any) -> Tensor:
        with torch.no_grad():
            return self.model(inputs)

    def age(self, inputs: Any, feeding: Masks, reading: Masks) -> None:
        """An optimizer step, and silence in what feeds the dead units."""
        self.optimizer.zero_grad()
        self.model(inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if name in feeding:
                    p[feeding[name]] = 0.0
            for name, _, value in self.kept():
                for masks in (feeding, reading):
                    if name in masks:
                        value[masks[name]] = MARK


def _fed(units: UnitGroup) -> dict[str, Entries]:
    """The entries that feed units and can be drawn anew without a change for others."""
    return units.normaliser if units.shared_statistics else {**units.incoming, **units.normaliser}


def _entries(groups: list[UnitGroup], dead: Masks) -> tuple[Masks, Masks, Masks]:
    """By parameter: entries that feed silent units, entries that read them, and those that do both."""
    feeding: Masks = {}
    reading: Masks = {}
    for units in groups:
        for masks, parts in ((feeding, _fed(units)), (reading, units.outgoing)):
            for name, entries in parts.items():
                mask = entries.mask(dead[units.name])
                masks[name] = masks[name] | mask if name in masks else mask
    return feeding, reading, {name: feeding[name] & reading[name] for name in feeding.keys() & reading.keys()}


def _only(masks: Masks, without: Masks) -> Masks:
    return {name: mask & ~without[name] if name in without else mask for name, mask in masks.items()}


def _silent(network: Network, groups: list[UnitGroup], dead: Masks, params: Masks, inputs: Any) -> Masks:
    """Which units pass nothing on for any input: those that were silenced, and those that were so before."""
    activations = network.watch(params, inputs).activations
    silent = {units.name: (units.activity(activations) == 0).all(0) for units in groups}
    for name, units in dead.items():
        if not silent[name][units].all():
            raise ValueError(f"units of {name!r} pass something on where nothing feeds them: silence is not 0 there")
    return silent


def _listed(found: list[str]) -> str:
    """Some of what was found."""
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if found[3:] else "")


def _drawn(network: Network, after: _Tried, weights: Masks, shared: Masks) -> Finding:
    """Where the initialisation itself has zeros, these may stay."""
    params, begun, total, found = after.params(), network.fresh(0), 0, []
    for name, mask in _only(weights, shared).items():
        total += int(mask.sum())
        if count := int((mask & (params[name] == 0) & (begun[name] != 0)).sum()):
            found.append(f"{count} of {name}")
    said = f"entries left at 0: {_listed(found)}" if found else f"{total} entries"
    return Finding("draws all of them anew", not found, said)


def _woken(network: Network, groups: list[UnitGroup], dead: Masks, tried: list[_Tried], inputs: Any) -> Finding:
    """A unit that is drawn anew may be silent by chance, but not each time."""
    awake = {name: torch.zeros_like(units) for name, units in dead.items()}
    for made in tried:
        activations = network.watch(made.params(), inputs).activations
        for units in groups:
            awake[units.name] |= (units.activity(activations) != 0).any(0)
    found = [
        f"{int((dead[name] & ~units).sum())} of {name}" for name, units in awake.items() if (dead[name] & ~units).any()
    ]
    said = f"units that never pass anything on: {_listed(found)}" if found else "all pass something on"
    return Finding("wakes them", not found, said)


def _zeroed(after: _Tried, reading: Masks, shared: Masks) -> Finding:
    params, found = after.params(), []
    for name, mask in _only(reading, shared).items():
        if count := int((params[name][mask] != 0).sum()):
            found.append(f"{count} of {name}")
    said = f"entries that are not 0: {_listed(found)}" if found else "all at 0"
    return Finding("zeroes what reads them", not found, said)


def _kept(before: _Tried, after: _Tried, inputs: Any) -> Finding:
    old, new = before.output(inputs), after.output(inputs)
    moved, scale = (new - old).abs().max().item(), old.abs().max().item()
    return Finding("keeps the function", moved <= 1e-4 * scale, f"outputs of up to {scale:.2g} moved by {moved:.2g}")


def _left_alone(before: _Tried, after: _Tried, feeding: Masks, reading: Masks) -> Finding:
    old, new, found = before.params(), after.params(), []
    for name, p in old.items():
        changed = new[name] != p
        for masks in (feeding, reading):
            if name in masks:
                changed &= ~masks[name]
        if count := int(changed.sum()):
            found.append(f"{count} of {name}")
    said = f"entries of other units that changed: {_listed(found)}" if found else "nothing else changed"
    return Finding("leaves the others alone", not found, said)


def _distribution(
    network: Network, tried: list[_Tried], weights: Masks, shared: Masks, draw: Callable[[Tensor], Any] | None
) -> Finding:
    """Draws of all copies beside as many of the initialisation."""
    from scipy.stats import ks_2samp  # slow to import, and changes the filters of warnings

    odd, compared = [], 0
    if draw is None:
        begun = [network.fresh(seed) for seed in range(len(tried))]
    else:
        begun = []
        for seed in range(len(tried)):
            with seeded(seed):
                begun.append({name: p for name, p in tried[0].params().items() if name in weights})
                for p in begun[-1].values():
                    draw(p)
    for name, mask in _only(weights, shared).items():
        drawn, expected = (
            torch.cat([params[name][mask] for params in sets]).numpy()
            for sets in ([made.params() for made in tried], begun)
        )
        drawn = drawn[drawn != 0]
        if len(drawn) < ENTRIES:
            continue
        compared += 1
        if float(ks_2samp(np.unique(drawn), np.unique(expected))[1]) < NEVER:  # pyright: ignore[reportArgumentType]
            odd.append(f"{name}: standard deviation {drawn.std():.2g}, at the start {expected.std():.2g}")
    said = "; ".join(odd) if odd else f"{compared} weights as at the start"
    return Finding("draws as the network begins", not odd, said)


def _differs(tried: list[_Tried], weights: Masks) -> Finding:
    one, other = tried[0].params(), tried[1].params()
    same = [name for name, mask in weights.items() if mask.any() and torch.equal(one[name][mask], other[name][mask])]
    said = f"two resets draw the same numbers into {', '.join(same)}" if same else "two resets draw different numbers"
    return Finding("draws other numbers each time", not same, said)


def _cleared(after: _Tried, feeding: Masks, reading: Masks) -> Finding:
    found = []
    for name, kind, value in after.kept():
        masks = [masks[name] for masks in (feeding, reading) if name in masks]
        if count := sum(int((value[mask] != 0).sum()) for mask in masks):
            found.append(f"{count} of {kind} of {name}")
    said = f"entries that are not 0: {_listed(found)}" if found else "all at 0"
    return Finding("clears their moments", not found, said)


def _kept_moments(before: _Tried, after: _Tried, feeding: Masks, reading: Masks) -> Finding:
    old, found = {(name, kind): value for name, kind, value in before.kept()}, []
    new = {(name, kind): value for name, kind, value in after.kept()}
    for (name, kind), value in old.items():
        if (name, kind) not in new:
            found.append(f"all of {kind} of {name}")
            continue
        changed = new[name, kind] != value
        for masks in (feeding, reading):
            if name in masks:
                changed &= ~masks[name]
        if count := int(changed.sum()):
            found.append(f"{count} of {kind} of {name}")
    said = f"entries of others that changed: {_listed(found)}" if found else "nothing else changed"
    return Finding("keeps the moments of others", not found, said)
