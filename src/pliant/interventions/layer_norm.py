"""Layer normalisation before every nonlinearity, on any module."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from pliant.interventions._building import Among
from pliant.interventions._normalising import AT_BATCH_NORM, AXES, AtBatchNorm, Axes, normalised
from pliant.interventions.base import Intervention, check_choice, everything


@dataclass(frozen=True)
class LayerNorm(Intervention):
    """Each sample's preactivations brought to mean 0 and variance 1 over the units, then scaled and shifted per unit.

    The normaliser goes between a linear or convolution layer and the nonlinearity that reads it, so the output layer is
    left alone. It becomes the layer's submodule `norm`: existing parameters keep their names. A module that multiplies
    its input with a matrix of its own is a layer, too. Where a number scales the layer's output before the nonlinearity
    reads it (the sines of a SIREN), the normalised values are divided by it: what the nonlinearity reads is normalised.
    Where it reads some of a linear layer's units (a gate that was split off), these are normalised.

    In a network with batch norms it takes their places: of each hidden one that reads a linear or convolution layer (in
    front of a residual sum, too) or that a nonlinearity reads (behind a residual sum, too). Scales and offsets keep
    their names and values, running statistics go. Or it comes before them, as P2 combines the two, or after.

    `build` warns, once and by name, about what it leaves alone: nonlinearities that no linear or convolution layer
    feeds directly (after a residual sum, say) or that have another normaliser, and batch norms elsewhere. It raises
    `ValueError` if nothing could be normalised, if a layer has a `norm` already, and for modules that are compiled,
    lazy or on the meta device.

    Args:
        eps: added to the variance; above 0.
        axes: what a convolution is normalised over: `"channels_and_space"` together, or the `"channels"` at each
            position alone. After a linear layer it is always the units, of each token alone where there are tokens.
        affine: whether there is a learned scale and offset a unit (a channel, after a convolution).
        at_batch_norm: what happens where the module has a batch norm: `"replace"` it, or normalise `"before"` or
            `"after"` it, as its submodule `norm`.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [name for name, _ in LayerNorm().build(net, example=torch.ones(1, 2)).named_parameters()]
    ['0.weight', '0.bias', '0.norm.weight', '0.norm.bias', '2.weight', '2.bias']
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1))
    >>> list(LayerNorm().build(net, example=torch.ones(2, 1, 3, 3)).state_dict())
    ['0.weight', '0.bias', '1.weight', '1.bias', '4.weight', '4.bias']

    Source: Ba et al. 2016; placed before the nonlinearity as in P2, where layer norm comes first if it is combined with
    batch norm. Deviation: P2 does not say whether scales and offsets are learned, nor over which axes convolutions are
    normalised.
    """

    reference: ClassVar[str] = "ba2016"
    touches: ClassVar[str] = "hidden layers"

    eps: float = 1e-5
    axes: Axes = "channels_and_space"
    affine: bool = True
    at_batch_norm: AtBatchNorm = "replace"

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"expected eps of LayerNorm to be above 0, got {self.eps!r}")
        check_choice("LayerNorm", "axes", self.axes, AXES)
        check_choice("LayerNorm", "at_batch_norm", self.at_batch_norm, AT_BATCH_NORM)

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        return normalised("LayerNorm", self._normaliser, module, example, among, self.at_batch_norm)[0]

    def _normaliser(self, units: int, axis: int) -> nn.Module:
        if axis == -1:
            return nn.LayerNorm(units, eps=self.eps, elementwise_affine=self.affine)
        if self.axes == "channels_and_space":
            return nn.GroupNorm(1, units, eps=self.eps, affine=self.affine)
        return ChannelNorm(units, axis, eps=self.eps, affine=self.affine)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over one axis, counted from the end.

    >>> import torch
    >>> ChannelNorm(3, -2, eps=1e-5, affine=False)(torch.rand(5, 3, 7)).mean(1).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(self, units: int, axis: int, eps: float, affine: bool):
        super().__init__(units, eps=eps, elementwise_affine=affine)
        self.axis = axis

    def forward(self, input: Tensor) -> Tensor:
        last = F.layer_norm(
            input.movedim(self.axis, -1), tuple(self.normalized_shape), self.weight, self.bias, self.eps
        )
        return last.movedim(-1, self.axis)
