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
from pliant.sites import CONVOLUTIONS, uncompiled_parts


class Layer(NamedTuple):
    """One call whose weight is a parameter.

    Attributes:
        weight: name of the weight.
        bias: name of the bias, where it has one that is a parameter.
        input: what it read.
        apply: the same call with another weight and without a bias, as `(samples, units)`.
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
    def __init__(self, params: Params):
        super().__init__()
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
                    return func(x, other, None, *rest, **read).movedim(dim, -1).flatten(0, -2)

                def rows(tensor: Tensor) -> Tensor:
                    if groups is None:
                        return tensor.flatten(1)
                    return tensor.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)

                self.layers.append(Layer(self.names[id(weight)], bias, x, apply, rows))
        return output


def layers(seen: Observation) -> list[Layer]:
    """The calls of one forward pass in order, the output layer last; needs `network` and `x`."""
    network = given(seen.network, "network")
    return layers_of(network, seen.params, given(seen.x, "x"))


def layers_of(network: Network, params: Params, x: Any) -> list[Layer]:
    """The same of a network with these parameters; `ValueError` where there is none."""
    calls = _Calls(params)
    with uncompiled_parts(), calls:
        network(params, x)
    if not calls.layers:
        raise ValueError(
            "expected linear or convolution layers whose weights are parameters, saw none: write nn.Linear or "
            "F.linear(x, weight) for x @ weight.T"
        )
    return calls.layers


def hidden_layers(seen: Observation) -> list[Layer]:
    """Those before the output layer; `ValueError` where there is none."""
    found = layers(seen)[:-1]
    if not found:
        raise ValueError("expected a network with hidden layers, got a single linear or convolution layer")
    return found
