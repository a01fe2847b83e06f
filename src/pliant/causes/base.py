"""What a repair is, and the layers and output layer that several of them look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pliant.diagnostics._layers import Layer, layers_of
from pliant.interventions.base import Draw
from pliant.interventions.optimizer_reset import reset_moments
from pliant.network import Network, Params, Trace
from pliant.optim import Moments
from pliant.units import UnitGroup


class Repaired(NamedTuple):
    """A network's parameters and its optimizer's state; an empty state is a fresh one.

    >>> Repaired({"weight": torch.ones(1)}, {}).moments
    {}
    """

    params: Params
    moments: Moments


UNDEFINED = {  # why a number of the evidence is NaN
    "norm_ratio": "it begins at 0",
    "largest_ratio": "they begin at 0",
    "top_singular_share": "all features are 0",
    "output_offset": "the outputs do not vary",
}


@dataclass(frozen=True)
class Repair(ABC):
    """One mechanism, undone.

    `name` is what everything calls the mechanism, `cure` the interventions that treat it; where the mechanism serves a
    network well, "keeping `kept` helps, `undone` costs". Repairs are applied in the order in which they are listed.

    >>> from pliant.causes import OptimizerState
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
        """Numbers about the mechanism in the network as it is, by what they are; NaN where they are undefined.

        `trace` is that of `x`, with units along `axes`; `fresh` is a draw of the initial distribution.
        """
        return {}


def axes(network: Network) -> dict[str, int]:
    """Where the units of each site run."""
    return {site: axis for group in network.units for site, axis in group.sites}


def seen(trace: Trace, group: UnitGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Preactivations, activations and slopes of units, `(samples, units)`, over all the sites where they are active."""
    sites = [trace.sites[name] for name, _ in group.sites]
    return tuple(torch.cat(parts) for parts in zip(*sites, strict=True))  # type: ignore[return-value]


def layers(network: Network) -> list[list[str]]:
    """The parameters of every layer that has a weight matrix or kernel; normalisation layers are none."""
    layers: dict[str, list[str]] = {}
    for name in network.names:
        if name not in network.normalisers:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
    return [names for names in layers.values() if any(name in network.weights for name in names)]


class LinearHead(NamedTuple):
    """The one output layer of a network, its weight and bias by name, and the mean of its inputs, of length 1."""

    weight: str
    bias: str
    layer: Layer
    mean: Tensor

    def along(self, weight: Tensor) -> Tensor:
        """The part of a weight matrix that reads the mean."""
        w = self.layer.rows(weight)
        return self.layer.rows((w @ self.mean)[:, None] * self.mean)  # turned twice, where it is `(incoming, units)`


def linear_head(network: Network, params: Params, x: Any) -> LinearHead | None:
    """None if it is not one linear layer with a bias."""
    features = network.trace(params, x).features
    weights = [name for name in network.head if params[name].ndim == 2]
    biases = [name for name in network.head if params[name].ndim == 1]
    last = layers_of(network, params, x)[-1] if len(weights) == len(biases) == 1 else None
    if last is None or last.weight != weights[0] or last.rows(params[weights[0]]).shape[1] != features.shape[1]:
        return None
    mean = features.mean(0)
    return LinearHead(weights[0], biases[0], last, mean / mean.norm().clamp(min=torch.finfo(mean.dtype).tiny))


def ratio(then: Tensor, now: Tensor) -> Tensor:
    """One norm over another; 1 where either is 0."""
    return torch.where((now > 0) & (then > 0), then / now, 1.0)


def cleared(before: Repaired, new: Params) -> Repaired:
    """The network with new values of some parameters, whose part of the optimizer's state is cleared."""
    return replaced(before, new, reset_moments(before.moments, tuple(new)))


def replaced(before: Repaired, params: Params, moments: Moments) -> Repaired:
    """The network with some parameters and some of the optimizer's state replaced."""
    kept = {kind: group | moments.get(kind, {}) for kind, group in before.moments.items()}
    return Repaired(before.params | params, kept)


def some(params: Params, names: Any) -> Params:
    return {name: params[name] for name in names}
