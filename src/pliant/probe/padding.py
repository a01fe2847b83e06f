"""A probe of sequences that asks nothing of padding: its outputs have no targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.modules import fitting
from pliant.network import Network, Params
from pliant.probe.targets import Probe, outputs, part, samples

NONE = -100  # the label of padding, as torch.nn.functional.cross_entropy has it; of numbers, NaN


@dataclass(frozen=True, eq=False)
class Masked(Probe):
    """A probe of the tokens alone at which `mask`, `(samples, tokens)`, is True.

    Its targets say which these are, so that minibatches do, too; losses are means over them.
    """

    inner: Probe
    mask: Tensor

    @property
    def unit(self) -> str:  # type: ignore[override]
        return self.inner.unit

    def targets(self, network: Network, params: Params, x: Any, seed: int) -> Tensor:
        y = self.inner.targets_of(network, params, x, seed, self.mask)
        real = self.mask.reshape(self.mask.shape + (1,) * (y.ndim - self.mask.ndim))
        return torch.where(real, y, torch.nan if y.is_floating_point() else NONE)

    def loss(self, output: Any, y: Tensor) -> Tensor:
        nothing = y.isnan() if y.is_floating_point() else y == NONE
        each = self.inner.each(output, torch.where(nothing, 0, y))
        real = ~nothing.flatten(each.ndim).any(-1) if nothing.ndim > each.ndim else ~nothing
        return torch.where(real, each, 0.0).sum() / real.sum().clamp(min=1)

    def baseline(self, y: Tensor) -> float:
        return self.inner.baseline(y)


def masked(probe: Probe, mask: Any, network: Network, params: Params, x: Any) -> tuple[Probe, Tensor]:
    """The probe without padding, or as it is where the network gives no output for each token; and the mask."""
    mask = fitting(mask, x).to(samples(x)[0].device)
    output = outputs(network, params, part(x, slice(0, 2)))
    if not isinstance(output, Tensor) or output.ndim < 3 or output.shape[1] != mask.shape[1]:
        return probe, mask
    return Masked(probe, mask), mask
