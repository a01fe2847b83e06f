"""The network of DQN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.nets._arguments import check_size
from pliant.nets._convolutions import convolutions


class Nature(nn.Module):
    """Convolutions without padding, a hidden layer and an output layer, ReLU between them.

    Takes images `(batch, channels, height, width)` and returns `(batch, outputs)`. Layers are `convs.0`, ..., `hidden`
    and `output`, nonlinearities `activations.0`, ...

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of outputs.
        channels: channels of each convolution.
        hidden: units of the hidden layer.
        kernels: side of each convolution's kernel.
        strides: stride of each convolution.
        shared_bias: whether all outputs share one bias, as dqn_zoo's double DQN has it.

    Raises:
        ValueError: a size is below 1, lists differ in length, or an image is smaller than a kernel that it reaches.

    >>> net = Nature((4, 84, 84), 6, shared_bias=True)
    >>> net(torch.zeros(2, 4, 84, 84)).shape, net.hidden.in_features, net.output.bias.shape
    (torch.Size([2, 6]), 3136, torch.Size([1]))

    Source: Mnih et al. 2015; van Hasselt et al. 2016 (the shared bias).
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        channels: Sequence[int] = (32, 64, 64),
        hidden: int = 512,
        kernels: Sequence[int] = (8, 4, 3),
        strides: Sequence[int] = (4, 2, 1),
        shared_bias: bool = False,
    ):
        super().__init__()
        check_size("outputs", outputs)
        check_size("hidden", hidden)
        self.convs, features = convolutions(shape, channels, kernels, strides)
        self.activations = nn.ModuleList(nn.ReLU() for _ in (*channels, "hidden"))
        self.hidden = nn.Linear(features, hidden)
        self.output = SharedBias(hidden, outputs) if shared_bias else nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        *first, last = self.activations
        for layer, activation in zip(self.convs, first, strict=True):
            x = activation(layer(x))
        return self.output(last(self.hidden(x.flatten(1))))


class SharedBias(nn.Module):
    """A linear layer with one bias for all outputs, drawn from U(-1, 1) / sqrt(inputs) like its weights.

    >>> [tuple(p.shape) for p in SharedBias(3, 2).parameters()]
    [(2, 3), (1,)]
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws both anew."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        for p in (self.weight, self.bias):
            nn.init.uniform_(p, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + self.bias
