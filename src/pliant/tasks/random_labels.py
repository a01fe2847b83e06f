"""Random labels, drawn again at every switch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.tasks.base import Task, draw


@dataclass(frozen=True)
class RandomLabels(Task):
    """Every example has a uniformly random label; at each switch a `fraction` of the labels is drawn again.

    The examples stay. With `fraction=1` all labels are new. To compare fractions at a matched total amount of change, write
    `RandomLabels.matched(fraction, ...)`.

    >>> task = RandomLabels(num_examples=4, batch_size=2, every=10, num_tasks=3)
    >>> task.targets(seed=0, task=1, y=np.zeros(4), num_classes=10)
    array([5, 2, 2, 4])

    Source: P1 section 4.1 and A.1 (all labels), P2 section 3.1 (a fraction).
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"expected fraction to be in (0, 1], got {self.fraction}")

    @classmethod
    def matched(cls, fraction: float, *, num_examples: int, batch_size: int, every: int, num_tasks: int) -> RandomLabels:
        """A fraction of the labels every `fraction * every` steps: as much change in all as all labels every `every` steps.

        >>> RandomLabels.matched(0.1, num_examples=4, batch_size=2, every=100, num_tasks=3)
        RandomLabels(num_examples=4, batch_size=2, every=10, num_tasks=30, fraction=0.1)
        """
        period = max(1, round(fraction * every))
        return cls(num_examples, batch_size, period, round(every * num_tasks / period), fraction)

    def targets(self, seed: int, task: int, y: np.ndarray, num_classes: int | None) -> np.ndarray:
        if num_classes is None:
            raise ValueError("expected class labels, got a regression data set: random labels need a number of classes")
        labels = draw(seed, "labels", 0 if self.fraction < 1 else task).integers(0, num_classes, len(y))
        if self.fraction < 1:
            for switch in range(1, task + 1):
                generator = draw(seed, "relabel", switch)
                again = generator.permutation(len(y))[: round(self.fraction * len(y))]
                labels[again] = generator.integers(0, num_classes, len(again))
        return labels
