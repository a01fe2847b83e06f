"""Repairs of scales: of layers, with and without a change of the function, of normalisers, and of the outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pliant.causes.base import Repair, Repaired, axes, cleared, layers, linear_head, ratio, seen, some
from pliant.causes.folding import moved
from pliant.causes.rescaling import ROUNDING, log_ratios, rescaled, rescaled_moments, rescalings
from pliant.functional import norms, units
from pliant.interventions.base import Draw
from pliant.network import Network, Params, Trace
from pliant.probe.targets import outputs
from pliant.sites import rows


@dataclass(frozen=True)
class Norm(Repair):
    """Every layer's weights and biases are rescaled, as one, to the norm they have in a fresh draw.

    Normalisation layers stay as they are, and so does what `TargetScale` mends: the output layer's bias, and its
    weights along the mean feature; the rest of these is rescaled. Where layers are homogeneous this changes the scale
    of the function, else the function.

    Args:
        apart: leave to `HiddenSchedule` the part of it that keeps the function, and to `LogitScale` the output layer;
            then class tokens and positions count as layers, too.

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

    apart: bool = False

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        fresh = {n: p.to(before.params[n]) for n, p in draw.fresh(network).items()}
        params = dict(before.params)
        every, left, scaling = self._apart(network, params, fresh) if self.apart else (layers(network), {}, [])
        linear = linear_head(network, before.params, x)
        for names in every:
            if names == scaling:
                continue
            if linear is not None and (weight := linear.weight) in names:
                kept = linear.along(params[weight])
                rest, like = params[weight] - kept, fresh[weight] - linear.along(fresh[weight])
                params[weight] = kept + rest * ratio(norms.norm({"": like}), norms.norm({"": rest}))
                continue
            scale = ratio(norms.norm(some(fresh, names)), norms.norm(some(params, names)))
            scale = scale * math.exp(-left.get(names[0], 0.0))
            if self.apart and abs(float(scale) - 1) < ROUNDING:
                continue
            params |= {name: params[name] * scale for name in names}
        return Repaired(params, before.moments)

    def _apart(
        self, network: Network, params: Params, fresh: Params
    ) -> tuple[list[list[str]], dict[str, float], list[str]]:
        """All modules, log factors that are left to others, by the first parameter, and the module that is."""
        found = rescalings(network)
        factors = found.kept(log_ratios(found.modules, fresh, params)).tolist()
        return found.modules, {m[0]: f for m, f in zip(found.modules, factors, strict=True)}, found.scaling

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        each = [float(norms.norm_ratio(some(before.params, n), some(fresh, n))) for n in layers(network)]
        known = [ratio for ratio in each if not math.isnan(ratio)] or [math.nan]
        return {"norm_ratio": sum(known) / len(known), "largest_ratio": max(known)}


@dataclass(frozen=True)
class HiddenSchedule(Repair):
    """Layers are rescaled towards the norms of a fresh draw as far as the function stays, with the optimizer's state.

    Where a normaliser follows, larger weights compute the same and move less with each step: the learning rate has
    decayed, on a schedule that nobody wrote. Of log factors to the norms of a fresh draw, the part is taken that keeps
    the function: all of it for a layer before a normaliser, the common part of all that a residual stream is the sum
    of, where normalisers read it. The state of the optimizer becomes that of the same training at the new scale, so
    that its steps are as long as before, on smaller weights. Without normalisers nothing of the kind is there.

    Args:
        moved: how far the outputs may move, as a root mean square over theirs: where a normaliser's `eps` counts beside
            what it reads, layers are rescaled a part of the way, in tenths.

    >>> from torch import nn
    >>> module = nn.Sequential(nn.Linear(9, 50), nn.LayerNorm(50), nn.ReLU(), nn.Linear(50, 1))
    >>> net, x = Network(module, example=torch.ones(1, 9)), torch.randn(20, 9)
    >>> aged = net.fresh(0) | {name: 8 * p for name, p in net.fresh(0).items() if name[0] == "0"}
    >>> mended = HiddenSchedule().repair(net, Repaired(aged, {}), x, Draw(0, 0)).params
    >>> [name for name, p in mended.items() if not torch.equal(p, aged[name])]
    ['0.weight', '0.bias']
    >>> bool((net(mended, x) - net(aged, x)).abs().max() < 1e-3)
    True

    Source: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement learning".
    """

    name: ClassVar[str] = "hidden schedule"
    kept: ClassVar[str] = "its low effective learning rate"
    undone: ClassVar[str] = "scaling what normalisers read to the norms of a fresh network"
    cure: ClassVar[str] = 'NormalizeAndProject(scales="project"), WeightNormRescale()'

    moved: float = 0.01

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        found, now = rescalings(network), outputs(network, before.params, x)
        wanted = found.kept(log_ratios(found.modules, draw.fresh(network), before.params))
        for tenths in range(10 if wanted.any() else 0, 0, -1):
            factors = tenths / 10 * wanted
            params = rescaled(before.params, found.modules, factors)
            if moved(now, outputs(network, params, x), network.mask) <= self.moved:
                return Repaired(params, rescaled_moments(before.moments, found.modules, factors))
        return before

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        found = rescalings(network)
        if not found.basis.shape[1]:
            return {}
        growth = -found.kept(log_ratios(found.modules, fresh, before.params))
        return {"learning_rate_divided_by_up_to": float(growth.max().exp())}


@dataclass(frozen=True)
class NormaliserScales(Repair):
    """Scales and offsets of normalisation layers go back to those of a fresh draw, their optimizer's state is cleared.

    Scales that shrank make small features and small gradients, large ones the contrary. This changes the function.
    Those of dead units are left to `Units`.

    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 1)), torch.ones(1, 2))
    >>> aged = net.fresh(0) | {"1.weight": torch.full((3,), 0.01)}
    >>> NormaliserScales().repair(net, Repaired(aged, {}), torch.ones(4, 2), Draw(0, 0)).params["1.weight"]
    tensor([1., 1., 1.])

    Source: ours; scales that decay or grow are in Lyle et al. 2024, "Normalization and effective learning rates".
    """

    name: ClassVar[str] = "normaliser scales"
    kept: ClassVar[str] = "the scales and offsets of its normalisers"
    undone: ClassVar[str] = "setting them to those of a fresh network"
    cure: ClassVar[str] = 'L2Init(1e-3), NormalizeAndProject(scales="project")'

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        names = [name for name in network.names if name in network.normalisers]
        if not names:
            return before
        fresh = draw.fresh(network, names)
        new = {name: fresh[name].to(before.params[name]) for name in names}
        trace = network.trace(before.params, x, axes(network))
        for group in (group for group in network.units if group.normaliser):
            slope = seen(trace, group)[2]
            for name, entries in group.normaliser.items() if len(slope) else ():
                new[name] = torch.where(entries.mask(units.dead(slope)), before.params[name], new[name])
        return cleared(before, new)

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        changes = [before.params[n].cpu() - fresh[n].cpu() for n in network.names if n in network.normalisers]
        sizes = [
            before.params[n].square().mean().sqrt() / fresh[n].square().mean().sqrt()
            for n in network.names
            if n in network.normalisers and fresh[n].any()
        ]
        if not sizes:
            return {}
        ratios, moves = torch.stack([size.cpu() for size in sizes]), torch.cat([c.flatten() for c in changes])
        return {
            "smallest_ratio": float(ratios.min()),
            "largest_ratio": float(ratios.max()),
            "root_mean_square_change": float(moves.square().mean().sqrt()),
        }


@dataclass(frozen=True)
class LogitScale(Repair):
    """Outputs that vary more than those of a fresh network are scaled down to vary as much.

    The output layer is multiplied with the number that does it, but for its part along the mean feature and its bias,
    so that the mean prediction stays. Where it is tied to an embedding, what scales the outputs instead is: the scale
    and offset of the last normaliser. Where nothing does, as with several heads, all is left alone. The optimizer's
    state stays.

    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 1)), example=torch.ones(1, 2))
    >>> params, x = net.fresh(0), torch.randn(50, 2)
    >>> aged = params | {"2.weight": 30 * params["2.weight"]}
    >>> mended = LogitScale().repair(net, Repaired(aged, {}), x, Draw(0, 0)).params
    >>> bool(net(mended, x).std() < net(aged, x).std() / 5)
    True

    Source: ours; saturated logits are in P2's figure of mechanisms.
    """

    name: ClassVar[str] = "logit scale"
    kept: ClassVar[str] = "the scale of its outputs"
    undone: ClassVar[str] = "scaling them to those of a fresh network"
    cure: ClassVar[str] = "L2(1e-4), a PopArt or HLGauss head"

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        names = rescalings(network).scaling
        fresh = {name: p.to(before.params[name]) for name, p in draw.fresh(network).items()}
        scale = float(_spread(network, fresh, x) / _spread(network, before.params, x).clamp(min=1e-300))
        if not names or not scale < 1:
            return before
        linear = linear_head(network, before.params, x)
        if linear is not None and linear.weight in names:
            kept = linear.along(before.params[linear.weight])
            new = {linear.weight: kept + scale * (before.params[linear.weight] - kept)}
        else:
            new = {name: scale * before.params[name] for name in names}
        return Repaired(before.params | new, before.moments)

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        fresh = {name: p.to(before.params[name]) for name, p in fresh.items()}
        now, then = _spread(network, before.params, x), _spread(network, fresh, x)
        return {"spread_of_outputs_over_fresh": float(now / then)} if then > 0 else {}


def _spread(network: Network, params: Params, x: Any) -> Tensor:
    """How much the outputs vary over the samples, without what the output layer reads along the mean feature."""
    linear = linear_head(network, params, x)
    if linear is not None:
        params = params | {linear.weight: params[linear.weight] - linear.along(params[linear.weight])}
    leaves = [y for y in tree_leaves(outputs(network, params, x)) if isinstance(y, Tensor) and y.is_floating_point()]
    parts = [rows(y, network.mask).double() for y in leaves]
    return torch.cat([(y - y.mean(0)).flatten() for y in parts]).square().mean().sqrt()
