"""A small data set whose examples tell who they are, and one entry a registered task (a new one is added here)."""

from typing import Any

import numpy as np

from pliant import tasks
from pliant.data import Dataset
from tests.listed import classes

SIZES: Any = {"num_examples": 20, "batch_size": 6, "every": 10, "num_tasks": 4}


def data(size: int = 40, regression: bool = False) -> Dataset:
    """Images (2, 3, 4) of 24 different values each; example i holds i, i + 1, ..., i + 23; the halves are domains."""
    x = (np.arange(size)[:, None] + np.arange(24)).astype(np.uint8).reshape(size, 2, 3, 4)
    y = np.linspace(-1, 1, size) if regression else np.arange(size) % 7
    halves, classes = np.arange(size) * 2 // size, None if regression else 7
    return Dataset("counting", x, y, None, None, classes, 64.0, (0.4, 0.4), (0.2, 0.2), halves)


EXAMPLES = {
    "Task": tasks.Task(**SIZES),
    "RandomLabels": tasks.RandomLabels(**SIZES),
    "RandomLabels, a fraction": tasks.RandomLabels(**SIZES, fraction=0.3),
    "OffsetNoise": tasks.OffsetNoise(**SIZES, offset=8.0, outputs=2),
    "PermutedPixels": tasks.PermutedPixels(**SIZES),
    "PermutedClasses": tasks.PermutedClasses(**SIZES),
    "Composite": tasks.Composite(**SIZES),
    "BitFlipping": tasks.BitFlipping(**SIZES, flipping=4),
    "OffsetNoise, growing": tasks.OffsetNoise.growing(30.0, **SIZES),
    "Domains": tasks.Domains(**SIZES),
    "Growing, random labels": tasks.Growing(**SIZES, begin=8, random=True),
    "Growing": tasks.Growing(**SIZES, begin=8),
    "Waves": tasks.Waves(**SIZES, frequency=1.0, outputs=2, width=8),
    "RandomLabels, unequal": tasks.RandomLabels(**(SIZES | {"every": (3, 20, 7, 10)}), fraction=0.5),
    "OffsetNoise, unequal": tasks.OffsetNoise(20, 6, (25, 5, 7, 3), num_tasks=4, offset=(8.0, 0.0, 1.0, 2.0)),
}


def registered() -> list[type[tasks.Task]]:
    """Every task in the files of the package."""
    return [kind for kind in classes(tasks) if issubclass(kind, tasks.Task)]
