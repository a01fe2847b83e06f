"""Weight normalisation: length and direction of each unit's weights as parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pliant.interventions._building import Among, Reparametrised, linear_maps, prepared, reparametrise, warn_of_others
from pliant.interventions.base import Intervention, everything


@dataclass(frozen=True)
class WeightNorm(Intervention):
    """Each unit's incoming weights become W = g v / ||v||: a length g and a direction.

    Done to every linear and convolution layer that a forward pass calls, the output layer too; `Only` can leave some
    out. `weight` stays the name of v, and g is added, one a unit, so that at the build W is what it was. A fresh draw
    of a layer is one of v, with g = ||v||. Biases stay.

    A unit's outgoing weights are part of other units' directions, so none of them can be set to 0 without a change
    elsewhere: the unit map has none, and methods that reset units reset what feeds them only.

    `build` raises `ValueError` for layers that are not plain `nn.Linear` or `nn.Conv1d` to `nn.Conv3d`, and names what
    it leaves alone: transposed convolutions, modules that multiply with weights of their own. Frozen layers stay so.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
    >>> [name for name, _ in WeightNorm().build(net, example=torch.ones(1, 2)).named_parameters()]
    ['0.weight', '0.bias', '0.g', '2.weight', '2.g']

    Source: Salimans & Kingma 2016, eq. 2. Deviation: their initialisation from the statistics of a batch is left out.
    """

    reference: ClassVar[str] = "salimans2016"
    touches: ClassVar[str] = "hidden layers"

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        built = prepared("WeightNorm", module)
        called, others = linear_maps(built, example)
        paths = [path for path in called if among(path)]
        if not paths:
            raise ValueError(f"WeightNorm found no linear or convolution layer in {type(built).__name__}")
        for path in paths:
            layer = built.get_submodule(path)
            reparametrise("WeightNorm", layer, path, KINDS)
            weight: nn.Parameter = layer.weight  # type: ignore[assignment]
            layer.register_parameter("g", nn.Parameter(_lengths(weight.detach()), requires_grad=weight.requires_grad))
        warn_of_others("WeightNorm", others, among)
        return built


class Polar(Reparametrised):
    """A layer whose weight is the direction of what it uses."""

    g: Tensor

    def scale(self) -> Tensor:
        return self.g / _lengths(self.weight).clamp_min(torch.finfo(self.g.dtype).tiny)

    def reset_parameters(self) -> None:
        super().reset_parameters()  # type: ignore[misc]
        with torch.no_grad():
            self.g.copy_(_lengths(self.weight))


class PolarLinear(Polar, nn.Linear):
    """`nn.Linear` with W = g v / ||v||."""


class PolarConv1d(Polar, nn.Conv1d):
    """`nn.Conv1d` with W = g v / ||v||."""


class PolarConv2d(Polar, nn.Conv2d):
    """`nn.Conv2d` with W = g v / ||v||."""


class PolarConv3d(Polar, nn.Conv3d):
    """`nn.Conv3d` with W = g v / ||v||."""


KINDS: dict[type, type] = {
    nn.Linear: PolarLinear,
    nn.Conv1d: PolarConv1d,
    nn.Conv2d: PolarConv2d,
    nn.Conv3d: PolarConv3d,
}


def _lengths(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)
