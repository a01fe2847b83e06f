"""Factors of a network's modules that keep its function, found from how its outputs depend on their logarithms.

Where a normaliser follows a layer, where it reads a sum of several (a residual stream), where two matrices are
multiplied with each other, parameters can be larger or smaller and the function is the same. None of this is parsed:
log factors that keep the function are the linear space on which the derivatives of the outputs vanish, wherever the
parameters are. So it is looked for once a network, at parameters without a 0, and holds for all others.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from pliant.adapter import copied
from pliant.functional import norms
from pliant.generic import in_double
from pliant.modules import NORMALISERS
from pliant.network import Network, Params
from pliant.optim import Moments
from pliant.words import first_line

STEP = 1e-3  # of log factors, for central differences in double precision
FLAT = 1e-3  # outputs that change by less, relative to themselves and a log factor, do not change
ROUNDING = 1e-4  # of the entries of a projection
DRAWS = 3  # parameters looked at, at least
NOISE = 0.1  # relative, so that no parameter is 0
DEGREES = {"exp_avg": 1, "grad_avg": 1, "momentum_buffer": 1, "exp_avg_sq": 2, "square_avg": 2}  # in the gradients


class Rescalings(NamedTuple):
    """Log factors of modules that keep the function, and modules that scale it.

    Attributes:
        modules: names of the parameters of each, but scales and offsets of normalisation layers.
        basis: an orthonormal basis of log factors that keep the function, `(modules, k)`.
        scaling: names of the parameters of the last module or normaliser that scales the outputs, if there is one.

    >>> Rescalings([["a"], ["b"]], torch.tensor([[1.0], [0.0]]), []).kept(torch.tensor([2.0, 3.0]))
    tensor([2., 0.])
    """

    modules: list[list[str]]
    basis: Tensor
    scaling: list[str]

    def kept(self, factors: Tensor) -> Tensor:
        """The part of log factors, `(modules,)`, that keeps the function: their projection on the basis."""
        projection = self.basis @ self.basis.T
        return torch.where(projection.abs() < ROUNDING, 0.0, projection) @ factors


_FOUND: WeakKeyDictionary[Network, Rescalings] = WeakKeyDictionary()


def rescalings(network: Network) -> Rescalings:
    """What rescaling its modules does to a network; needs `example`.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 1))
    >>> found = rescalings(Network(net, example=torch.ones(1, 2) / 2))
    >>> found.modules, found.basis.abs().round(decimals=2).flatten().tolist(), found.scaling
    ([['0.weight', '0.bias'], ['3.weight', '3.bias']], [1.0, 0.0], ['3.weight', '3.bias'])
    """
    if network not in _FOUND:
        _FOUND[network] = _looked_for(network)
    return _FOUND[network]


def _looked_for(network: Network) -> Rescalings:
    every: dict[str, list[str]] = {}
    for name in network.names:
        every.setdefault(name.rpartition(".")[0], []).append(name)
    modules = list(every.values())
    try:
        return _found(network, modules)
    except RuntimeError as error:  # an operation without a kernel for float64
        warnings.warn(f"which scales keep the function is not known: {first_line(error)}", stacklevel=4)
        return Rescalings(modules, torch.zeros(len(modules), 0, dtype=torch.float64), [])


def _found(network: Network, modules: list[list[str]]) -> Rescalings:
    x, function = tree_map(_double, network.example), _without_eps(network)
    slopes, outputs = [], []
    for draw in range(DRAWS + 4 * len(modules)):
        params = _generic(network, draw)
        y = _outputs(function, params, x)
        size = y.norm().clamp(min=1e-300)
        columns = []
        for names in modules:
            up, down = ({n: params[n] * torch.tensor(s * STEP).double().exp() for n in names} for s in (1, -1))
            columns.append(
                (_outputs(function, params | up, x) - _outputs(function, params | down, x)) / (2 * STEP * size)
            )
        slopes.append(torch.stack(columns, 1))
        outputs.append(y / size)
        if draw + 1 >= DRAWS and sum(len(s) for s in slopes) >= 4 * len(modules):
            break
    jacobian, y = torch.cat(slopes), torch.cat(outputs)
    scale = [i for i, column in enumerate(jacobian.T) if (column - y).norm() <= FLAT * y.norm()]
    plain = [i for i, names in enumerate(modules) if not network.normalisers.issuperset(names)]
    values, vectors = torch.linalg.eigh(jacobian[:, plain].T @ jacobian[:, plain] / len(slopes))
    return Rescalings([modules[i] for i in plain], vectors[:, values <= FLAT**2], modules[scale[-1]] if scale else [])


def _without_eps(network: Network) -> Network:
    """The same function, of whose normalisers a small number under a root keeps no scale."""
    module = copied(network.module)
    for layer in module.modules():
        if isinstance(layer, NORMALISERS) and hasattr(layer, "eps"):
            layer.eps = 1e-20
    return Network(module)


def _double(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().cpu().double() if leaf.is_floating_point() else leaf.detach().cpu()


def _generic(network: Network, seed: int) -> Params:
    """A fresh draw with some noise: biases, say, are 0 in many of them, and break a symmetry all the same."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, p in network.fresh(seed).items():
        p = _double(p)
        if p.is_floating_point():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p = p + NOISE * noise * (p.square().mean().sqrt() if p.any() else 1.0)
        found[name] = p
    return found


def _outputs(network: Network, params: Params, x: Any) -> Tensor:
    with torch.no_grad(), in_double(), _Double():
        leaves = [y for y in tree_leaves(network(params, x)) if isinstance(y, Tensor) and y.is_floating_point()]
    return torch.cat([y.double().flatten() for y in leaves])


class _Double(TorchFunctionMode):
    """What a forward pass casts to float32, as agents do with what they observe, stays float64."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made.double() if isinstance(made, Tensor) and made.dtype is torch.float32 else made


def log_ratios(modules: Sequence[list[str]], then: Params, now: Params) -> Tensor:
    """The logarithm of each module's norm at another time over that of now, `(modules,)`; 0 where either is 0.

    >>> log_ratios([["w"]], {"w": torch.ones(4)}, {"w": torch.full((4,), 2.0)}).exp()
    tensor([0.5000], dtype=torch.float64)
    """
    pairs = [[norms.norm({n: p[n].cpu().double() for n in names}) for p in (then, now)] for names in modules]
    return torch.stack([(a / b).log() if a > 0 and b > 0 else torch.zeros_like(a) for a, b in pairs])


def rescaled(params: Params, modules: Sequence[list[str]], factors: Tensor) -> Params:
    """Parameters times the factors of their modules, whose logarithms are given.

    >>> rescaled({"w": torch.ones(1)}, [["w"]], torch.tensor([2.0]).log())
    {'w': tensor([2.])}
    """
    return params | {
        n: params[n] * factor for names, factor in zip(modules, factors.exp().tolist(), strict=True) for n in names
    }


def rescaled_moments(moments: Moments, modules: Sequence[list[str]], factors: Tensor) -> Moments:
    """The optimizer's state after the same training of a network that is larger by these factors.

    Where the function is the same, gradients are smaller by the factor by which a parameter is larger. The momentum of
    RMSProp holds steps, not gradients, and stays.

    >>> rescaled_moments({"exp_avg_sq": {"w": torch.ones(1)}}, [["w"]], torch.tensor([2.0]).log())
    {'exp_avg_sq': {'w': tensor([0.2500])}}
    """
    found = {kind: dict(group) for kind, group in moments.items()}
    for kind, group in found.items():
        degree = 0 if kind == "momentum_buffer" and "square_avg" in moments else DEGREES.get(kind, 0)
        powers = (-degree * factors).exp().tolist()
        for names, power in zip(modules, powers, strict=True):
            group |= {name: group[name] * power for name in names if degree and name in group}
    return found
