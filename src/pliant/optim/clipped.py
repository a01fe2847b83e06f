"""Gradients of bounded length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pliant.network import Params
from pliant.optim.base import Around, Moments, Optimizer, aligned


@dataclass(frozen=True)
class Clipped(Around):
    """Another optimizer whose gradient has a length of at most `norm`: g <- g min(1, norm / ||g||).

    ||g|| is over all parameters of one network, of the gradient of the loss with its penalties; with SAM in it, of the
    second one. dqn_zoo's C51 and Rainbow have `Clipped(Adam(...), norm=10.0)`.

    Args:
        base: the optimizer that makes the step; its learning rate is that of `Clipped`.
        norm: above 0.

    >>> from pliant.optim import SGD
    >>> optimizer, params = Clipped(SGD(lr=1.0), norm=1.0), {"w": torch.zeros(2)}
    >>> optimizer.update(params, {"w": torch.tensor([3.0, 4.0])}, optimizer.init(params))
    >>> params["w"]
    tensor([-0.6000, -0.8000])

    Equals `torch.nn.utils.clip_grad_norm_`, which adds 1e-6 to the length, to that.
    """

    norm: float

    def __post_init__(self) -> None:
        if not isinstance(self.base, Optimizer):
            raise ValueError(
                f"expected base of Clipped to be an optimizer, got {self.base!r}: write Clipped(Adam(lr=1e-3), 10.0)"
            )
        if not (isinstance(self.norm, (int, float)) and 0 < self.norm < math.inf):
            raise ValueError(f"expected norm of Clipped to be above 0, got {self.norm!r}")
        super().__post_init__()

    @property
    def elementwise(self) -> bool:
        return False

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(grads.values()))))
        scale = torch.where(length > self.norm, self.norm / length, 1.0)
        scaled = aligned(params, grads)  # none of them twice
        for g in scaled:
            g.mul_(scale.to(g.dtype))
        self.base.update(params, dict(zip(params, scaled, strict=True)), moments, generator)
