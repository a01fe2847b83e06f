"""Tasks: streams of data that change, as pure functions of (seed, step)."""

from pliant.tasks.base import Batches, Stream, Task
from pliant.tasks.noise import OffsetNoise
from pliant.tasks.permuted_pixels import PermutedPixels
from pliant.tasks.random_labels import RandomLabels

__all__ = ["Batches", "OffsetNoise", "PermutedPixels", "RandomLabels", "Stream", "Task"]
