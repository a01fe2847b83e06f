"""Linear layers with learned noise, as a pure function of a key."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pliant.nets._arguments import check_size
from pliant.nets.keyed import Keyed

TAIL = 0.022750131948179195  # of a standard normal beyond 2


class NoisyLinear(Keyed):
    """A linear layer with factorised noise: y = W x + b + f(e) * (S (f(d) * x) + s), all of it learned but d and e.

    f(z) = sign(z) sqrt(|z|); d and e, one number an input and an output, are standard normal, cut off at 2, and
    functions of (seed, step, layer, position): one draw a forward pass, shared by the batch. Without a key there is no
    noise; diagnostics and the unit map look at the network without it, so resets of units and of the last layer leave S
    and s as they are.

    Args:
        inputs: number of inputs.
        outputs: number of outputs.
        sigma: S and s begin at sigma / sqrt(inputs).
        bias: whether there is b; s is always there.
        salt: tells apart the layers of one network; give each its own.

    Raises:
        ValueError: a size is below 1.

    >>> layer = NoisyLinear(3, 2, bias=False)
    >>> layer(torch.zeros(4, 3)).unique()  # no key
    tensor([0.], grad_fn=...)
    >>> noisy = torch.func.functional_call(layer, {"key": torch.tensor([7, 0])}, torch.zeros(4, 3))
    >>> bool((noisy != 0).all()), torch.equal(noisy[0], noisy[3])
    (True, True)

    Source: Fortunato et al. 2018, eqs. 9-11, with the truncated normal and sigma of dqn_zoo's Rainbow.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float = 0.1, bias: bool = True, salt: int = 0):
        check_size("inputs", inputs)
        check_size("outputs", outputs)
        super().__init__(salt)
        self.inputs, self.outputs, self.sigma = inputs, outputs, sigma
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.weight_sigma = nn.Parameter(torch.empty(outputs, inputs))
        self.bias_sigma = nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws W and b from U(-1, 1) / sqrt(inputs), as `nn.Linear` does."""
        bound = 1 / math.sqrt(self.inputs)
        for p in (self.weight, self.bias):
            if p is not None:
                nn.init.uniform_(p, -bound, bound)
        nn.init.constant_(self.weight_sigma, self.sigma * bound)
        nn.init.constant_(self.bias_sigma, self.sigma * bound)

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.outputs}, sigma={self.sigma}, bias={self.bias is not None}, salt={self.salt}"

    def forward(self, x: Tensor) -> Tensor:
        mean = F.linear(x, self.weight, self.bias)
        if not self.draws:
            return mean
        before, after = self._noise().to(x.dtype).split((self.inputs, self.outputs))
        return mean + after * F.linear(before * x, self.weight_sigma, self.bias_sigma)

    def _noise(self) -> Tensor:
        """Of the inputs, then of the outputs."""
        uniform = (self.runs(self.inputs, self.outputs).double() + (2**31 + 0.5)) / 2**32
        normal = torch.special.ndtri(TAIL + uniform * (1 - 2 * TAIL))
        return normal.sign() * normal.abs().sqrt()
