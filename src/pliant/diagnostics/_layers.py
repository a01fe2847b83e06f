"""The linear maps of a forward pass, each with the names of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from pliant.diagnostics._shared import given
from pliant.diagnostics.base import Observation
from pliant.levels import depth, unmapped
from pliant.maps import Map, Maps, Weights
from pliant.network import Network, Params
from pliant.sites import rows, uncompiled_parts


class Layer(NamedTuple):
    """One linear map whose weight is a parameter, or a transpose or a cast of one.

    Attributes:
        weight: name of the weight.
        bias: name of the bias, where it has one that is a parameter.
        input: what it reads, features last (channels of a convolution are second).
        apply: the same with another value of the parameter and without a bias, as `(samples, units)`, without padding.
        rows: a tensor of the parameter's shape as `(units, incoming)`.
    """

    weight: str
    bias: str | None
    input: Tensor
    apply: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor], Tensor]

    @property
    def name(self) -> str:
        return self.weight.removesuffix(".weight")


def _layer(seen: Map, weights: Weights, mask: Tensor | None) -> Layer | None:
    """None where the weight is another thing than a parameter."""
    weight, name = seen.weight, weights.name(seen.weight)
    if name is None:
        return None
    dim = seen.dim if seen.dim < 0 else 1 - weight.ndim  # of a convolution with a batch or without

    def apply(other: Tensor) -> Tensor:
        return rows(seen.apply(weights.like(weight, other)).movedim(dim, -1), mask)

    def rows_of(tensor: Tensor) -> Tensor:
        return seen.rows(weights.like(weight, tensor))

    return Layer(name, None if seen.bias is None else weights.name(seen.bias), seen.input, apply, rows_of)


def layers(seen: Observation) -> list[Layer]:
    """The calls of one forward pass in order, the output layer last; needs `network` and `x`."""
    network = given(seen.network, "network")
    return layers_of(network, seen.params, given(seen.x, "x"), seen.mask)


def layers_of(network: Network, params: Params, x: Any, mask: Tensor | None = None) -> list[Layer]:
    """The same of a network with these parameters; `ValueError` where there is none."""
    maps = Maps(params)
    with uncompiled_parts(), maps:
        network(params, x)
    if any(unmapped(t, depth())[1] for seen, _ in maps.found for t in (seen.input, seen.weight)):
        raise ValueError(
            "expected layers that read whole batches, got some inside a torch.vmap of the forward pass, which are not "
            "seen as layers: write them for whole batches, or leave this out"
        )
    found = [_layer(seen, maps.weights, mask) for seen, _ in maps.found]
    known = [layer for layer in found if layer is not None]
    if not known:
        raise ValueError(
            "expected linear maps whose weights are parameters, saw none: write nn.Linear, F.linear(x, weight), or "
            "x @ weight"
        )
    return known


def hidden_layers(seen: Observation) -> list[Layer]:
    """Those before the output layer that are trained and that a sample reached; `ValueError` where there is none."""
    found, trained = layers(seen)[:-1], given(seen.gradients, "gradients")
    if not found:
        raise ValueError("expected a network with hidden layers, got a single linear or convolution layer")
    if not (found := [layer for layer in found if layer.weight in trained and layer.input.numel()]):
        raise ValueError("expected hidden layers that are trained, got frozen ones alone: write requires_grad_(True)")
    return found
