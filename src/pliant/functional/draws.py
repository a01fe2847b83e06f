"""Random numbers that are functions of what they are for."""

from __future__ import annotations

import numpy as np


def draw(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator that is a function of its arguments alone; purposes do not share numbers.

    >>> bool(draw(0, "rows", 3).random() == draw(0, "rows", 3).random() != draw(0, "labels", 3).random())
    True
    """
    return np.random.default_rng([seed, *purpose.encode(), 0, *counters])
