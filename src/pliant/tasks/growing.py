"""True labels, more and more examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.data import Dataset
from pliant.tasks.base import Examples, Task


@dataclass(frozen=True)
class Growing(Task):
    """Each task adds as many examples with their true labels, from `begin` of them to `num_examples`.

    With two tasks it is a warm start: a network trained on a part, then on the whole.

    Args:
        begin: examples in the first task, at least a batch.

    >>> task = Growing(num_examples=100, batch_size=10, every=10, num_tasks=3, begin=20)
    >>> [task.size(t) for t in range(3)]
    [20, 60, 100]

    Source: Ash and Adams 2020 (the warm start); P2 section 4.2, as far as known.
    """

    begin: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_size <= self.begin <= self.num_examples:
            raise ValueError(
                f"expected begin to be from batch_size={self.batch_size} to num_examples={self.num_examples}, "
                f"got {self.begin}"
            )

    def size(self, task: int) -> int:
        return round(float(np.linspace(self.begin, self.num_examples, self.num_tasks)[task]))

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        rows = self.own_rows(data, seed)[: self.size(task)]
        return Examples(rows, np.asarray(data.y_train[rows]))
