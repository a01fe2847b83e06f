"""The fully connected network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from pliant.nets._arguments import Activation, Norm, check_size, check_sizes, normaliser


class MLP(nn.Module):
    """Hidden linear layers, each followed by an optional normaliser and a nonlinearity; then a linear output layer.

    Takes inputs `(batch, ...)`, flattens them and returns `(batch, outputs)`. Layers are `hidden.0`, `hidden.1`, ...
    and `output`, normalisers `norms.0`, ..., nonlinearities `activations.0`, ...

    Args:
        inputs: number of input features, or the shape of one input.
        outputs: number of outputs.
        hidden: units of each hidden layer.
        activation: makes the nonlinearity, `nn.ReLU` say.
        norm: makes a hidden layer's normaliser from its number of units, `layer_norm` say (see `pliant.nets.norms`).

    Raises:
        ValueError: a size is below 1, or `hidden` is empty.

    >>> import torch
    >>> from pliant.nets import layer_norm
    >>> net = MLP((1, 28, 28), 10, norm=layer_norm)
    >>> net(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    >>> [name for name in net.state_dict() if "bias" in name]
    ['hidden.0.bias', 'hidden.1.bias', 'norms.0.bias', 'norms.1.bias', 'output.bias']

    Source: P1 A.2 (2 hidden layers of 512; in the width study 16 times 1, 2, 4, 8, 12, 16).

    Deviations, where P1 does not say: ReLU; initial weights and biases are PyTorch's, U(-1, 1) / sqrt(fan_in); the
    normaliser comes before the nonlinearity, as P2 has it; linear layers keep their bias in front of a normaliser.
    """

    def __init__(
        self,
        inputs: int | Sequence[int],
        outputs: int,
        hidden: Sequence[int] = (512, 512),
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
    ):
        super().__init__()
        shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
        check_sizes("inputs", shape)
        check_size("outputs", outputs)
        check_sizes("hidden", hidden)
        self.hidden = nn.ModuleList(nn.Linear(m, n) for m, n in pairwise((prod(shape), *hidden)))
        self.norms = nn.ModuleList(normaliser(norm, n) for n in hidden)
        self.activations = nn.ModuleList(activation() for _ in hidden)
        self.output = nn.Linear(hidden[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer, norm, activation in zip(self.hidden, self.norms, self.activations, strict=True):
            x = activation(norm(layer(x)))
        return self.output(x)
