"""Dropout as a pure function of a key."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
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

    key: Tensor

    def __init__(self, p: float, salt: int = 0):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"expected a dropout probability p in [0, 1), got {p}")
        self.p, self.salt = p, salt
        self.register_buffer("key", torch.empty(0, dtype=torch.int64), persistent=False)  # empty: no key

    def extra_repr(self) -> str:
        return f"p={self.p}, salt={self.salt}"

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or self.key.numel() == 0:
            return x
        row, column = _words(self.key, self.salt)
        rows = torch.arange(math.prod(x.shape[:-1]), dtype=torch.int32, device=x.device).view(*x.shape[:-1], 1)
        columns = torch.arange(x.shape[-1], dtype=torch.int32, device=x.device)
        bits = _mix(_mix(rows ^ row) ^ _mix(columns ^ column))  # uniform over all int32
        keep = bits >= min(round(self.p * 2**32), 2**32 - 1) - 2**31
        return torch.where(keep, x / (1 - self.p), 0)


def _words(key: Tensor, salt: int) -> tuple[Tensor, Tensor]:
    """Two 32-bit words from a salt and a key of two 64-bit numbers, each mixed in before the next one comes."""
    state = _mix(torch.arange(2 * salt + 1, 2 * salt + 3, dtype=torch.int32, device=key.device))
    for number in key.unbind():
        for half in (number, number >> 32):
            state = _mix((state ^ half.to(torch.int32)) + 0x1E3779B9)
    row, column = state.unbind()
    return row, column


def _mix(h: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3: int32 wraps around, and a mask makes the shifts logical."""
    h = h.bitwise_xor((h >> 16).bitwise_and_(0xFFFF)).mul_(-0x7A143595)  # 0x85EBCA6B as an int32
    h.bitwise_xor_((h >> 13).bitwise_and_(0x7FFFF)).mul_(-0x3D4D51CB)  # 0xC2B2AE35
    return h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF))
