"""FIRE: Frobenius-isometry re-initialisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pliant.interventions._building import TRANSPOSED
from pliant.interventions.base import Change, Draw, Intervention, State, check_choice
from pliant.interventions.optimizer_reset import reset_moments
from pliant.network import Network, Params
from pliant.optim import Moments
from pliant.sites import LAYERS


@dataclass(frozen=True)
class FIRE(Intervention):
    """At an event, every weight matrix is replaced by the nearest one with orthonormal rows or columns, times a scale.

    From X = W / ||W||, Newton-Schulz steps X <- 1.5 X - 0.5 X X^T X bring every singular value towards 1; then
    W <- sqrt(d_out / d_in) X. Of a convolution, this is done to each of its k positions alone, and the scale is divided
    by k. Biases, normalisers and matrices that are not of a linear or convolution layer (embeddings) are left alone.
    Nothing is drawn.

    Raises `ValueError` when training starts if there is no such matrix to be trained.

    Args:
        iterations: Newton-Schulz steps. 10, as in the published code, leave singular values that are below about 2 % of
            the norm short of 1.
        event: when.
        moments: of the optimizer: `"keep"`, or `"clear"` those of these matrices.

    >>> network = Network(torch.nn.Linear(2, 2, bias=False))
    >>> params = {"weight": torch.tensor([[0.0, 5.0], [-3.0, 0.0]])}
    >>> FIRE().on_event(network, "task_switch", params, {}, {}, Draw(0, 0)).params["weight"].round(decimals=4)
    tensor([[ 0.,  1.],
            [-1.,  0.]])

    Source: Han et al. 2026 and their code, which leaves the optimizer's state to the user, as a choice.
    """

    reference: ClassVar[str] = "han2026"
    touches: ClassVar[str] = "weights, moments"

    iterations: int = 10
    event: str = "task_switch"
    moments: Literal["keep", "clear"] = "keep"

    def __post_init__(self) -> None:
        if not self.iterations >= 1:
            raise ValueError(f"expected iterations of FIRE to be at least 1, got {self.iterations!r}")
        check_choice("FIRE", "moments", self.moments, ("keep", "clear"))

    def init(self, network: Network, params: Params) -> State:
        if not _matrices(network):
            raise ValueError(
                f"FIRE found no weight of a linear or convolution layer among {', '.join(network.names)}: leave it out"
            )
        return {}

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        if event != self.event:
            return None
        new: Params = {}
        for name, layer in _matrices(network).items():
            turned = isinstance(layer, TRANSPOSED)  # inputs come first there
            w = self._isometry(params[name].transpose(0, 1) if turned else params[name])
            new[name] = w.transpose(0, 1) if turned else w
        return Change(new, reset_moments(moments, list(new)) if self.moments == "clear" else {})

    def _isometry(self, w: Tensor) -> Tensor:
        out, into, positions = w.shape[0], w.shape[1], w.shape[2:].numel()
        x = w.reshape(out, into, positions).permute(2, 0, 1)
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
        for _ in range(self.iterations):
            x = 1.5 * x - 0.5 * (x @ (x.mT @ x) if into <= out else (x @ x.mT) @ x)
        return math.sqrt(out / into) / positions * x.permute(1, 2, 0).reshape(w.shape)


def _matrices(network: Network) -> dict[str, nn.Module]:
    """The weights of linear and convolution layers, with the layer."""
    owners = {name: network.module.get_submodule(name.rpartition(".")[0]) for name in network.weights}
    return {name: layer for name, layer in owners.items() if isinstance(layer, (*LAYERS, *TRANSPOSED))}
