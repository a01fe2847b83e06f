"""Layer and batch normalisation in one: the mean over one axis, the standard deviation over the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from pliant.cutting import FROZEN
from pliant.interventions._building import Among
from pliant.interventions._normalising import AT_BATCH_NORM, AXES, AtBatchNorm, Axes, normalised, refuse_single_samples
from pliant.interventions.base import Intervention, check_choice, everything

Over = Literal["batch", "layer"]


@dataclass(frozen=True)
class MixedNorm(Intervention):
    """Preactivations minus one normaliser's mean, over another's standard deviation, then scaled and shifted per unit.

    y = (a - m) / sqrt(v + eps), with mean m and variance v of the preactivations a, each taken over a sample's units
    ("layer", as in layer norm) or over a unit's samples ("batch", as in batch norm, by the batch's own statistics).
    P2's hybrid is `MixedNorm(mean="batch", std="layer")`; the other way round is its mirror. Both alike, it is
    `LayerNorm` or `BatchNorm`.

    The normaliser goes where `LayerNorm`'s goes, under the same name, with the same warnings and errors. A unit with a
    single sample is an error.

    Args:
        mean: what the mean is over.
        std: what the standard deviation is over.
        eps: added to the variance; above 0.
        axes: what a convolution's `"layer"` statistics are over: `"channels_and_space"` together, or the `"channels"`
            at each position alone. Its `"batch"` statistics are over examples and space.
        affine: whether there is a learned scale and offset a unit (a channel, after a convolution).
        at_batch_norm: what happens where the module has a batch norm: `"replace"` it, or normalise `"before"` or
            `"after"` it, as its submodule `norm`.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> hybrid = MixedNorm(mean="batch", std="layer")
    >>> [name for name, _ in hybrid.build(net, example=torch.ones(4, 2)).named_parameters()]
    ['0.weight', '0.bias', '0.norm.weight', '0.norm.bias', '2.weight', '2.bias']

    Source: P2, appendix on the normalisation axis (more robust than either). Deviation: P2 does not give the formula;
    here the variance is around its own mean, not around the one that is subtracted.
    """

    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "hidden layers"

    mean: Over
    std: Over
    eps: float = 1e-5
    axes: Axes = "channels_and_space"
    affine: bool = True
    at_batch_norm: AtBatchNorm = "replace"

    def __post_init__(self) -> None:
        check_choice("MixedNorm", "mean", self.mean, ("batch", "layer"))
        check_choice("MixedNorm", "std", self.std, ("batch", "layer"))
        if not 0 < self.eps < math.inf:
            raise ValueError(f"expected eps of MixedNorm to be above 0, got {self.eps!r}")
        check_choice("MixedNorm", "axes", self.axes, AXES)
        check_choice("MixedNorm", "at_batch_norm", self.at_batch_norm, AT_BATCH_NORM)

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        return normalised("MixedNorm", self._normaliser, module, example, among, self.at_batch_norm)[0]

    def _normaliser(self, units: int, axis: int) -> nn.Module:
        return UnitMixedNorm(units, axis, self)


class UnitMixedNorm(nn.GroupNorm):
    """Normalisation of the units along one axis, counted from the end, with the settings of a `MixedNorm`.

    >>> layer = UnitMixedNorm(3, -1, MixedNorm(mean="batch", std="layer", affine=False))
    >>> layer(torch.tensor([[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]])).tolist()  # units minus (2, 2, 5), over each sample's
    [[-0.46..., 0.0, 0.46...], [1.22..., 0.0, -1.22...]]
    """

    def __init__(self, units: int, axis: int, settings: MixedNorm):
        super().__init__(1, units, eps=settings.eps, affine=settings.affine)
        self.axis, self.settings = axis, settings

    def extra_repr(self) -> str:
        return f"{self.num_channels}, axis={self.axis}, {self.settings}"

    def forward(self, input: Tensor) -> Tensor:
        unit = input.ndim + self.axis
        layer = tuple(range(unit, input.ndim)) if self.settings.axes == "channels_and_space" else (unit,)
        batch = tuple([d for d in range(input.ndim) if d != unit])
        refuse_single_samples(input, input.shape[unit])
        over = {"layer": layer, "batch": batch}
        mean = statistic("mean", input, over[self.settings.mean])
        variance = statistic("variance", input, over[self.settings.std])
        y = (input - mean) * (variance + self.eps).rsqrt()
        if not self.affine:
            return y
        shape = (-1, *[1] * (input.ndim - 1 - unit))
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)


def statistic(kind: Literal["mean", "variance"], x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The mean or the (biased) variance over some axes, which are kept with length 1; a mode sees the call.

    >>> statistic("variance", torch.tensor([[1.0, 3.0]]), (1,))
    tensor([[1.]])
    """
    if has_torch_function_unary(x):
        return handle_torch_function(statistic, (x,), kind, x, axes)
    return x.mean(axes, keepdim=True) if kind == "mean" else x.var(axes, correction=0, keepdim=True)


def _at_a_point(kind: str, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A statistic that does not move with `x`."""
    shape = [1 if d in axes else size for d, size in enumerate(x.shape)]
    generic = torch.randn(shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    return generic if kind == "mean" else generic.square() + 1


FROZEN[statistic] = _at_a_point  # the unit map holds it fixed, like the statistics of F.layer_norm
