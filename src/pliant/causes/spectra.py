"""The repair of spectra: weights whose singular values have become as uneven as no fresh draw's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pliant.causes.base import Repair, Repaired, axes, seen
from pliant.diagnostics._layers import layers_of
from pliant.functional import units
from pliant.functional.ranks import singular_values, stable_rank
from pliant.interventions.base import Draw
from pliant.network import Network, Params, Trace


@dataclass(frozen=True)
class Spectra(Repair):
    """Hidden weight matrices get the singular values of a fresh draw, and keep singular vectors and norm.

    W = U S V' becomes U S' V' ||S|| / ||S'||, with the S' of a fresh W, where the largest singular value has a larger
    share of W than there. Large targets, say, grow one direction in every layer, beside which the others vanish: at
    the norm of a fresh network such a layer is of rank one, and what it was drawn with is lost. This changes the
    function. The rows of dead units are left to `Units`, the output layer to `OutputLayer`.

    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 1)), example=torch.ones(1, 9))
    >>> aged = net.fresh(0) | {"0.weight": net.fresh(0)["0.weight"] + 5}
    >>> mended = Spectra().repair(net, Repaired(aged, {}), torch.randn(50, 9), Draw(0, 0)).params
    >>> [bool(stable_rank(singular_values(p["0.weight"])) > 2) for p in (aged, mended)]
    [False, True]

    Source: ours; penalties on the spectrum are in Lewandowski et al. 2025 and Chung et al. 2024.
    """

    name: ClassVar[str] = "weight spectrum"
    kept: ClassVar[str] = "the singular values of its weights"
    undone: ClassVar[str] = "giving them those of a fresh network"
    cure: ClassVar[str] = "SpectralRegulariser(1e-4, power=2)"

    def repair(self, network: Network, before: Repaired, x: Any, draw: Draw) -> Repaired:
        fresh = {n: p.to(before.params[n]) for n, p in draw.fresh(network).items()}
        dead = _dead(network, before.params, x)
        new: Params = {}
        try:
            found = layers_of(network, before.params, x)
        except ValueError as error:
            warnings.warn(f"the {self.name} is left as it is: {error}", stacklevel=3)
            return before
        for layer in found:
            name = layer.weight
            if name in network.head or name not in network.weights or name in new:
                continue
            w = before.params[name]
            rows, like = layer.rows(w), layer.rows(fresh[name])
            there = ~layer.rows(dead[name].to(w)).bool().any(1) if name in dead else rows.new_ones(len(rows)).bool()
            mended = _as_even(rows[there], like[there])
            if mended is not None:
                place = layer.rows(torch.arange(w.numel(), device=w.device).view_as(w))[there]
                new[name] = w.flatten().index_copy(0, place.flatten(), mended.flatten()).view_as(w)
        return Repaired(before.params | new, before.moments) if new else before

    def evidence(self, network: Network, before: Repaired, x: Any, trace: Trace, fresh: Params) -> dict[str, float]:
        names = [n for n in network.weights if n not in network.head and fresh[n].any() and before.params[n].any()]
        ranks = [[stable_rank(singular_values(p[n].flatten(1))) for n in names] for p in (before.params, fresh)]
        if not names:
            return {}
        now, new = (torch.stack([rank.cpu().double() for rank in each]).mean() for each in ranks)
        return {"stable_rank": float(now), "of_a_fresh_network": float(new)}


def _dead(network: Network, params: Params, x: Any) -> dict[str, Tensor]:
    """Which entries of weights feed dead units, by name."""
    trace, found = network.trace(params, x, axes(network)), {}
    for group in network.units:
        slope = seen(trace, group)[2]
        for name, entries in group.incoming.items() if len(slope) else ():
            found[name] = entries.mask(units.dead(slope))
    return found


def _as_even(w: Tensor, like: Tensor) -> Tensor | None:
    """A matrix with the singular values of another, at its own norm; None where its own are as even."""
    if not (len(w) and w.any() and like.any()):
        return None
    u, s, v = torch.linalg.svd(w.double(), full_matrices=False)
    new = torch.linalg.svdvals(like.double())
    if stable_rank(s) >= stable_rank(new):
        return None
    return (u * (new * s.norm() / new.norm()) @ v).to(w)
