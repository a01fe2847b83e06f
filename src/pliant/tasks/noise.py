"""Regression on noise far from zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.data import Dataset
from pliant.tasks.base import Examples, Task, check_rounding, draw


@dataclass(frozen=True)
class OffsetNoise(Task):
    """Every example has normal targets around `offset`, drawn again at each switch.

    Args:
        offset: of all targets, one number or one a task.
        outputs: how many targets an example has.
        noise: the targets' standard deviation.

    >>> from pliant.data import load
    >>> task = OffsetNoise(num_examples=3, batch_size=3, every=10, num_tasks=2, offset=(100.0, 0.0), outputs=1)
    >>> [task.examples(load("digits"), seed=0, task=t).targets.astype(float).round(1).tolist() for t in (0, 1)]
    [[[99.2], [99.6], [100.9]], [[-1.4], [1.4], [-2.1]]]

    Source: P2 section 3.1 and appendix E.1, as far as known: the targets' offset is what is varied.
    """

    offset: float | tuple[float, ...] = 0.0
    outputs: int = 1
    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.offset, tuple) and len(self.offset) != self.num_tasks:
            raise ValueError(f"expected an offset for each of {self.num_tasks} tasks, got {self.offset}")
        if self.noise:
            check_rounding(self.offset, self.noise)

    @classmethod
    def growing(
        cls, offset: float, *, num_examples: int, batch_size: int, every: int, num_tasks: int, outputs: int = 1
    ) -> OffsetNoise:
        """Targets that grow: the offset goes evenly from 0 in the first task to `offset` in the last.

        >>> OffsetNoise.growing(30.0, num_examples=3, batch_size=3, every=10, num_tasks=4).offset
        (0.0, 10.0, 20.0, 30.0)

        Source: P2 section 4.2, one of two readings of its growing streams; the other is `Growing`.
        """
        offsets = tuple(np.linspace(0.0, offset, num_tasks).tolist())
        return cls(num_examples, batch_size, every, num_tasks, offset=offsets, outputs=outputs)

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        rows = self.own_rows(data, seed) if previous is None else previous.rows
        noise = draw(seed, "noise", task).standard_normal((len(rows), self.outputs))
        offset = self.offset[task] if isinstance(self.offset, tuple) else self.offset
        return Examples(rows, (offset + self.noise * noise).astype(np.float32))
