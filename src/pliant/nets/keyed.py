"""Layers that draw by counter: pure functions of a key."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Keyed(nn.Module):
    """A layer whose random numbers are functions of (seed, step, layer, position): no generator, the same under `vmap`.

    They are a counter-based hash of the position and of the key that `Network(params, x, key)` hands over; without a
    key, nothing is drawn. `train()` and `eval()` have no effect.

    Args:
        salt: tells apart the layers of one network; give each its own.

    >>> layer = Keyed(salt=1)
    >>> layer.draws
    False
    >>> layer.key = torch.tensor([7, 0])  # member seed and step
    >>> layer.bits((2, 3)).dtype
    torch.int32
    """

    key: Tensor

    def __init__(self, salt: int = 0):
        super().__init__()
        self.salt = salt
        self.register_buffer("key", torch.empty(0, dtype=torch.int64), persistent=False)  # empty: no key

    @property
    def draws(self) -> bool:
        """Whether there is a key."""
        return self.key.numel() > 0

    def bits(self, shape: tuple[int, ...], part: int = 0) -> Tensor:
        """Uniform over all int32; each `part` of a layer has numbers of its own."""
        row, column = _words(self.key, self.salt + (part << 16))
        rows = torch.arange(math.prod(shape[:-1]), dtype=torch.int32, device=self.key.device).view(*shape[:-1], 1)
        columns = torch.arange(shape[-1], dtype=torch.int32, device=self.key.device)
        return _mix(_mix(rows ^ row) ^ _mix(columns ^ column))

    def runs(self, *sizes: int) -> Tensor:
        """The `bits((size,), part)` of parts 0, 1, ..., one after another: together they take half the time."""
        row, column = _words(self.key, self.salt, len(sizes))
        indices = [torch.arange(size, dtype=torch.int32, device=self.key.device) for size in sizes]
        columns = _mix(torch.cat([index ^ one for index, one in zip(indices, column.unbind(), strict=True)]))
        rows = _mix(row).unbind()
        return _mix(torch.cat([part ^ one for part, one in zip(columns.split(sizes), rows, strict=True)]))


def _words(key: Tensor, salt: int, parts: int | None = None) -> tuple[Tensor, Tensor]:
    """Two 32-bit words from a salt and a key of two 64-bit numbers, each mixed in before the next one comes.

    Or of so many `parts` of the salt, as two tensors of as many words.
    """
    state = torch.arange(2 * salt + 1, 2 * salt + 3, dtype=torch.int32, device=key.device)
    if parts is not None:
        state = state + (torch.arange(parts, dtype=torch.int32, device=key.device) << 17).unsqueeze(1)
    state = _mix(state)
    for number in key.unbind():
        for half in (number, number >> 32):
            state = _mix((state ^ half.to(torch.int32)) + 0x1E3779B9)
    row, column = state.unbind(-1)
    return row, column


def _mix(h: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3: int32 wraps around, and a mask makes the shifts logical."""
    h = h.bitwise_xor((h >> 16).bitwise_and_(0xFFFF)).mul_(-0x7A143595)  # 0x85EBCA6B as an int32
    h.bitwise_xor_((h >> 13).bitwise_and_(0x7FFFF)).mul_(-0x3D4D51CB)  # 0xC2B2AE35
    return h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF))
