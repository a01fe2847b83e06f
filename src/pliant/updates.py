"""The optimizers of a population's members, as one where they can be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.func import vmap

from pliant.network import Params
from pliant.optim import SAM, Moments, Optimizer
from pliant.optim.base import noise_generator
from pliant.stacking import at, stack


class Updates:
    """Updates of all members: of all at once where their optimizers are equal and elementwise, else one by one.

    Parameters, gradients and moments have a member axis; the step count has none, as all members share it.

    Args:
        optimizers: one a member, of one kind.
        seeds: one a member, for optimizers that draw.

    >>> from pliant.optim import SGD
    >>> updates, params = Updates([SGD(lr=0.5), SGD(lr=1.0)], seeds=[0, 1]), {"w": torch.zeros(2, 1)}
    >>> updates.update(params, {"w": torch.ones(2, 1)}, updates.init(params), step=0)
    >>> params["w"].tolist()
    [[-0.5], [-1.0]]
    """

    def __init__(self, optimizers: Sequence[Optimizer], seeds: Sequence[int]):
        self._groups = _groups(optimizers)
        self._seeds = seeds
        self._elementwise = optimizers[0].elementwise
        self._as_one = len(self._groups) == 1 and self._elementwise

    def init(self, params: Params) -> Moments:
        """Zero moments: made of each member's own parameters where their shapes say how they are."""
        if self._elementwise:
            return max((optimizer.init(params) for optimizer, _ in self._groups), key=len)
        each = [optimizer.init(at(params, m)) for optimizer, m in self._groups]
        return {
            kind: first if kind == "step" else stack([one[kind] for one in each]) for kind, first in each[0].items()
        }

    def update(self, params: Params, grads: Params, moments: Moments, step: int) -> None:
        """One step of every member, in place."""
        if self._as_one:
            optimizer, m = self._groups[0]
            optimizer.update(params, grads, moments, self._noise(optimizer, m, step))
            return
        clock = moments.get("step", {})
        before = {name: count.clone() for name, count in clock.items()}
        for optimizer, m in self._groups:
            for name, count in before.items():
                clock[name].copy_(count)
            mine = {kind: group if kind == "step" else at(group, m) for kind, group in moments.items()}
            optimizer.update(at(params, m), at(grads, m), mine, self._noise(optimizer, m, step))

    def ascent(self, params: Params, grads: Params) -> Params:
        """Where the optimizers want gradients a second time."""
        if self._as_one:
            return vmap(self._groups[0][0].ascent)(params, grads)
        return stack([optimizer.ascent(at(params, m), at(grads, m)) for optimizer, m in self._groups])

    def _noise(self, optimizer: Optimizer, m: int, step: int) -> torch.Generator | None:
        return noise_generator(self._seeds[m], step) if optimizer.draws else None


def _groups(optimizers: Sequence[Optimizer]) -> list[tuple[Optimizer, int]]:
    """One entry where the members can be updated as one, else one a member."""
    bases = {type(o.base).__name__ for o in optimizers if isinstance(o, SAM)}
    if len(bases) > 1:
        raise ValueError(f"expected members with the same kind of optimizer in SAM, got {' and '.join(sorted(bases))}")
    if len(optimizers) == 1 or (optimizers[0].elementwise and all(o == optimizers[0] for o in optimizers)):
        return [(optimizers[0], 0)]
    return [(o, m) for m, o in enumerate(optimizers)]
