"""Regularisation of every layer's largest singular value towards 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.interventions.base import Change, Intervention, Scaled, Seen, State
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class SpectralRegulariser(Intervention):
    """`strength` times sum_l (sigma_max(W_l)^k - 1)^2 + ||b_l||^(2k), added to the loss.

    Kernels of convolutions are matrices `(out, rest)`; normalisers are left alone. The state carries the top right
    singular vector v of each matrix, exact at the start and moved by power iterations after each step, and the penalty
    takes ||W v|| for sigma_max, which is never above it. At an event that overwrites weights, v is off until the
    iterations have caught up.

    Args:
        strength: at least 0; 0 is no penalty.
        power: k, at least 1.
        num_iterations: power iterations after each step, at least 1. One follows slow changes; a matrix whose two
            largest singular values are close needs more.

    >>> network = Network(torch.nn.Linear(2, 2))
    >>> params = {"weight": torch.tensor([[3.0, 0.0], [0.0, 1.0]]), "bias": torch.tensor([1.0, 1.0])}
    >>> spectral = SpectralRegulariser(0.5, power=2)
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> spectral.penalty(network, params, spectral.init(network, params), seen)  # ((9 - 1)^2 + 2^2) / 2
    tensor(34.)

    Source: Lewandowski et al. 2025. Our notes of it have no values for the two numbers, so neither has a default.
    Deviations: the scales and offsets of normalisers are not in; `num_iterations` is ours.
    """

    reference: ClassVar[str] = "lewandowski2025"
    touches: ClassVar[str] = "gradients"

    strength: float
    power: int
    num_iterations: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(
                f"expected strength of SpectralRegulariser to be at least 0 and finite, got {self.strength!r}"
            )
        for name in ("power", "num_iterations"):
            if not (isinstance(value := getattr(self, name), int) and value >= 1):
                raise ValueError(
                    f"expected {name} of SpectralRegulariser to be a whole number of at least 1, got {value!r}"
                )

    def init(self, network: Network, params: Params) -> State:
        tops = {name: torch.linalg.svd(_matrix(params[name]).double(), full_matrices=False) for name in network.weights}
        return {name: svd.Vh[0].to(params[name]) for name, svd in tops.items()}

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        total = torch.zeros(())
        for name, v in state.items():
            total = total + ((_matrix(params[name]) @ v).norm() ** self.power - 1) ** 2
        for name in _biases(network):
            total = total + params[name].square().sum() ** self.power
        return self.strength * total

    def penalty_gradient(self, network: Network, params: Params, state: State, seen: Seen) -> dict[str, Scaled]:
        k, gradient = self.power, {}
        for name, v in state.items():
            image = _matrix(params[name]) @ v
            sigma = image.norm()
            slope = 2 * k * (sigma**k - 1) * sigma ** (k - 1)
            outer = torch.outer(image / _positive(sigma), v)
            gradient[name] = Scaled(self.strength * slope, outer.reshape(params[name].shape))
        for name in _biases(network):
            b = params[name]
            gradient[name] = Scaled(2 * self.strength * k * b.square().sum() ** (k - 1), b)
        return gradient

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        return Change(state={name: self._followed(_matrix(params[name]), v) for name, v in state.items()})

    def _followed(self, matrix: Tensor, v: Tensor) -> Tensor:
        for _ in range(self.num_iterations):
            image = (matrix @ v) @ matrix
            size = image.norm()
            v = torch.where(size > 0, image / _positive(size), v)  # a matrix of zeros has no direction
        return v


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _positive(size: Tensor) -> Tensor:
    return size.clamp_min(torch.finfo(size.dtype).tiny)


def _biases(network: Network) -> list[str]:
    beside = [name.removesuffix("weight") + "bias" for name in network.weights if name.endswith("weight")]
    return [name for name in beside if name in network.names]
