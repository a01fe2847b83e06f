"""The convolutional network of P1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pliant.nets._arguments import Activation, Norm, check_size, check_sizes, normaliser
from pliant.nets._convolutions import convolutions


class CNN(nn.Module):
    """Convolutions, hidden linear layers and a linear output layer, without skip connections.

    Takes images `(batch, channels, height, width)` and returns `(batch, outputs)`. A normaliser (where asked for) and a
    nonlinearity follow each layer but the output. Layers are `convs.0`, ..., `hidden.0`, ... and `output`; normalisers
    `norms.0`, ... and nonlinearities `activations.0`, ... are counted through both kinds of layers, so with two
    convolutions `activations.2` follows `hidden.0`.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of outputs.
        channels: channels of each convolution.
        hidden: units of each hidden linear layer.
        activation: makes the nonlinearity, `nn.ReLU` say.
        norm: makes a hidden layer's normaliser from its number of units or channels, `layer_norm` say (see
            `pliant.nets.norms`).
        kernels: side of each convolution's kernel.
        strides: stride of each convolution.

    Raises:
        ValueError: a size is below 1, a list is empty or of another length than `channels`, or a kernel is larger than
            the image that reaches it (the default kernels need 5 x 5 images).

    >>> import torch
    >>> net = CNN((3, 32, 32), 10)
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    >>> net.hidden[0].in_features  # 64 channels of 8 x 8
    4096

    Source: P1 A.2 (5 x 5 with 64 channels, 3 x 3 with 64 channels, linear 256, linear 256).

    Deviations, where P1 does not say: both convolutions have stride 2; zero padding of half a kernel, so that sides
    halve (32, 16, 8); no pooling; ReLU; initial weights and biases are PyTorch's, U(-1, 1) / sqrt(fan_in); the
    normaliser comes before the nonlinearity, as P2 has it; layers keep their bias in front of a normaliser.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        channels: Sequence[int] = (64, 64),
        hidden: Sequence[int] = (256, 256),
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
        kernels: Sequence[int] = (5, 3),
        strides: Sequence[int] = (2, 2),
    ):
        super().__init__()
        check_size("outputs", outputs)
        check_sizes("hidden", hidden)
        self.convs, features = convolutions(shape, channels, kernels, strides, padded=True)
        self.hidden = nn.ModuleList(nn.Linear(m, n) for m, n in pairwise((features, *hidden)))
        self.norms = nn.ModuleList(normaliser(norm, n) for n in (*channels, *hidden))
        self.activations = nn.ModuleList(activation() for _ in (*channels, *hidden))
        self.output = nn.Linear(hidden[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate((*self.convs, *self.hidden)):
            x = x.flatten(1) if i == len(self.convs) else x
            x = self.activations[i](self.norms[i](layer(x)))
        return self.output(x)
