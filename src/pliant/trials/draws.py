"""Random numbers of trials, by the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pliant.functional.draws import draw
from pliant.trials.building import BLOCK


class Draws:
    """Uniform numbers in [0, 1) of every step, functions of (seed, purpose, step), made by the block.

    With `normal` they are standard normal.

    >>> Draws([0, 1], "test", (3,)).at(120).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, seeds: Sequence[int], purpose: str, shape: tuple[int, ...], device: Any = "cpu", normal: bool = False
    ):
        self.seeds, self.purpose, self.shape, self.device, self.normal = list(seeds), purpose, shape, device, normal
        self._block: tuple[int, Tensor] | None = None

    def at(self, step: int) -> Tensor:
        """`(members, *shape)`."""
        block, place = divmod(step, BLOCK)
        if self._block is None or self._block[0] != block:
            generators, size = [draw(seed, self.purpose, block) for seed in self.seeds], (BLOCK, *self.shape)
            numbers = [g.standard_normal(size) if self.normal else g.random(size) for g in generators]
            self._block = block, torch.stack([torch.from_numpy(n) for n in numbers], 1).to(self.device)
        return self._block[1][place]
