"""Random labels, drawn again at every switch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pliant.tasks.base import Task, draw


@dataclass(frozen=True)
class RandomLabels(Task):
    """Every example has a uniformly random label; at each switch a `fraction` of the labels is drawn again.

    The examples stay. With `fraction=1` all labels are new. To compare fractions at a matched total amount of change,
    write `RandomLabels.matched(fraction, ...)`.

    >>> task = RandomLabels(num_examples=4, batch_size=2, every=10, num_tasks=3)
    >>> task.targets(seed=0, task=1, y=np.zeros(4), num_classes=10)
    array([7, 9, 2, 4])

    Source: P1 section 4.1 and A.1 (all labels), P2 section 3.1 (a fraction).
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"expected fraction to be in (0, 1], got {self.fraction}")
        if self._redrawn(self.num_examples) == 0:
            raise ValueError(
                f"expected fraction to be one label or more, got {self.fraction} of num_examples={self.num_examples}"
            )

    @classmethod
    def matched(
        cls, fraction: float, *, num_examples: int, batch_size: int, every: int, num_tasks: int
    ) -> RandomLabels:
        """A fraction of the labels every `fraction * every` steps: as much change in all as with all every `every`.

        Raises `ValueError` where `fraction * every` is not a whole number of steps.

        >>> RandomLabels.matched(0.1, num_examples=40, batch_size=2, every=100, num_tasks=3)
        RandomLabels(num_examples=40, batch_size=2, every=10, num_tasks=30, fraction=0.1)
        """
        period = round(fraction * every)
        if period < 1 or not math.isclose(period, fraction * every, rel_tol=1e-6):
            raise ValueError(
                f"expected fraction * every to be a whole number of steps, got {fraction} * {every}: "
                "the total change would not match"
            )
        return cls(num_examples, batch_size, period, round(every * num_tasks / period), fraction)

    def targets(
        self, seed: int, task: int, y: np.ndarray, num_classes: int | None, previous: np.ndarray | None = None
    ) -> np.ndarray:
        if num_classes is None:
            raise ValueError("expected class labels, got a regression data set: random labels need a number of classes")
        if self.fraction == 1:
            return draw(seed, "labels", task).integers(0, num_classes, len(y))
        first = 1 if previous is None or task == 0 else task
        labels = draw(seed, "labels", 0).integers(0, num_classes, len(y)) if first == 1 else np.array(previous)
        for switch in range(first, task + 1):
            generator = draw(seed, "relabel", switch)
            again = generator.permutation(len(y))[: self._redrawn(len(y))]
            labels[again] = generator.integers(0, num_classes, len(again))
        return labels

    def _redrawn(self, labels: int) -> int:
        return round(self.fraction * labels)
