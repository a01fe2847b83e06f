"""Random labels, drawn again at every switch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pliant.data import Dataset
from pliant.tasks.base import Examples, Task, draw


@dataclass(frozen=True)
class RandomLabels(Task):
    """Every example has a uniformly random label; at each switch a `fraction` of the labels is drawn again.

    The examples stay. With `fraction=1` all labels are new. To compare fractions at a matched total amount of change,
    write `RandomLabels.matched(fraction, ...)`.

    >>> task = RandomLabels(num_examples=4, batch_size=2, every=10, num_tasks=3)
    >>> task.labels(seed=0, task=1, num_classes=10)
    array([7, 9, 2, 4])

    Source: P1 section 4.1 and A.1 (all labels), P2 section 3.1 (a fraction).
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.fraction)
        if self._redrawn(self.num_examples) == 0:
            raise ValueError(
                f"expected fraction to be one label or more, got {self.fraction} of num_examples={self.num_examples}"
            )

    @classmethod
    def matched(
        cls, fraction: float, *, num_examples: int, batch_size: int, every: int, num_tasks: int
    ) -> RandomLabels:
        """A fraction of the labels every `fraction * every` steps: as much change in all as with all every `every`.

        Raises `ValueError` for a fraction outside (0, 1], and where `fraction * every` is not a whole number of steps.

        >>> RandomLabels.matched(0.1, num_examples=40, batch_size=2, every=100, num_tasks=3)
        RandomLabels(num_examples=40, batch_size=2, every=10, num_tasks=30, fraction=0.1)
        """
        _check(fraction)
        period = round(fraction * every)
        if period < 1 or not math.isclose(period, fraction * every, rel_tol=1e-6):
            raise ValueError(
                f"expected fraction * every to be a whole number of steps, got {fraction} * {every}: "
                "the total change would not match"
            )
        return cls(num_examples, batch_size, period, round(every * num_tasks / period), fraction)

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        if data.num_classes is None:
            raise ValueError("expected class labels, got a regression data set: random labels need a number of classes")
        rows = self.own_rows(data, seed) if previous is None else previous.rows
        before = None if previous is None else previous.targets
        return Examples(rows, self.labels(seed, task, data.num_classes, before))

    def labels(self, seed: int, task: int, num_classes: int, previous: np.ndarray | None = None) -> np.ndarray:
        """The labels of a task, `(num_examples,)`; `previous` are those of the task before."""
        if self.fraction == 1:
            return draw(seed, "labels", task).integers(0, num_classes, self.num_examples)
        first = 1 if previous is None or task == 0 else task
        fresh = first == 1
        labels = draw(seed, "labels", 0).integers(0, num_classes, self.num_examples) if fresh else np.array(previous)
        for switch in range(first, task + 1):
            generator = draw(seed, "relabel", switch)
            again = generator.permutation(self.num_examples)[: self._redrawn(self.num_examples)]
            labels[again] = generator.integers(0, num_classes, len(again))
        return labels

    def _redrawn(self, labels: int) -> int:
        return round(self.fraction * labels)


def _check(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"expected fraction to be in (0, 1], got {fraction}")
