"""Numbers over seeds: means with intervals, paired differences, aggregates over tasks, and families of tests.

Everything is numpy in float64, on values that are already there: one a seed, or a matrix `(seeds, tasks)`. What draws
takes a `generator`; without one it draws from a fixed one, so that the same values give the same numbers. A value that
is not a number is never dropped in silence: it makes the result NaN, unless a docstring says otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95  # of every interval here
BOOTSTRAP_FROM = 20  # seeds; Student's t below
RESAMPLES = 9999  # of every bootstrap
ROUNDING = 1e-12  # of the largest deviation from the mean


class Interval(NamedTuple):
    """A mean (or another statistic) with the ends of its 95 % interval; the ends are NaN for a single value."""

    mean: float
    low: float
    high: float


class Band(NamedTuple):
    """An interval at each of several points: three arrays `(points,)`."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interval(values: ArrayLike, generator: np.random.Generator | None = None) -> Interval:
    """The mean of one value a seed with its 95 % interval: Student's t below 20 seeds, a BCa bootstrap from 20 on.

    mean ± t_{n-1}(0.975) s / sqrt(n), s with n - 1; the bootstrap is Efron's bias-corrected and accelerated one (1987)
    with 9,999 resamples. The order of the seeds does not matter. The ends are NaN for one seed and where a value is not
    finite, and equal to the mean where all values are equal. Source of the bootstrap: Efron 1987.

    Args:
        values: shape `(seeds,)`; `ValueError` for any other.
        generator: draws the bootstrap; a fixed one by default, so that the same values give the same interval.

    >>> interval(np.array([1.0, 2.0, 3.0]))
    Interval(mean=2.0, low=-0.484..., high=4.484...)

    Paired comparisons hand over differences: the interval of the differences is the paired one.
    """
    values = _one_per_seed(values)
    if not np.isfinite(values).all():
        with np.errstate(invalid="ignore"):
            return Interval(float(values.mean()), float("nan"), float("nan"))
    return Interval(*(float(part[0]) for part in bands(values[:, None], generator)))


def bands(values: ArrayLike, generator: np.random.Generator | None = None) -> Band:
    """The mean over seeds with its 95 % interval at every point of a curve: `interval` for all columns at once.

    At each point the seeds that are not finite there are left out (they have diverged): ends are NaN where fewer than
    two are left, the mean where none is. Points with equally many seeds share their resamples.

    Args:
        values: shape `(seeds, points)`; `ValueError` for any other.
        generator: draws the bootstrap; a fixed one by default.

    >>> bands(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, np.nan]])).low
    array([-0.484...,  5.        ])
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"expected values of shape (seeds, points), got an array of shape {values.shape}")
    x = np.sort(np.where(np.isfinite(values), values, np.nan), axis=0)  # NaN last
    left = np.isfinite(x).sum(axis=0)
    found = Band(*np.full((3, x.shape[1]), np.nan))
    for n in np.unique(left[left > 0]):
        at = left == n
        mean, scale, d = _standardized(x[:n, at])
        found.mean[at] = mean
        if n > 1:
            low, high = _student(d) if n < BOOTSTRAP_FROM else _bca(d, generator)
            found.low[at], found.high[at] = mean + scale * low, mean + scale * high
    return found


def p_value(values: ArrayLike, threshold: float = 0.0, generator: np.random.Generator | None = None) -> float:
    """How surprising values so far above `threshold` would be if their mean were not above it: a one-sided p value.

    It is the level at which the lower end of `interval(values)` touches the threshold. So it is below 0.025 exactly
    where the interval lies above the threshold, and above 0.975 where the interval lies below. Below 20 seeds that is
    the one-sided t test; from 20 on, with Phi the normal distribution function, G the bootstrap's, z0 and a its bias
    correction and acceleration, p = Phi(w / (1 + a w) - z0), w = Phi^-1(G(threshold)) - z0: the level formula of the
    BCa interval (Efron 1987) solved for the level. G is kept 1 / 10,000 away from 0 and 1, which is what the resamples
    resolve. Values that are all equal give 0, 0.5 or 1; one seed, or a value that is not finite, gives NaN.

    Args:
        values: shape `(seeds,)`; differences for a paired test. `ValueError` for any other shape.
        threshold: the largest mean that the null hypothesis allows.
        generator: draws the bootstrap; one in the state that `interval` had gives the same resamples.

    >>> round(p_value([1.0, 2.0, 3.0]), 4)
    0.0371
    """
    from scipy import special

    values = np.sort(_one_per_seed(values))
    n = len(values)
    if n == 1 or not np.isfinite(values).all():
        return float("nan")
    (mean,), (scale,), d = _standardized(values[:, None])
    if values[0] == values[-1]:
        return float(np.sign(threshold - mean) + 1) / 2
    t = (threshold - mean) / scale
    if n < BOOTSTRAP_FROM:
        return float(special.stdtr(n - 1, t / _standard_error(d)[0]))
    means, z0, a = _resampled_means(d, _counts(n, generator))
    level = np.clip(_level(np.sort(means[0]), t + ROUNDING), 1 / (RESAMPLES + 1), RESAMPLES / (RESAMPLES + 1))
    w = special.ndtri(level) - z0[0]
    return float(special.ndtr(w / (1 + a[0] * w) - z0[0]))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p values adjusted for being many: of those at most alpha, even one is false with probability at most alpha.

    With the m raw values sorted, adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)), valid however the tests depend
    on each other. A NaN (a claim that could not be tested) stays NaN but counts in m: the family is what was set out to
    be tested. Source: Holm 1979.

    Args:
        p_values: shape `(tests,)`, between 0 and 1 or NaN; `ValueError` otherwise.

    Returns:
        Adjusted p values in the order given, none below the raw ones.

    >>> holm([0.01, 0.04, 0.03, 0.005])
    array([0.03, 0.06, 0.06, 0.02])
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise ValueError(f"expected a list of p values between 0 and 1, got {p_values}")
    order = np.argsort(p)  # NaN last
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    return adjusted


def paired_difference(
    a: Mapping[int, ArrayLike] | ArrayLike,
    b: Mapping[int, ArrayLike] | ArrayLike,
) -> np.ndarray:
    """`a` minus `b`, seed by seed: what two arms share (initial weights, data, task order) is gone from it.

    Of two mappings the common seeds are compared, in rising order; seeds that only one of them has are named in a
    warning, as an arm that lost its hard seeds looks better than it is.

    Args:
        a: one value (or one array, such as one value a task) a seed, as an array `(seeds, ...)` or by seed.
        b: the same.

    Returns:
        Differences `(common seeds, ...)`, for `interval`, `p_value` or `stratified_bootstrap`.

    Raises:
        ValueError: if no seed is common, shapes differ, or one is a mapping and the other an array.

    >>> paired_difference({0: 1.0, 1: 5.0, 2: 9.0}, {2: 8.5, 1: 4.0, 0: 0.0})
    array([1. , 1. , 0.5])
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        common = sorted(a.keys() & b.keys())
        if not common:
            raise ValueError(f"expected seeds that both have, got {sorted(a)} and {sorted(b)}")
        if lost := sorted(a.keys() ^ b.keys()):
            warnings.warn(f"seeds {lost} are in only one of the two: left out, {len(common)} compared", stacklevel=2)
        a, b = np.array([a[seed] for seed in common]), np.array([b[seed] for seed in common])
    elif isinstance(a, Mapping) or isinstance(b, Mapping):
        raise ValueError("expected two mappings from seeds or two arrays, got one of each: dict(enumerate(values))")
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or not first.ndim:
        raise ValueError(
            f"expected one value a seed of the same seeds, got shapes {first.shape} and {second.shape}: "
            "hand over mappings from seeds to values to compare those in common"
        )
    return first - second


def iqm(scores: ArrayLike) -> float:
    """The interquartile mean: the mean without the lowest and the highest quarter of all values.

    Of n values floor(n / 4) are dropped at either end. Less moved by outliers than the mean, more precise than the
    median. Over a matrix `(seeds, tasks)` the quarters are of all runs together, so hard tasks may fall out altogether.
    NaN if a value is NaN (give a diverged run the worst score, `-np.inf` included). Source: Agarwal et al. 2021,
    Section 4.

    Args:
        scores: any shape, not empty; `ValueError` otherwise.

    >>> iqm([0.0, 1.0, 2.0, 3.0, 100.0])
    2.0
    """
    x = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if not len(x):
        raise ValueError("expected scores, got none")
    if np.isnan(x[-1]):
        return float("nan")
    cut = len(x) // 4
    with np.errstate(invalid="ignore"):
        return float(x[cut : len(x) - cut].mean())


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Callable[[np.ndarray], float] = iqm,
    generator: np.random.Generator | None = None,
    num_resamples: int = RESAMPLES,
) -> Interval:
    """A statistic over seeds and tasks with its 95 % percentile interval, for few seeds on each of several tasks.

    Every resample draws, within each task by itself, as many seeds as there are, with replacement; the ends are the
    2.5 % and 97.5 % quantiles of the statistic over resamples. The tasks stay as they are: the interval is about other
    seeds, not about other tasks. It is too narrow for very few runs in all (of one task with 5 seeds take `interval`).
    Source: Agarwal et al. 2021, Section 4.

    Args:
        scores: shape `(seeds, tasks)`; for paired arms, their `paired_difference`.
        statistic: a function of such a matrix: `iqm`, `np.mean`, `np.median` or your own.
        generator: draws the resamples; a fixed one by default.
        num_resamples: how many.

    Returns:
        The statistic of the scores (in `mean`) and its ends, which are NaN for one seed.

    Raises:
        ValueError: if scores are no matrix.

    >>> stratified_bootstrap([[1.0, 10.0], [2.0, 11.0], [3.0, 15.0]], np.mean)
    Interval(mean=7.0, low=5.83..., high=8.33...)
    """
    found = _stratified(scores, statistic, generator, num_resamples)
    return Interval(*(float(part) for part in found))


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    generator: np.random.Generator | None = None,
    num_resamples: int = RESAMPLES,
) -> Band:
    """The share of runs that score above each threshold, with 95 % bands: the tail distribution of scores over tasks.

    F(tau) = 1/M sum_m 1/N sum_n 1[x_{n, m} > tau], N seeds of M tasks. Where one profile lies above another at every
    threshold, its scores are stochastically larger. Bands are pointwise, from `stratified_bootstrap`. Source: Agarwal
    et al. 2021, Section 4 (run-score distributions).

    Args:
        scores: shape `(seeds, tasks)`, higher is better, on one scale for all tasks. NaN makes the profile NaN: give a
            diverged run the worst score, `-np.inf` included.
        thresholds: shape `(thresholds,)`.
        generator: draws the resamples; a fixed one by default.
        num_resamples: how many.

    Raises:
        ValueError: for other shapes.

    >>> performance_profile([[0.1, 0.9], [0.3, 0.7]], [0.0, 0.5, 0.8]).mean
    array([1.  , 0.5 , 0.25])
    """
    tau = np.asarray(thresholds, dtype=np.float64)
    if tau.ndim != 1:
        raise ValueError(f"expected thresholds of shape (thresholds,), got an array of shape {tau.shape}")
    x = np.asarray(scores, dtype=np.float64)
    if np.isnan(x).any():
        return Band(*np.full((3, len(tau)), np.nan))
    return Band(*_stratified(x, lambda s: (s[..., None] > tau).mean(axis=(0, 1)), generator, num_resamples))


def _one_per_seed(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected one value a seed, got an array of shape {values.shape}")
    return values


def _stratified(
    scores: ArrayLike, statistic: Callable[[np.ndarray], ArrayLike], generator: np.random.Generator | None, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The statistic and the ends of its interval, each of the statistic's shape."""
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(
            f"expected scores of shape (seeds, tasks), got an array of shape {x.shape}: scores[:, None] for one task"
        )
    seeds, tasks = x.shape
    estimate = np.asarray(statistic(x), dtype=np.float64)
    if seeds == 1:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    generator = generator or np.random.default_rng(0)
    every = np.arange(tasks)
    found = np.stack([statistic(x[generator.integers(seeds, size=x.shape), every]) for _ in range(number)])
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="nearest")  # -inf is allowed
    return estimate, low, high


def _standardized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and scales `(points,)` of sorted columns `(n, points)`, and (x - mean) / scale: 0 where all are equal.

    The scale is the largest deviation. Powers of what is left neither overflow nor vanish, whatever the units.
    """
    mean = np.where(x[0] == x[-1], x[0], x.mean(axis=0))
    scale = np.abs(x - mean).max(axis=0)
    return mean, scale, (x - mean) / np.where(scale > 0, scale, 1.0)


def _standard_error(d: np.ndarray) -> np.ndarray:
    return d.std(axis=0, ddof=1) / np.sqrt(len(d))


def _student(d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy import special

    half = special.stdtrit(len(d) - 1, (1 + LEVEL) / 2) * _standard_error(d)
    return -half, half


def _bca(d: np.ndarray, generator: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the BCa interval of the mean of every column `(n, points)`: `scipy.stats.bootstrap`, 5 times as fast.

    Where values are discrete, an end can be the very number it is held against: no rounding error may decide then.
    """
    from scipy import special

    counts = _counts(len(d), generator)
    ends = np.empty((d.shape[1], 2))
    for start in range(0, len(ends), 256):  # 20 MB at a time
        means, z0, a = _resampled_means(d[:, start : start + 256], counts)
        z = z0[:, None] + special.ndtri([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        levels = special.ndtr(z0[:, None] + z / (1 - a[:, None] * z))
        ends[start : start + 256] = [np.quantile(m, level) for m, level in zip(means, levels, strict=True)]
    return ends[:, 0] - ROUNDING, ends[:, 1] + ROUNDING


def _counts(n: int, generator: np.random.Generator | None) -> np.ndarray:
    """How often each of n seeds is in each resample, `(RESAMPLES, n)`."""
    drawn = (generator or np.random.default_rng(0)).integers(n, size=(RESAMPLES, n))
    flat = drawn + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(flat.ravel(), minlength=n * RESAMPLES).reshape(RESAMPLES, n).astype(np.float64)


def _resampled_means(d: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of every resample `(points, RESAMPLES)`, the bias correction and the acceleration `(points,)`.

    Rounding errors must not tell equal means apart: the bias correction counts ties by half.
    """
    from scipy import special

    means = np.round(d.T @ counts.T / len(d), 13)
    z0 = special.ndtri(((means < 0).mean(axis=1) + (means <= 0).mean(axis=1)) / 2)
    squares = np.maximum((d**2).sum(axis=0), 1.0)  # at least 1 by the choice of the scale, unless all are equal
    return means, z0, (d**3).sum(axis=0) / (6 * squares**1.5)


def _level(ordered: np.ndarray, t: float) -> float:
    """The largest level whose quantile (as `np.quantile` interpolates) is at most t; 0 and 1 outside of all."""
    k = int(np.searchsorted(ordered, t, side="right"))
    if k in (0, len(ordered)):
        return k / len(ordered)
    return (k - 1 + (t - ordered[k - 1]) / (ordered[k] - ordered[k - 1])) / (len(ordered) - 1)
