"""Sharpness-aware minimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from pliant.network import Params
from pliant.optim.base import Around, Optimizer


@dataclass(frozen=True)
class SAM(Around):
    """Sharpness-aware minimisation around another optimizer: the gradient is that at w + rho g / ||g||.

    g is the gradient at w, of the loss with its penalties and over all parameters of one network; the second one is of
    the same batch with the same dropout. What `base` does with it starts from w. A step costs two gradients.

    Args:
        base: the optimizer that makes the step; its learning rate is that of SAM.
        rho: how far to go up; 0 is `base` alone. In use are 0.05 to 0.1.

    >>> from pliant.optim import SGD
    >>> optimizer = SAM(SGD(lr=0.1), rho=0.05)
    >>> optimizer.ascent({"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])})
    {'w': tensor([0.0300, 0.0400])}

    Source: Foret et al. 2021. A gradient of 0 stays where it is (no small number is added to the norm).
    """

    reference: ClassVar[str | None] = "foret2021"

    rho: float

    def __post_init__(self) -> None:
        if not isinstance(self.base, Optimizer) or isinstance(self.base, SAM):
            raise ValueError(
                f"expected base of SAM to be another optimizer, got {self.base!r}: write SAM(Adam(lr=1e-3), rho=0.05)"
            )
        if not (isinstance(self.rho, (int, float)) and 0 <= self.rho < math.inf):
            raise ValueError(f"expected rho of SAM to be at least 0, got {self.rho!r}")
        super().__post_init__()

    @property
    def ascends(self) -> bool:
        return True

    def ascent(self, params: Params, grads: Params) -> Params:
        norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
        scale = torch.where(norm > 0, self.rho / norm, 0)
        return {name: p + scale * grads[name] for name, p in params.items()}
