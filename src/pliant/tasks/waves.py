"""Regression on functions of the inputs: sines of random networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pliant.data import Dataset
from pliant.tasks.base import MOST, Examples, Task, check_rounding, draw

SIZE = 10.0  # outputs of f are below it


@dataclass(frozen=True)
class Waves(Task):
    """Targets `offset + sin(frequency f(x))`, f a random network with one hidden layer that is drawn again each task.

    f has `width` ReLU units with He's initialisation; inputs are standardised. Computed in float64 on the CPU.

    Args:
        frequency: how fast the targets change with the inputs; P1's probe has 1e5.
        offset: of all targets, one number or one a task.
        outputs: how many targets an example has.
        width: of f.

    >>> from pliant.data import load
    >>> task = Waves(num_examples=3, batch_size=3, every=10, num_tasks=2, frequency=1.0)
    >>> task.examples(load("digits"), seed=0, task=0).targets.shape
    (3, 1)

    Source: P1 sections 3.1 and A.2 (the targets); as a stream, ours.
    """

    frequency: float = 1e5
    offset: float | tuple[float, ...] = 0.0
    outputs: int = 1
    width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.offset, tuple) and len(self.offset) != self.num_tasks:
            raise ValueError(f"expected an offset for each of {self.num_tasks} tasks, got {self.offset}")
        check_rounding(self.offset, 1.0)
        error = 0.5 * np.spacing(self.frequency * SIZE)
        if not error < MOST:
            raise ValueError(
                f"expected a frequency whose sine float64 can tell, got {self.frequency:g}: the phase of an output of "
                f"{SIZE:g} has an error of up to {error:.2g} rad"
            )

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        rows = self.own_rows(data, seed) if previous is None else previous.rows
        raw = torch.from_numpy(np.ascontiguousarray(data.x_train[rows]))
        x = data.standardize(raw, torch.float64).flatten(1).numpy()
        generator = draw(seed, "waves", task)
        into = generator.standard_normal((x.shape[1], self.width)) * np.sqrt(2 / x.shape[1])
        out = generator.standard_normal((self.width, self.outputs)) * np.sqrt(2 / self.width)
        waves = np.sin(self.frequency * (np.maximum(x @ into, 0) @ out))
        offset = self.offset[task] if isinstance(self.offset, tuple) else self.offset
        return Examples(rows, (offset + waves).astype(np.float32))
