"""Dropout as a pure function of a key."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.nets.keyed import Keyed


class Dropout(Keyed):
    """Dropout whose mask is a function of (seed, step, layer, position): no generator, the same under `vmap`.

    Each element is zeroed with probability `p`, the others are scaled by 1 / (1 - p). The mask is a counter-based hash
    of the element's position and of the key that `Network(params, x, key)` hands over; without a key, nothing drops.
    The dtype does not change the mask, and `train()` and `eval()` have no effect.

    Args:
        p: probability of zeroing, in [0, 1).
        salt: tells apart the dropout layers of one network; give each its own.

    Raises:
        ValueError: `p` is outside [0, 1).

    >>> layer = Dropout(0.5, salt=1)
    >>> layer(torch.ones(3))  # no key
    tensor([1., 1., 1.])
    >>> key = torch.tensor([7, 0])  # member seed and step
    >>> torch.func.functional_call(layer, {"key": key}, torch.ones(6))
    tensor([0., 0., 0., 0., 2., 2.])

    Source: Srivastava et al. 2014; P1 A.2 uses p = 0.1 in its vision transformer.
    """

    def __init__(self, p: float, salt: int = 0):
        if not 0 <= p < 1:
            raise ValueError(f"expected a dropout probability p in [0, 1), got {p}")
        super().__init__(salt)
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}, salt={self.salt}"

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or not self.draws:
            return x
        keep = self.bits(tuple(x.shape)) >= min(round(self.p * 2**32), 2**32 - 1) - 2**31
        return torch.where(keep, x / (1 - self.p), 0)
