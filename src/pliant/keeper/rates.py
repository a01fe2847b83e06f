"""What happens after a step where parameter groups have learning rates of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pliant.interventions.base import Change, Seen


class NotingSeen(Seen):
    """Counts how often a learning rate was read; step and rate are numbers that become tensors where they are read."""

    reads = 0
    like: Tensor

    @property
    def step(self) -> Tensor:  # type: ignore[override]
        return torch.tensor(self[0], device=self.like.device)

    @property
    def lr(self) -> Tensor:  # type: ignore[override]
        NotingSeen.reads += 1
        return torch.tensor(self[1], device=self.like.device, dtype=self.like.dtype)


def at_each_rate(rates: dict[float, set[str]], after_step: Callable[[float], Change]) -> Change:
    """What changes if `after_step`, called with each learning rate, counts for the parameters that have it.

    Called once where the rate is not read (from a `NotingSeen`). What belongs to no parameter is from the first call.
    """
    total: Change | None = None
    for lr, names in rates.items():
        reads = NotingSeen.reads
        change = after_step(lr)
        total = change if total is None else _merged(total, change, names)
        if NotingSeen.reads == reads:
            break
    assert total is not None
    return total


def _merged(first: Change, other: Change, names: set[str]) -> Change:
    params = first.params | {name: p for name, p in other.params.items() if name in names}
    moments = {
        kind: group | {name: m for name, m in other.moments[kind].items() if name in names}
        for kind, group in first.moments.items()
    }
    return replace(first, params=params, moments=moments)
