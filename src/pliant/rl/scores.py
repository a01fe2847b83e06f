"""Scores of games beside those of random play and of people."""

from __future__ import annotations

import numpy as np


def human_normalised(score: np.ndarray, random: float, human: float) -> np.ndarray:
    """0 for random play and 1 for a person's: (score - random) / (human - random).

    `ValueError` where a person scores no more than random play.

    >>> human_normalised(np.array([1.7, 16.1, 30.5]), random=1.7, human=30.5)  # Breakout
    array([0. , 0.5, 1. ])

    Source: Mnih et al. 2015.
    """
    if not human > random:
        raise ValueError(f"expected a person to score more than random play, {random}, got {human}")
    return (np.asarray(score) - random) / (human - random)


def improvement(score: np.ndarray, baseline: np.ndarray, random: float, human: float) -> np.ndarray:
    """What was gained over a baseline, as a share of the better of it and a person:
    (score - baseline) / (max(human, baseline) - random).

    >>> improvement(np.array([20.0]), np.array([10.0]), random=0.0, human=40.0)
    array([0.25])

    Source: Wang et al. 2016, as in P1 figure 7.
    """
    baseline = np.asarray(baseline)
    return (np.asarray(score) - baseline) / (np.maximum(human, baseline) - random)
