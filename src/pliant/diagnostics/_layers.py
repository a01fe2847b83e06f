"""The linear and convolution calls of a forward pass, each with the names of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pliant.diagnostics._shared import given
from pliant.diagnostics.base import Observation
from pliant.network import Network, Params
from pliant.sites import CONVOLUTIONS, rows, uncompiled_parts


class Layer(NamedTuple):
    """One call whose weight is a parameter.

    Attributes:
        weight: name of the weight.
        bias: name of the bias, where it has one that is a parameter.
        input: what it read.
        apply: the same call with another weight and without a bias, as `(samples, units)`, without padding.
        rows: a tensor of the weight's shape as `(units, incoming)`.
    """

    weight: str
    bias: str | None
    input: Tensor
    apply: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor], Tensor]

    @property
    def name(self) -> str:
        return self.weight.removesuffix(".weight")


class _Calls(TorchFunctionMode):
    def __init__(self, params: Params, mask: Tensor | None):
        super().__init__()
        self.mask = mask
        self.names = {id(tensor): name for name, tensor in params.items()}
        self.layers: list[Layer] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.linear or func in CONVOLUTIONS:
            read = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **(kwargs or {})}
            x, weight, rest = read.pop("input"), read.pop("weight"), args[3:]
            bias = self.names.get(id(read.pop("bias", None)))
            if id(weight) in self.names:
                dim = -1 if func is F.linear else -weight.ndim + 1  # where units are, with a batch or without
                groups = output.shape[dim] // weight.shape[1] if "transpose" in func.__name__ else None

                def apply(other: Tensor) -> Tensor:
                    return rows(func(x, other, None, *rest, **read).movedim(dim, -1), self.mask)

                def rows_of(tensor: Tensor) -> Tensor:
                    if groups is None:
                        return tensor.flatten(1)
                    return tensor.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)

                self.layers.append(Layer(self.names[id(weight)], bias, x, apply, rows_of))
        return output


def layers(seen: Observation) -> list[Layer]:
    """The calls of one forward pass in order, the output layer last; needs `network` and `x`."""
    network = given(seen.network, "network")
    return layers_of(network, seen.params, given(seen.x, "x"), seen.mask)


def layers_of(network: Network, params: Params, x: Any, mask: Tensor | None = None) -> list[Layer]:
    """The same of a network with these parameters; `ValueError` where there is none."""
    calls = _Calls(params, mask)
    with uncompiled_parts(), calls:
        network(params, x)
    if not calls.layers:
        raise ValueError(
            "expected linear or convolution layers whose weights are parameters, saw none: write nn.Linear or "
            "F.linear(x, weight) for x @ weight.T"
        )
    return calls.layers


def hidden_layers(seen: Observation) -> list[Layer]:
    """Those before the output layer that are trained and that a sample reached; `ValueError` where there is none."""
    found, trained = layers(seen)[:-1], given(seen.gradients, "gradients")
    if not found:
        raise ValueError("expected a network with hidden layers, got a single linear or convolution layer")
    if not (found := [layer for layer in found if layer.weight in trained and layer.input.numel()]):
        raise ValueError("expected hidden layers that are trained, got frozen ones alone: write requires_grad_(True)")
    return found
