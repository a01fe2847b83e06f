"""Batch normalisation before every nonlinearity, by the statistics of the batch at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pliant.interventions._building import Among
from pliant.interventions._normalising import normalised, refuse_single_samples
from pliant.interventions.base import Intervention, everything


@dataclass(frozen=True)
class BatchNorm(Intervention):
    """Each unit's preactivations brought to mean 0 and variance 1 over the samples, then scaled and shifted per unit.

    The samples are the examples of the batch, at every position of a convolution and every token. Statistics are always
    the batch's own: there are no running averages, so the network stays a pure function, and the output for one input
    depends on the batch it came in, in evaluation too; a unit with a single sample is an error.

    The normaliser goes where `LayerNorm`'s goes, under the same name, with the same warnings and errors. Batch norms
    that the module has there are replaced: scales and offsets keep their names, running statistics go.

    Args:
        eps: added to the variance; above 0.
        affine: whether there is a learned scale and offset a unit (a channel, after a convolution).

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [name for name, _ in BatchNorm().build(net, example=torch.ones(4, 2)).named_parameters()]
    ['0.weight', '0.bias', '0.norm.weight', '0.norm.bias', '2.weight', '2.bias']

    Source: Ioffe & Szegedy 2015; placed before the nonlinearity as in P2. Deviation: no running averages.
    """

    reference: ClassVar[str] = "ioffe2015"
    touches: ClassVar[str] = "hidden layers"

    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"expected eps of BatchNorm to be above 0, got {self.eps!r}")

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        return normalised("BatchNorm", self._normaliser, module, example, among)[0]

    def _normaliser(self, units: int, axis: int) -> nn.Module:
        return UnitBatchNorm(units, axis, eps=self.eps, affine=self.affine)


class UnitBatchNorm(_BatchNorm):
    """Batch normalisation of the units along one axis, counted from the end, by the batch's own statistics.

    >>> import torch
    >>> UnitBatchNorm(3, -1, eps=1e-5, affine=False)(torch.rand(5, 7, 3)).mean((0, 1)).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(self, units: int, axis: int, eps: float, affine: bool):
        super().__init__(units, eps=eps, affine=affine, track_running_stats=False)
        self.axis = axis

    def forward(self, input: Tensor) -> Tensor:
        refuse_single_samples(input, self.num_features)
        if input.ndim + self.axis == 1:
            return self._over_samples(input)
        last = input.movedim(self.axis, -1)
        return self._over_samples(last.flatten(0, -2)).unflatten(0, last.shape[:-1]).movedim(-1, self.axis)

    def _over_samples(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
