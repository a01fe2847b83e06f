"""Repairs: each undoes one mechanism of plasticity loss in a network, and as little else as can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pliant.causes.base import LinearHead, Repair, Repaired, axes, cleared, linear_head, ratio, replaced, seen, some
from pliant.causes.folding import Folded, fold, moved
from pliant.causes.scales import HiddenSchedule, LogitScale, Norm, NormaliserScales
from pliant.causes.spectra import Spectra
from pliant.functional import norms, units
from pliant.functional.ranks import singular_values
from pliant.interventions._recycling import recycle
from pliant.interventions.base import Draw
from pliant.network import Network, Params, Trace
from pliant.sites import rows
from pliant.units import Entries, UnitGroup

USUAL = 0.95  # of the units of a fresh network


@dataclass(frozen=True)
class Units(Repair):
    """Dead units are drawn anew; linearized ones are folded into the others, then drawn anew; the function stays.

    A dead unit says the same on all inputs: the biases that follow take it over. A linearized one is a least-squares
    combination of the units that are not, of linearized ones that stay, and of a constant: outgoing weights and biases
    take it over, of as many units as the outputs on the inputs at hand allow. Where what reads units cannot do that (it
    multiplies them by another branch, takes the largest of several, is a residual stream), linearized ones are left
    alone, and so are dead ones that are not 0; the evidence counts them. Only other new units read a new one. Behind a
    per-sample normaliser only scale, offset and outgoing weights are reset.

    Args:
        tolerance: of `pliant.functional.units.linearized`.
        moved: how far the outputs may move, as a root mean square over theirs; `math.inf` folds all linearized units,
            whatever it does to the function.

    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), example=torch.ones(1, 1))
    >>> params = net.fresh(0) | {"0.weight": torch.ones(2, 1), "0.bias": torch.tensor([-9.0, 0.5])}
    >>> x = torch.linspace(-1, 1, 9)[:, None]
    >>> mended = Units().repair(net, Repaired(params, {}), x, Draw(0, 0)).params
    >>> torch.equal(net(mended, x), net(params, x)), bool(mended["2.weight"][0, 0] == 0)
    (True, True)

    Source: ours; dead and linearized units are P2's mechanism (section 3.2), recycling is ReDo's (Sokar et al. 2023).
    """

    name: ClassVar[str] = "units"
    kept: ClassVar[str] = "its dead and linearized units"
    undone: ClassVar[str] = "drawing them anew"
    cure: ClassVar[str] = "LayerNorm(), ReDo(tau=0.0)"

    tolerance: float = 1e-3
    moved: float = 1e-4

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        folded = self._folded(network, before.params, x, network.trace(before.params, x, axes(network)))
        chosen = {name: f.gone for name, f in folded.items()}
        if not any(gone.any() for gone in chosen.values()):
            return before
        *_, last = folded.values()
        change = recycle(network, chosen, last.params, before.moments, draw, connected=True)
        return replaced(Repaired(last.params, before.moments), change.params, change.moments)

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        sites = [found for group in network.units if len((found := seen(trace, group))[0])]  # an expert may have none
        if not sites:
            return {}
        dead = torch.cat([units.dead(slope) for _, _, slope in sites])
        linear = torch.cat([units.linearized(pre, post, slope, self.tolerance) for pre, post, slope in sites])
        found = {"dead": float(dead.float().mean()), "linearized": float(linear.float().mean())}
        folded = self._folded(network, before.params, x, trace).values()
        left = {
            "linearized left alone (others do not make them up)": sum(f.alone for f in folded),
            "linearized left alone (what reads them cannot take them over)": sum(f.bound for f in folded),
            "dead left alone (what reads them cannot take them over)": sum(f.dead for f in folded),
        }
        return found | {name: num for name, num in left.items() if num}

    def _folded(self, network: Network, params: Params, x: Any, trace: Trace) -> dict[str, Folded]:
        """Groups of units without dead and linearized ones, one after another; each may move the outputs some more."""
        found: dict[str, Folded] = {}
        for group in network.units:
            pre, post, slope = seen(trace, group)
            if not len(pre):  # nothing says what its units are
                found[group.name] = Folded(params, torch.zeros(group.size, dtype=torch.bool, device=pre.device))
                continue
            linear = units.linearized(pre, post, slope, self.tolerance)
            most = self.moved * (len(found) + 1) / len(network.units)
            change = lambda new: moved(trace.output, network(new, x), network.mask)  # noqa: E731
            found[group.name] = fold(group, params, post, units.dead(slope), linear, change, most)
            params = found[group.name].params
        return found


@dataclass(frozen=True)
class Preactivations(Repair):
    """Units whose preactivations lean to one side more than those of 19 in 20 new units are centred: their mean is 0.

    How far a unit leans is the mean of its preactivation over the standard deviation. The biases move; what reads the
    units gets the same mean as before, where it has a bias, too. Where targets are far from 0, say, preactivations
    drift to one side until most units are always on: what others do not make up, `Units` cannot fold, and the drift
    itself is undone here. This changes the function. Dead units are left to `Units`, those behind a normaliser to
    `NormaliserScales`.

    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(2, 50), nn.ReLU(), nn.Linear(50, 1)), example=torch.ones(1, 2))
    >>> params, x = net.fresh(0), torch.randn(100, 2)
    >>> aged = params | {"0.bias": params["0.bias"] + 9}
    >>> mended = Preactivations().repair(net, Repaired(aged, {}), x, Draw(0, 0)).params
    >>> bool(mended["0.bias"].abs().max() < 3), [name for name, p in mended.items() if not torch.equal(p, aged[name])]
    (True, ['0.bias', '2.bias'])

    Source: ours; preactivations that shift are P2's mechanism (section 3.2).
    """

    name: ClassVar[str] = "preactivation shift"
    kept: ClassVar[str] = "the means of its preactivations"
    undone: ClassVar[str] = "centring them"
    cure: ClassVar[str] = "LayerNorm(), L2Init(1e-3)"

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        groups = [group for group in network.units if _biases(group, before.params)]
        if not groups:
            return before
        fresh = {n: p.to(before.params[n]) for n, p in draw.fresh(network).items()}
        like, params = network.trace(fresh, x, axes(network)), dict(before.params)
        for group in groups:
            pre, post, slope = seen(network.trace(params, x, axes(network)), group)
            if len(pre) < 2:
                continue
            most = _lean(seen(like, group)[0]).abs().float().quantile(USUAL)
            drifted = (_lean(pre).abs() > most) & ~units.dead(slope)
            if not drifted.any():
                continue
            shift = torch.where(drifted, -pre.mean(0), 0.0)
            for name, entries in _biases(group, params).items():
                params[name] = params[name] + entries.spread(shift).to(params[name])
            now = seen(network.trace(params, x, axes(network)), group)[1]
            for weight, bias in group.biases.items():
                carried = group.outgoing[weight].spread(post.mean(0) - now.mean(0)) * params[weight]
                params[bias] = params[bias] + group.outgoing[weight].by_output(carried).to(params[bias])
        return Repaired(params, before.moments)

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        fresh = {n: p.to(before.params[n]) for n, p in fresh.items()}
        groups = [group for group in network.units if len(seen(trace, group)[0]) > 1]
        if not groups:
            return {}
        like = network.trace(fresh, x, axes(network))
        now, then = (
            torch.cat([_lean(seen(t, group)[0]) for group in groups]).square().mean().sqrt() for t in (trace, like)
        )
        return {"mean_over_deviation": float(now), "of_a_fresh_network": float(then)}


@dataclass(frozen=True)
class OutputLayer(Repair):
    """The output layer is drawn anew but for its part along the mean feature, and its optimizer's state is cleared.

    With the mean m of the penultimate features, of length 1, W <- W' - W' m m' + W m m' for a fresh W', and b stays:
    the mean prediction is `TargetScale`'s to mend. Where there is not one linear output layer, all of it is drawn. An
    embedding that is tied to it is the same tensor, and is drawn with it.

    Args:
        apart: leave its norm, but for that part, to `LogitScale`.

    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), example=torch.ones(1, 2))
    >>> params, x = net.fresh(0), torch.randn(50, 2)
    >>> mended = OutputLayer().repair(net, Repaired(params, {}), x, Draw(1, 0)).params
    >>> [name for name, p in mended.items() if not torch.equal(p, params[name])]
    ['2.weight']
    >>> bool((net(mended, x).mean() - net(params, x).mean()).abs() < 1e-5)
    True

    Source: ours; resets of the last layer are as in P1 section 6.2.
    """

    name: ClassVar[str] = "output layer"
    kept: ClassVar[str] = "its output layer"
    undone: ClassVar[str] = "drawing it anew"
    cure: ClassVar[str] = 'Reset("last")'

    apart: bool = False

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        if not network.head:  # it is frozen
            return before
        drawn = draw.fresh(network, network.head)
        new = {name: drawn[name].to(before.params[name]) for name in network.head}
        linear = linear_head(network, before.params, x)
        if linear is not None:
            weight = linear.weight
            new = {weight: new[weight] + linear.along(before.params[weight] - new[weight])}
        if self.apart:
            new = _as_large(new, before.params, linear)
        return cleared(before, new)

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        if not network.head:
            return {}
        return {"norm_ratio": float(norms.norm_ratio(some(before.params, network.head), some(fresh, network.head)))}


@dataclass(frozen=True)
class TargetScale(Repair):
    """The mean prediction goes to 0, and the head loses its part along the mean feature.

    With the mean m of the penultimate features, W <- W - W m m' / m'm, and b <- 0: then the mean output is 0, around
    which the targets of a fresh probe lie. The optimizer's state of both is cleared. For a network with one linear
    output layer; others are left alone.

    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), example=torch.ones(1, 2))
    >>> params, x = net.fresh(0) | {"2.bias": torch.tensor([100.0])}, torch.randn(50, 2)
    >>> mended = TargetScale().repair(net, Repaired(params, {}), x, Draw(0, 0)).params
    >>> bool(net(mended, x).mean().abs() < 1e-5)
    True

    Source: ours; targets far from 0 are P2's mechanism (section 3.1).
    """

    name: ClassVar[str] = "target scale"
    kept: ClassVar[str] = "its mean prediction"
    undone: ClassVar[str] = "moving it to 0"
    cure: ClassVar[str] = "a PopArt or HLGauss head"

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        linear = linear_head(network, before.params, x)
        if linear is None:
            return before
        w, bias = before.params[linear.weight], linear.bias
        return cleared(before, {linear.weight: w - linear.along(w), bias: torch.zeros_like(before.params[bias])})

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        energy = singular_values(trace.features).square()
        found = {"top_singular_share": float(energy[0] / energy.sum())}
        if isinstance(trace.output, Tensor):
            y = rows(trace.output, network.mask)
            spread = y.std(0)
            varies = spread > 8 * torch.finfo(y.dtype).eps * y.abs().amax(0)  # by more than rounding
            found["output_offset"] = float((y.mean(0).abs() / spread)[varies].mean())
        return found


@dataclass(frozen=True)
class OptimizerState(Repair):
    """The optimizer starts afresh, without moments and step count; where none were carried, nothing is repaired.

    >>> OptimizerState().repair(None, Repaired({}, {"step": {}}), None, Draw(0, 0)).moments
    {}

    Source: ours; P1 section 4.1 shows what stale second moments do.
    """

    name: ClassVar[str] = "optimizer state"
    kept: ClassVar[str] = "the optimizer's state"
    undone: ClassVar[str] = "clearing it"
    cure: ClassVar[str] = "betas=(0.9, 0.9), AdamRel(), OptimizerReset()"

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        return Repaired(before.params, {})


REPAIRS: tuple[Repair, ...] = (Units(), Norm(), OutputLayer(), TargetScale(), OptimizerState())  # of P2's mechanisms
EVERY: tuple[Repair, ...] = (
    Units(),
    Spectra(),
    Preactivations(),
    HiddenSchedule(),
    Norm(apart=True),
    NormaliserScales(),
    LogitScale(),
    OutputLayer(apart=True),
    TargetScale(),
    OptimizerState(),
)


def _biases(group: UnitGroup, params: Params) -> dict[str, Entries]:
    """What moves the preactivations of units by themselves; nothing where a normaliser's offset does."""
    if group.normaliser or group.shared_statistics:
        return {}
    return {name: entries for name, entries in group.incoming.items() if params[name].ndim == 1}


def _lean(pre: Tensor) -> Tensor:
    """The mean of each unit's preactivation over its standard deviation; 0 for one that does not vary."""
    deviation = pre.std(0, correction=0)  # of one sample, 0
    return torch.where(deviation > 0, pre.mean(0) / deviation.clamp(min=torch.finfo(pre.dtype).tiny), 0.0)


def _as_large(new: Params, old: Params, linear: LinearHead | None) -> Params:
    """New values of an output layer, as large as the old ones are; what it reads along the mean feature is as it is."""
    if linear is None:
        scale = ratio(norms.norm(some(old, new)), norms.norm(new))
        return {name: p * scale for name, p in new.items()}
    weight = linear.weight
    kept = linear.along(new[weight])
    rest, like = new[weight] - kept, old[weight] - linear.along(old[weight])
    return {weight: kept + rest * ratio(norms.norm({"": like}), norms.norm({"": rest}))}
