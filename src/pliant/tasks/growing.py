"""More and more examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.data import Dataset
from pliant.tasks.base import Examples, Task, draw


@dataclass(frozen=True)
class Growing(Task):
    """Each task adds as many examples with their labels, from `begin` of them to `num_examples`; what is there stays.

    With two tasks it is a warm start: a network trained on a part, then on the whole, `Growing.warm_start`. Targets
    that grow, the other reading of P2's growing streams, are `OffsetNoise.growing`.

    Args:
        begin: examples in the first task, at least a batch.
        random: each example has a uniformly random label, which stays, in place of the true one.

    >>> task = Growing(num_examples=100, batch_size=10, every=10, num_tasks=3, begin=20)
    >>> [task.size(t) for t in range(3)]
    [20, 60, 100]

    Source: Ash and Adams 2020 (the warm start); P2 section 4.2, as far as known.
    """

    begin: int = 1
    random: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_size <= self.begin <= self.num_examples:
            raise ValueError(
                f"expected begin to be from batch_size={self.batch_size} to num_examples={self.num_examples}, "
                f"got {self.begin}"
            )

    @classmethod
    def warm_start(cls, num_examples: int, batch_size: int, every: int) -> Growing:
        """Two tasks: half of the examples with their true labels, then all of them.

        >>> Growing.warm_start(num_examples=100, batch_size=10, every=40)
        Growing(num_examples=100, batch_size=10, every=40, num_tasks=2, begin=50, random=False)
        """
        return cls(num_examples, batch_size, every, 2, begin=num_examples // 2)

    def size(self, task: int) -> int:
        return round(float(np.linspace(self.begin, self.num_examples, self.num_tasks)[task]))

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        rows = self.own_rows(data, seed)[: self.size(task)]
        if not self.random:
            return Examples(rows, np.asarray(data.y_train[rows]))
        if data.num_classes is None:
            raise ValueError("expected class labels, got a regression data set: random labels need a number of classes")
        labels = draw(seed, "labels", 0).integers(0, data.num_classes, self.num_examples)
        return Examples(rows, labels[: self.size(task)])
