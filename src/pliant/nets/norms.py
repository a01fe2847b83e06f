"""Normalisers for the `norm` argument of the networks.

A `norm` is a function of the number of units that returns a module. One and the same function serves every layer,
because the module takes `(samples, units)` after a linear layer and `(samples, units, height, width)` after a
convolution, whose units are its channels; a transformer hands over its tokens as samples. `layer_norm` and `batch_norm`
are such functions; so are `nn.LayerNorm` (for nets without convolutions) and `lambda units: nn.GroupNorm(8, units)`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def layer_norm(units: int) -> nn.Module:
    """Layer normalisation: each sample gets mean 0 and variance 1 over its units, then each unit a gain and an offset.

    After a convolution the statistics run over channels and space together, and there is one gain and one offset a
    channel. Variance is the biased one; eps = 1e-5 is added to it.

    Args:
        units: number of units (linear) or channels (convolution).

    Returns:
        A module from `(samples, units, ...)` to the same shape.

    >>> import torch
    >>> layer_norm(3)(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=2).tolist()
    [[-1.22..., 0.0, 1.22...]]
    >>> layer_norm(3)(torch.rand(5, 3, 4, 4)).mean((1, 2, 3)).abs().max() < 1e-5
    tensor(True)

    Source: Ba et al. 2016; P1 section 6.2 puts it after each convolution and linear layer, P2 before the nonlinearity.

    Deviations: neither paper says over which axes a convolution is normalised, nor whether there are gains and offsets.
    """
    return LayerNorm(units)


def batch_norm(units: int) -> nn.Module:
    """Batch normalisation by the batch's own statistics, always: each unit gets mean 0 and variance 1 over the samples.

    After a convolution the samples run over batch and space. There are no running averages, so the network stays a
    pure function of parameters and inputs; in return the output for one input depends on the batch it came in, in
    evaluation too. Variance is the biased one; eps = 1e-5 is added to it.

    Args:
        units: number of units (linear) or channels (convolution).

    Returns:
        A module from `(samples, units, ...)` to the same shape; it raises `ValueError` where a unit has one sample.

    >>> import torch
    >>> batch_norm(1)(torch.tensor([[1.0], [2.0], [3.0]])).round(decimals=2).flatten().tolist()
    [-1.22..., 0.0, 1.22...]

    Source: Ioffe and Szegedy 2015; P2 section 4.1.
    """
    return BatchNorm(units)


class LayerNorm(nn.GroupNorm):
    """`nn.GroupNorm` with one group; after a linear layer, where that is the same, by the faster `F.layer_norm`."""

    def __init__(self, units: int):
        super().__init__(1, units)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim == 2:
            return F.layer_norm(input, (self.num_channels,), self.weight, self.bias, self.eps)
        return super().forward(input)


class BatchNorm(_BatchNorm):
    """`nn.BatchNorm1d` and `nn.BatchNorm2d` in one, without running statistics."""

    def __init__(self, units: int):
        super().__init__(units, track_running_stats=False)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected inputs (samples, units, ...), got shape {tuple(input.shape)}")
