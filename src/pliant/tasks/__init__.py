"""Tasks: streams of data that change, as pure functions of (seed, step)."""

from pliant.tasks.base import Batches, Examples, Stream, Task
from pliant.tasks.bit_flipping import BitFlipping
from pliant.tasks.composite import Composite
from pliant.tasks.domains import Domains
from pliant.tasks.growing import Growing
from pliant.tasks.noise import OffsetNoise
from pliant.tasks.permuted_classes import PermutedClasses
from pliant.tasks.permuted_pixels import PermutedPixels
from pliant.tasks.random_labels import RandomLabels
from pliant.tasks.waves import Waves

__all__ = [
    "Batches",
    "BitFlipping",
    "Composite",
    "Domains",
    "Examples",
    "Growing",
    "OffsetNoise",
    "PermutedClasses",
    "PermutedPixels",
    "RandomLabels",
    "Stream",
    "Task",
    "Waves",
]
