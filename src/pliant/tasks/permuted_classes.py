"""True classes under changing names."""

from __future__ import annotations

from dataclasses import dataclass

from pliant.data import Dataset
from pliant.tasks.base import Examples, Task, draw


@dataclass(frozen=True)
class PermutedClasses(Task):
    """Every task renames the classes with a permutation of its own: what was a 3 is a 7 now, for all its images alike.

    Permutations are independent and uniform, also that of the first task; of few classes, two in a row may be alike.
    Raises `ValueError` for regression data and for a single class.

    >>> from pliant.data import load
    >>> digits, task = load("digits"), PermutedClasses(num_examples=4, batch_size=2, every=10, num_tasks=3)
    >>> task.examples(digits, seed=0, task=0).targets, task.examples(digits, seed=0, task=1).targets
    (array([8, 5, 8, 2]), array([7, 0, 7, 8]))

    Source: P2 figure 2 (right), as far as known.
    """

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        if data.num_classes is None or data.num_classes < 2:
            got = "a regression data set" if data.num_classes is None else f"{data.num_classes} in {data.name}"
            raise ValueError(f"expected two classes or more to permute, got {got}")
        rows = self.own_rows(data, seed) if previous is None else previous.rows
        names = draw(seed, "classes", task).permutation(data.num_classes)
        return Examples(rows, names[data.y_train[rows]])
