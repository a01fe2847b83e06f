"""True labels, permuted pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.tasks.base import Task, draw


@dataclass(frozen=True)
class PermutedPixels(Task):
    """Every task shuffles the input positions with a permutation of its own; labels are the true ones.

    The first task is permuted, too, so that all tasks are equally hard for a network.

    >>> PermutedPixels(num_examples=4, batch_size=2, every=10, num_tasks=3).positions(seed=0, task=1, size=4)
    array([2, 1, 0, 3])

    Source: Goodfellow et al. 2013; one of the input changes of P2 section 4.2.
    """

    def positions(self, seed: int, task: int, size: int) -> np.ndarray:
        return draw(seed, "pixels", task).permutation(size)
