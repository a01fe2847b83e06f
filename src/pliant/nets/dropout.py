"""Dropout as a pure function of a key."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Dropout whose mask is a function of (seed, step, layer, position): no generator, the same under `vmap`.

    Each element is zeroed with probability `p`, the others are scaled by 1 / (1 - p). The mask is a counter-based hash
    of the element's position and of the key that `Network(params, x, key)` hands over; without a key, nothing drops.

    Args:
        p: probability of zeroing, in [0, 1).
        salt: tells apart the dropout layers of one network; give each its own.

    >>> Dropout(0.5, salt=1)(torch.ones(3))  # no key
    tensor([1., 1., 1.])

    Source: Srivastava et al. 2014; P1 uses p = 0.1 in its vision transformer.
    """

    key: Tensor

    def __init__(self, p: float, salt: int = 0):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"expected a dropout probability p in [0, 1), got {p}")
        self.p, self.salt = p, salt
        self.register_buffer("key", torch.tensor([-1, -1]), persistent=False)

    def extra_repr(self) -> str:
        return f"p={self.p}, salt={self.salt}"

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0:
            return x
        position = torch.arange(x.numel(), device=x.device).reshape(x.shape)
        state = position
        for word in (self.key[0], self.key[1], torch.tensor(self.salt, device=x.device)):
            state = _mix(state ^ _mix(word + 0x9E3779B9))
        keep = (state.bitwise_and(0xFFFFFF).to(x.dtype) + 0.5) / 0x1000000 >= self.p
        dropped = torch.where(keep, x / (1 - self.p), torch.zeros_like(x))
        return torch.where(self.key[0] < 0, x, dropped)


def _mix(h: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3, in int64 arithmetic."""
    h = h.bitwise_and(0xFFFFFFFF)
    h = ((h ^ (h >> 16)) * 0x85EBCA6B).bitwise_and(0xFFFFFFFF)
    h = ((h ^ (h >> 13)) * 0xC2B2AE35).bitwise_and(0xFFFFFFFF)
    return h ^ (h >> 16)
