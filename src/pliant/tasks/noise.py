"""Regression on noise far from zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pliant.data import Dataset
from pliant.tasks.base import Task, draw


@dataclass(frozen=True)
class OffsetNoise(Task):
    """Every example has normal targets around `offset`, drawn again at each switch; mean squared error.

    Args:
        offset: of all targets.
        outputs: how many targets an example has.
        noise: the targets' standard deviation.

    >>> task = OffsetNoise(num_examples=3, batch_size=3, every=10, num_tasks=1, offset=100.0, outputs=1)
    >>> task.targets(seed=0, task=0, y=np.zeros(3), num_classes=None).astype(float).round(1).tolist()
    [[99.2], [99.6], [100.9]]

    Source: P2 section 3.1 and appendix E.1, as far as known: the targets' offset is what is varied.
    """

    offset: float = 0.0
    outputs: int = 1
    noise: float = 1.0

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return F.mse_loss

    def num_outputs(self, data: Dataset) -> int:
        return self.outputs

    def targets(
        self, seed: int, task: int, y: np.ndarray, num_classes: int | None, previous: np.ndarray | None = None
    ) -> np.ndarray:
        noise = draw(seed, "noise", task).standard_normal((len(y), self.outputs))
        return (self.offset + self.noise * noise).astype(np.float32)
