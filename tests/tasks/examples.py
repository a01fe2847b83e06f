"""A small data set whose examples tell who they are, and one entry a registered task (a new one is added here)."""

import numpy as np

import pliant.tasks
from pliant.data import Dataset
from pliant.tasks import (
    BitFlipping,
    Composite,
    Domains,
    Growing,
    OffsetNoise,
    PermutedClasses,
    PermutedPixels,
    RandomLabels,
    Task,
    Waves,
)
from tests.listed import classes


def data(size: int = 40, regression: bool = False) -> Dataset:
    """Images (2, 3, 4) of 24 different values each; example i holds i, i + 1, ..., i + 23; the halves are domains."""
    x = (np.arange(size)[:, None] + np.arange(24)).astype(np.uint8).reshape(size, 2, 3, 4)
    y = np.linspace(-1, 1, size) if regression else np.arange(size) % 7
    halves, classes = np.arange(size) * 2 // size, None if regression else 7
    return Dataset("counting", x, y, None, None, classes, 64.0, (0.4, 0.4), (0.2, 0.2), halves)


EXAMPLES = {
    "Task": Task(num_examples=20, batch_size=6, every=10, num_tasks=4),
    "RandomLabels": RandomLabels(num_examples=20, batch_size=6, every=10, num_tasks=4),
    "RandomLabels, a fraction": RandomLabels(num_examples=20, batch_size=6, every=10, num_tasks=4, fraction=0.3),
    "OffsetNoise": OffsetNoise(num_examples=20, batch_size=6, every=10, num_tasks=4, offset=8.0, outputs=2),
    "PermutedPixels": PermutedPixels(num_examples=20, batch_size=6, every=10, num_tasks=4),
    "PermutedClasses": PermutedClasses(num_examples=20, batch_size=6, every=10, num_tasks=4),
    "Composite": Composite(num_examples=20, batch_size=6, every=10, num_tasks=4),
    "BitFlipping": BitFlipping(num_examples=20, batch_size=6, every=10, num_tasks=4, flipping=4),
    "OffsetNoise, growing": OffsetNoise.growing(30.0, num_examples=20, batch_size=6, every=10, num_tasks=4),
    "Domains": Domains(num_examples=20, batch_size=6, every=10, num_tasks=4),
    "Growing, random labels": Growing(num_examples=20, batch_size=6, every=10, num_tasks=4, begin=8, random=True),
    "Growing": Growing(num_examples=20, batch_size=6, every=10, num_tasks=4, begin=8),
    "Waves": Waves(num_examples=20, batch_size=6, every=10, num_tasks=4, frequency=1.0, outputs=2, width=8),
    "RandomLabels, unequal": RandomLabels(
        num_examples=20, batch_size=6, every=(3, 20, 7, 10), num_tasks=4, fraction=0.5
    ),
    "OffsetNoise, unequal": OffsetNoise(20, 6, (25, 5, 7, 3), num_tasks=4, offset=(8.0, 0.0, 1.0, 2.0)),
}


def registered() -> list[type[Task]]:
    """Every task in the files of the package."""
    return [kind for kind in classes(pliant.tasks) if issubclass(kind, Task)]
