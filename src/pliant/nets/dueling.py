"""The network of Rainbow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pliant.nets._arguments import check_size
from pliant.nets._convolutions import convolutions
from pliant.nets.noisy import NoisyLinear


class Dueling(nn.Module):
    """Convolutions, then two streams of a hidden layer each: a value and advantages, for each bin of a head.

    Takes images `(batch, channels, height, width)` and returns `(batch, outputs)`: for every action the value plus its
    advantage, less the mean advantage over actions. ReLU everywhere; convolutions without padding. Hidden and output
    layers are `NoisyLinear`, the output of advantages without a bias of its own, or plain ones.

    Args:
        shape: (channels, height, width) of one image.
        outputs: actions times bins.
        bins: outputs of the head for each action.
        channels: channels of each convolution.
        hidden: units of either stream.
        kernels: side of each convolution's kernel.
        strides: stride of each convolution.
        noisy: whether linear layers have learned noise.

    Raises:
        ValueError: a size is below 1, lists differ in length, outputs are no multiple of bins, or an image is smaller
            than a kernel that it reaches.

    >>> import torch
    >>> Dueling((4, 84, 84), 6 * 51, bins=51)(torch.zeros(2, 4, 84, 84)).shape
    torch.Size([2, 306])

    Source: Wang et al. 2016; Hessel et al. 2018; sizes of dqn_zoo's Rainbow.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        bins: int = 1,
        channels: Sequence[int] = (32, 64, 64),
        hidden: int = 512,
        kernels: Sequence[int] = (8, 4, 3),
        strides: Sequence[int] = (4, 2, 1),
        noisy: bool = True,
    ):
        super().__init__()
        check_size("bins", bins)
        check_size("hidden", hidden)
        if outputs < 1 or outputs % bins:
            raise ValueError(f"expected outputs to be actions times bins, {bins}, got {outputs}")
        convs, features = convolutions(shape, channels, kernels, strides)

        def linear(m: int, n: int, salt: int, bias: bool = True) -> nn.Module:
            return NoisyLinear(m, n, bias=bias, salt=salt) if noisy else nn.Linear(m, n, bias=bias)

        self.bins, self.convs = bins, convs
        self.activations = nn.ModuleList(nn.ReLU() for _ in (*channels, "value", "advantage"))
        self.value_hidden, self.advantage_hidden = linear(features, hidden, 0), linear(features, hidden, 1)
        self.value, self.advantage = linear(hidden, bins, 2), linear(hidden, outputs, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        *first, value, advantage = self.activations
        for layer, activation in zip(self.convs, first, strict=True):
            x = activation(layer(x))
        x = x.flatten(1)
        value = self.value(value(self.value_hidden(x))).unsqueeze(1)
        advantage = self.advantage(advantage(self.advantage_hidden(x))).unflatten(1, (-1, self.bins))
        return (value + advantage - advantage.mean(1, keepdim=True)).flatten(1)
