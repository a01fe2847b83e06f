"""True labels, permuted pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.data import Dataset
from pliant.tasks.base import Examples, Task, draw


@dataclass(frozen=True)
class PermutedPixels(Task):
    """Every task shuffles the input positions with a permutation of its own; labels are the true ones.

    The first task is permuted, too, so that all tasks are equally hard for a network.

    >>> from pliant.data import load
    >>> task = PermutedPixels(num_examples=4, batch_size=2, every=10, num_tasks=3)
    >>> task.examples(load("digits"), seed=0, task=1).positions[:4]
    array([19, 11,  1, 51])

    Source: Goodfellow et al. 2013; one of the input changes of P2 section 4.2.
    """

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        same = super().examples(data, seed, task, previous)
        return same._replace(positions=draw(seed, "pixels", task).permutation(int(np.prod(data.shape))))
