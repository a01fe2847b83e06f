"""Intervals over seeds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with the ends of its 95 % confidence interval; the ends are NaN for a single value."""

    mean: float
    low: float
    high: float


def interval(values: np.ndarray, generator: np.random.Generator | None = None) -> Interval:
    """The mean of one value a seed with its 95 % interval: Student's t below 20 seeds, a BCa bootstrap from 20 on.

    Args:
        values: shape `(seeds,)`.
        generator: draws the bootstrap; a fixed one by default, so that the same values give the same interval.

    >>> interval(np.array([1.0, 2.0, 3.0]))
    Interval(mean=2.0, low=-0.484..., high=4.484...)

    Paired comparisons hand over differences: the interval of the differences is the paired one.
    """
    from scipy import stats

    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected one value a seed, got an array of shape {values.shape}")
    mean, n = float(values.mean()), len(values)
    if n == 1 or not np.isfinite(values).all():
        return Interval(mean, float("nan"), float("nan"))
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    if n < 20:
        half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
        return Interval(mean, mean - half, mean + half)
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=0.95, method="BCa", rng=generator or np.random.default_rng(0)
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))
