"""Root-mean-square normalisation before every nonlinearity."""

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
class RMSNorm(Intervention):
    """Each sample's preactivations divided by their root mean square over the units, a / rms(a), then scaled per unit.

    The mean is not subtracted, and there is no offset: the layer's bias is one (the offset of a batch norm that is
    replaced goes with it). The normaliser goes where `LayerNorm`'s goes, under the same name, with the same warnings
    and errors.

    Args:
        eps: added to the mean square; above 0.
        axes: what a convolution is normalised over: `"channels_and_space"` together, or the `"channels"` at each
            position alone. After a linear layer it is always the units, of each token alone where there are tokens.
        affine: whether there is a learned scale a unit (a channel, after a convolution).
        at_batch_norm: what happens where the module has a batch norm: `"replace"` it, or normalise `"before"` or
            `"after"` it, as its submodule `norm`.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [name for name, _ in RMSNorm().build(net, example=torch.ones(1, 2)).named_parameters()]
    ['0.weight', '0.bias', '0.norm.weight', '2.weight', '2.bias']

    Source: Zhang & Sennrich 2019. Deviation: the eps is ours (that of layer norm), and so are the axes.
    """

    reference: ClassVar[str] = "zhang2019"
    touches: ClassVar[str] = "hidden layers"

    eps: float = 1e-5
    axes: Axes = "channels_and_space"
    affine: bool = True
    at_batch_norm: AtBatchNorm = "replace"

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"expected eps of RMSNorm to be above 0, got {self.eps!r}")
        check_choice("RMSNorm", "axes", self.axes, AXES)
        check_choice("RMSNorm", "at_batch_norm", self.at_batch_norm, AT_BATCH_NORM)

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        return normalised("RMSNorm", self._normaliser, module, example, among, self.at_batch_norm)[0]

    def _normaliser(self, units: int, axis: int) -> nn.Module:
        if axis == -1:
            return nn.RMSNorm(units, eps=self.eps, elementwise_affine=self.affine)
        together = self.axes == "channels_and_space"
        return ChannelRMSNorm(units, axis, together, eps=self.eps, affine=self.affine)


class ChannelRMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation over an axis, counted from the end, with or without the axes behind it.

    >>> import torch
    >>> layer = ChannelRMSNorm(2, -2, together=True, eps=1e-5, affine=False)
    >>> layer(torch.tensor([[[1.0, 1.0], [1.0, 3.0]]])).square().mean().round(decimals=3)
    tensor(1.)
    """

    def __init__(self, units: int, axis: int, together: bool, eps: float, affine: bool):
        super().__init__(units, eps=eps, elementwise_affine=affine)
        self.axis, self.together = axis, together

    def forward(self, x: Tensor) -> Tensor:
        if self.together:
            y = F.rms_norm(x, x.shape[self.axis :], eps=self.eps)
            return y if self.weight is None else y * self.weight.reshape(-1, *[1] * (-self.axis - 1))
        last = F.rms_norm(x.movedim(self.axis, -1), tuple(self.normalized_shape), self.weight, self.eps)
        return last.movedim(-1, self.axis)
