"""What a network is like whatever its parameters: found at random ones on inputs shaped like its example, once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pliant.adapter import inexact, tensors_of
from pliant.diagnostics._layers import layers_of
from pliant.network import Network, Params

T = TypeVar("T")


def once(function: Callable[[Network], T]) -> Callable[[Network], T]:
    """Remembers the answer for each network, as long as that lives."""
    known: WeakKeyDictionary[Network, T] = WeakKeyDictionary()

    @wraps(function)
    def remembered(network: Network) -> T:
        if network.example is None:
            raise ValueError("expected a batch of inputs to poke the network with: write Network(module, example=x)")
        if network not in known:
            known[network] = function(network)
        return known[network]

    return remembered


@once
def scale_invariant(network: Network) -> tuple[str, ...]:
    """The weights whose layer may be doubled, bias and all, without a change of the output.

    >>> from torch import nn
    >>> layers = nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 1)
    >>> scale_invariant(Network(nn.Sequential(*layers), example=torch.ones(4, 2)))
    ('0.weight',)
    """
    params, x = _generic(network)
    before, found = network(params, x), []
    for layer in {layer.weight: layer for layer in layers_of(network, params, x)}.values():
        doubled = {name: 2 * params[name] for name in (layer.weight, layer.bias) if name is not None}
        if _same(network(params | doubled, x), before):
            found.append(layer.weight)
    return tuple(found)


@once
def mixes_examples(network: Network) -> bool:
    """Whether the output for an example depends on the rest of the batch, as behind batch statistics.

    >>> from torch import nn
    >>> norm = nn.BatchNorm1d(3, track_running_stats=False)
    >>> mixes_examples(Network(nn.Sequential(nn.Linear(2, 3), norm), example=torch.ones(4, 2)))
    True
    """
    return mixed(network, *_generic(network))


@torch.no_grad()
def mixed(network: Network, params: Params, x: Any) -> bool:
    """Whether, at these parameters, the outputs for examples depend on the rest of the batch, or on its order."""
    stream = torch.get_rng_state()
    try:
        alone = network(params, _first(x))
    except (ValueError, RuntimeError, IndexError):  # torch: more than one value per channel; a node without its graph
        return True
    among = network(params, x)
    if _drew(stream):
        return False
    return not _same(alone, _first(among)) or ordered(network, params, x, among)


@torch.no_grad()
def ordered(network: Network, params: Params, x: Any, outputs: Any) -> bool:
    """Whether outputs change with the order of the examples: as those of nodes, to which edges refer by number."""
    stream = torch.get_rng_state()
    turned = network(params, _turned(x))
    return not _drew(stream) and not _same(turned, _turned(outputs))


def _drew(stream: Tensor) -> bool:
    """Whether the global stream is another by now, of a network that draws: refused elsewhere, and here put back."""
    drew = not torch.equal(stream, torch.get_rng_state())
    torch.set_rng_state(stream)
    return drew


def _generic(network: Network) -> tuple[Params, Any]:
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        fan_in = leaf[0].numel() if leaf.ndim > 1 else 1
        return torch.from_numpy(rng.standard_normal(tuple(leaf.shape)) / fan_in**0.5).to(leaf.device, leaf.dtype)

    return {name: drawn(p) for name, p in network.params().items()}, tree_map(drawn, network.example)


def _first(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) else leaf, tree)


def _turned(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.flip(0) if isinstance(leaf, Tensor) and leaf.ndim else leaf, tree)


def _same(output: Any, reference: Any) -> bool:
    """Up to what the eps of a normaliser lets through, and rounding; what is not finite tells nothing."""
    pairs = zip(tensors_of(output), tensors_of(reference), strict=True)
    numbers = [(a, b) for a, b in pairs if inexact(a) and b.numel() and b.isfinite().all()]
    rounding = [max(1e-3, 8 * torch.finfo(a.dtype).eps) * b.abs().amax() for a, b in numbers]
    return all(a.shape == b.shape and (a - b).abs().amax() <= r for (a, b), r in zip(numbers, rounding, strict=True))
