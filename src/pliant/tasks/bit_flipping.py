"""Slowly-changing regression: bits of the input that flip one at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.data import Dataset
from pliant.tasks.base import Examples, Task, draw


@dataclass(frozen=True)
class BitFlipping(Task):
    """Regression on bits: the first `flipping` input positions are the same for all examples, and one flips a switch.

    A data set gives the shape of the inputs alone: a bit a position, 0 or the largest raw value. The others are random
    for each of a seed's examples, which stay. The target is a fixed random network of `width` linear threshold units
    with all weights -1 or 1; unit j is 1 where its weights times the bits and a constant 1 exceed beta (m + 1) - s_j,
    for m positions and s_j weights of -1, and 0 elsewhere.

    Args:
        flipping: positions whose bit all examples share, fewer than there are.
        width: units of the target network.
        beta: how many of the inputs a unit needs, as a share.

    >>> from pliant.data import load
    >>> task = BitFlipping(num_examples=3, batch_size=1, every=10, num_tasks=2, flipping=15)
    >>> before, after = (task.examples(load("digits"), seed=0, task=t) for t in (0, 1))
    >>> (before.inputs != after.inputs).sum(axis=(1, 2, 3))  # one bit of each example
    array([1, 1, 1])

    Source: Dohare et al. 2024, the slowly-changing regression problem, with 20 positions of which 15 flip, one every
    10,000 steps of a single example. Deviation: each seed keeps `num_examples` examples, which epochs run through.
    """

    flipping: int = 15
    width: int = 100
    beta: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("flipping", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        size = int(np.prod(data.shape))
        if self.flipping >= size:
            raise ValueError(
                f"expected flipping to be below {size}, the input positions of {data.name}, got {self.flipping}"
            )
        if previous is None or previous.inputs is None or task == 0:
            first, bits = 1, draw(seed, "bits").integers(0, 2, (self.num_examples, size))
            bits[:, : self.flipping] = bits[0, : self.flipping]
        else:
            first, bits = task, (previous.inputs.reshape(-1, size) > 0).astype(np.int64)
        for switch in range(first, task + 1):
            bits[:, draw(seed, "flip", switch).integers(self.flipping)] ^= 1
        generator = draw(seed, "threshold units")
        into, out = (1 - 2 * generator.integers(0, 2, shape) for shape in ((size + 1, self.width), self.width))
        above = bits @ into[:-1] + into[-1] > self.beta * (size + 1) - (into < 0).sum(0)
        inputs = (bits * data.scale).astype(data.x_train.dtype).reshape(-1, *data.shape)
        return Examples(np.arange(self.num_examples), (above @ out).astype(np.float32), inputs=inputs)
