"""Normalize-and-Project: a normaliser before every nonlinearity, and weights of constant norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from pliant.interventions._normalising import normalised
from pliant.interventions._sources import FEEDING
from pliant.interventions.base import Change, Intervention, Seen, State, everything
from pliant.interventions.layer_norm import LayerNorm
from pliant.interventions.weight_norm_rescale import rescaled
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class NormalizeAndProject(Intervention):
    """Layer norm before every nonlinearity, and after each step W <- ||W(0)|| W / ||W||.

    So the learning rate alone sets how fast the layers change: behind a normaliser, growing weights would slow it down.

    `build` adds `LayerNorm`, in place of batch norms where there are any, and removes the bias of each layer it
    normalises: with a bias, the layer's output would not be invariant to the scale of its weights. All other parameters
    keep their names. Every weight matrix is projected,
    the output layer's too, which no normaliser follows (`Only` can leave it out). `Scheduled(..., every=k)` projects
    every k steps. The optimizer's moments are kept.

    Args:
        scales: what becomes of the scales s and offsets b of normalisers after each step: `"project"` brings them
            jointly to the radius they have where s = 1 and b = 0: (s, b) <- sqrt(units) (s, b) / ||(s, b)||; `"decay"`
            pulls them to their initial values: s <- s - lr decay (s - s(0)), and b alike; `"free"` leaves them alone.
        decay: how fast, for `"decay"`.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> network = Network(NormalizeAndProject("free").build(net, example=torch.ones(1, 2)))
    >>> network.names
    ('0.weight', '0.norm.weight', '0.norm.bias', '2.weight', '2.bias')

    Source: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement learning". Deviation: how the
    decay to initial values is applied is our reading (decoupled, like `WeightDecay`).
    """

    reference: ClassVar[str] = "lyle2024nap"
    touches: ClassVar[str] = "layers, weights"

    scales: Literal["project", "decay", "free"]
    decay: float = 0.0

    def __post_init__(self) -> None:
        if self.scales not in ("project", "decay", "free"):
            raise ValueError(
                f"expected scales of NormalizeAndProject to be 'project', 'decay' or 'free', got {self.scales!r}"
            )
        if not (0 < self.decay < math.inf if self.scales == "decay" else self.decay == 0):
            wanted = "above 0 and finite" if self.scales == "decay" else f"0 with scales={self.scales!r}"
            raise ValueError(f"expected decay of NormalizeAndProject to be {wanted}, got {self.decay!r}")

    def build(self, module: nn.Module, example: Any, among: Callable[[str], bool] = everything) -> nn.Module:
        try:
            norm = LayerNorm()
            module, layers = normalised("LayerNorm", norm._normaliser, module, example, among, norm.at_batch_norm)
        except ValueError as error:
            raise ValueError(f"NormalizeAndProject normalises with LayerNorm: {error}") from error
        for path in layers:
            layer = module.get_submodule(path)
            if isinstance(layer, FEEDING):
                layer.register_parameter("bias", None)
            elif isinstance(bias := getattr(layer, "bias", None), nn.Parameter):  # a layer of one's own may need one
                del layer.bias
                layer.register_buffer("bias", torch.zeros_like(bias))
        return module

    def init(self, network: Network, params: Params) -> State:
        initial = {n: params[n].clone() for n in network.names if n in network.normalisers and self.scales == "decay"}
        return {"norms": {name: params[name].norm() for name in network.weights}, "initial": initial}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        new = {name: rescaled(params[name], norm) for name, norm in state["norms"].items()}
        for name, start in state["initial"].items():
            new[name] = params[name] - seen.lr * self.decay * (params[name] - start)
        if self.scales == "project":
            for names in _pairs(network):
                together = torch.cat([params[name].flatten() for name in names])
                radius = math.sqrt(params[names[0]].numel())
                parts = rescaled(together, radius).split([params[name].numel() for name in names])
                new |= {name: part.view_as(params[name]) for name, part in zip(names, parts, strict=True)}
        return Change(params=new)


def _pairs(network: Network) -> list[list[str]]:
    """The scales and offsets of each normaliser."""
    pairs: dict[str, list[str]] = {}
    for name in network.names:
        if name in network.normalisers:
            pairs.setdefault(name.rpartition(".")[0], []).append(name)
    return list(pairs.values())
