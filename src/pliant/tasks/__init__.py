"""Tasks: streams of data that change, as pure functions of (seed, step)."""

from pliant.tasks.base import Batches, Examples, Stream, Task
from pliant.tasks.growing import Growing
from pliant.tasks.noise import OffsetNoise
from pliant.tasks.permuted_pixels import PermutedPixels
from pliant.tasks.random_labels import RandomLabels
from pliant.tasks.waves import Waves

__all__ = ["Batches", "Examples", "Growing", "OffsetNoise", "PermutedPixels", "RandomLabels", "Stream", "Task", "Waves"]
