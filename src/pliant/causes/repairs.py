"""Repairs: each undoes one mechanism of plasticity loss in a network, and as little else as can be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pliant.causes.folding import Folded, fold, moved
from pliant.diagnostics._layers import Layer, layers_of
from pliant.functional import norms, units
from pliant.functional.ranks import singular_values
from pliant.interventions._recycling import recycle
from pliant.interventions.base import Draw
from pliant.interventions.optimizer_reset import reset_moments
from pliant.network import Network, Params, Trace
from pliant.optim import Moments
from pliant.sites import rows
from pliant.units import UnitGroup


class Repaired(NamedTuple):
    """A network's parameters and its optimizer's state; an empty state is a fresh one.

    >>> Repaired({"weight": torch.ones(1)}, {}).moments
    {}
    """

    params: Params
    moments: Moments


@dataclass(frozen=True)
class Repair(ABC):
    """One mechanism, undone.

    `name` is what everything calls the mechanism, `cure` the interventions that treat it; where the mechanism serves a
    network well, "keeping `kept` helps, `undone` costs". Repairs are applied in the order in which they are listed.

    >>> OptimizerState().repair(None, Repaired({}, {"exp_avg": {}}), None, Draw(0, 0))
    Repaired(params={}, moments={})
    """

    name: ClassVar[str]
    kept: ClassVar[str]
    undone: ClassVar[str]
    cure: ClassVar[str]

    @abstractmethod
    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        """The network after the repair; `x` are inputs to look at, `draw` is where random numbers are from."""

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        """Numbers about the mechanism in the network as it is, by what they are.

        `trace` is that of `x`, with units along `axes`; `fresh` is a draw of the initial distribution.
        """
        return {}


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
        return _with(Repaired(last.params, before.moments), change.params, change.moments)

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        sites = [seen for group in network.units if len((seen := _seen(trace, group))[0])]  # an expert may have none
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
            pre, post, slope = _seen(trace, group)
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
class Norm(Repair):
    """Every layer's weights and biases are rescaled, as one, to the norm they have in a fresh draw.

    Normalisation layers stay as they are, and so does what `TargetScale` mends: the output layer's bias, and its
    weights along the mean feature; the rest of these is rescaled. Where layers are homogeneous this changes the scale
    of the function, else the function.

    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(500, 10), nn.ReLU(), nn.Linear(10, 1)), example=torch.ones(1, 500))
    >>> aged = {name: 8 * p for name, p in net.fresh(0).items()}
    >>> mended = Norm().repair(net, Repaired(aged, {}), torch.randn(9, 500), Draw(0, 0)).params
    >>> bool(7 < aged["0.weight"].norm() / mended["0.weight"].norm() < 9)
    True

    Source: ours; norm growth is P2's mechanism (section 3.3).
    """

    name: ClassVar[str] = "norm growth"
    kept: ClassVar[str] = "the norms of its layers"
    undone: ClassVar[str] = "scaling them to those of a fresh network"
    cure: ClassVar[str] = 'L2(1e-4), NormalizeAndProject(scales="project")'

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        fresh = {n: p.to(before.params[n]) for n, p in draw.fresh(network).items()}
        params = dict(before.params)
        linear = _linear_head(network, before.params, x)
        for names in _layers(network):
            if linear is not None and (weight := linear.weight) in names:
                kept = linear.along(params[weight])
                rest, like = params[weight] - kept, fresh[weight] - linear.along(fresh[weight])
                params[weight] = kept + rest * _ratio(norms.norm({"": like}), norms.norm({"": rest}))
                continue
            scale = _ratio(norms.norm(_some(fresh, names)), norms.norm(_some(params, names)))
            params |= {name: params[name] * scale for name in names}
        return Repaired(params, before.moments)

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        ratios = [norms.norm(_some(before.params, n)) / norms.norm(_some(fresh, n)) for n in _layers(network)]
        return {"norm_ratio": float(torch.stack(ratios).mean()), "largest_ratio": float(torch.stack(ratios).max())}


@dataclass(frozen=True)
class OutputLayer(Repair):
    """The output layer is drawn anew but for its part along the mean feature, and its optimizer's state is cleared.

    With the mean m of the penultimate features, of length 1, W <- W' - W' m m' + W m m' for a fresh W', and b stays:
    the mean prediction is `TargetScale`'s to mend. Where there is not one linear output layer, all of it is drawn.

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

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        drawn = draw.fresh(network, network.head)
        new = {name: drawn[name].to(before.params[name]) for name in network.head}
        linear = _linear_head(network, before.params, x)
        if linear is not None:
            weight = linear.weight
            new = {weight: new[weight] + linear.along(before.params[weight] - new[weight])}
        return _cleared(before, new)

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        ratio = norms.norm(_some(before.params, network.head)) / norms.norm(_some(fresh, network.head))
        return {"norm_ratio": float(ratio)}


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
        linear = _linear_head(network, before.params, x)
        if linear is None:
            return before
        w, bias = before.params[linear.weight], linear.bias
        return _cleared(before, {linear.weight: w - linear.along(w), bias: torch.zeros_like(before.params[bias])})

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        s = singular_values(trace.features)
        found = {"top_singular_share": float(s[0].square() / s.square().sum())}
        if isinstance(trace.output, Tensor):
            y = rows(trace.output, network.mask)
            found["output_offset"] = float((y.mean(0).abs() / y.std(0).clamp(min=1e-12)).mean())
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
    cure: ClassVar[str] = "OptimizerReset(), AdamRel(), betas=(0.9, 0.9)"

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        return Repaired(before.params, {})


REPAIRS: tuple[Repair, ...] = (Units(), Norm(), OutputLayer(), TargetScale(), OptimizerState())


def axes(network: Network) -> dict[str, int]:
    """Where the units of each site run."""
    return {site: axis for group in network.units for site, axis in group.sites}


def _seen(trace: Trace, group: UnitGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Preactivations, activations and slopes of units, `(samples, units)`, over all the sites where they are active."""
    sites = [trace.sites[name] for name, _ in group.sites]
    return tuple(torch.cat(parts) for parts in zip(*sites, strict=True))  # type: ignore[return-value]


def _layers(network: Network) -> list[list[str]]:
    """The parameters of every layer that has a weight matrix or kernel; normalisation layers are none."""
    layers: dict[str, list[str]] = {}
    for name in network.names:
        if name not in network.normalisers:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
    return [names for names in layers.values() if any(name in network.weights for name in names)]


class _LinearHead(NamedTuple):
    """The one output layer of a network, its weight and bias by name, and the mean of its inputs, of length 1."""

    weight: str
    bias: str
    layer: Layer
    mean: Tensor

    def along(self, weight: Tensor) -> Tensor:
        """The part of a weight matrix that reads the mean."""
        w = self.layer.rows(weight)
        return self.layer.rows((w @ self.mean)[:, None] * self.mean)  # turned twice, where it is `(incoming, units)`


def _linear_head(network: Network, params: Params, x: Any) -> _LinearHead | None:
    """None if it is not one linear layer with a bias."""
    features = network.trace(params, x).features
    weights = [name for name in network.head if params[name].ndim == 2]
    biases = [name for name in network.head if params[name].ndim == 1]
    last = layers_of(network, params, x)[-1] if len(weights) == len(biases) == 1 else None
    if last is None or last.weight != weights[0] or last.rows(params[weights[0]]).shape[1] != features.shape[1]:
        return None
    mean = features.mean(0)
    return _LinearHead(weights[0], biases[0], last, mean / mean.norm().clamp(min=torch.finfo(mean.dtype).tiny))


def _ratio(then: Tensor, now: Tensor) -> Tensor:
    """One norm over another; 1 where either is 0."""
    return torch.where((now > 0) & (then > 0), then / now, 1.0)


def _cleared(before: Repaired, new: Params) -> Repaired:
    """The network with new values of some parameters, whose part of the optimizer's state is cleared."""
    return _with(before, new, reset_moments(before.moments, tuple(new)))


def _with(before: Repaired, params: Params, moments: Moments) -> Repaired:
    """The network with some parameters and some of the optimizer's state replaced."""
    kept = {kind: group | moments.get(kind, {}) for kind, group in before.moments.items()}
    return Repaired(before.params | params, kept)


def _some(params: Params, names: Any) -> Params:
    return {name: params[name] for name in names}
