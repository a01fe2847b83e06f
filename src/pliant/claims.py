"""Claims that numbers may contradict, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from pliant.functional.statistics import Interval, holm, interval, p_value
from pliant.numbers import plain
from pliant.results import Missing, Results

Verdict = Literal["holds", "fails", "inconclusive"]
LEVEL = 0.025  # of one side of a 95 % interval
RESAMPLES = 999  # of the bootstrap of a statistic over runs
Effect = Callable[[Results], np.ndarray]


@dataclass(frozen=True)
class Checked:
    """A claim with our number: the effect over seeds, its 95 % interval and the verdict.

    `p` is one-sided, below 0.025 exactly where the claim holds, NaN where it could not be tested; `adjusted` is Holm's
    over all claims of the experiment. `missing` says that the claim reads an arm or a column that is not there.
    """

    claim: Claim
    effect: Interval
    verdict: Verdict
    reason: str = ""
    p: float = float("nan")
    adjusted: float = float("nan")
    missing: bool = False


@dataclass(frozen=True)
class Claim:
    """A direction the paper states, which our numbers may contradict.

    `effect` gives one number a seed. The claim *holds* where the 95 % interval of their mean lies above `threshold`,
    *fails* where it lies below, and is *inconclusive* otherwise, with a single seed, with a diverged seed, or where a
    claim in `given` does not hold. "At most m" and "no harm beyond m" are the direction of minus the effect above a
    threshold of -m, stated beforehand; "no effect" is a `NoEffect`, "there is a setting" an `Exists`, and a trend the
    direction of `trend`.

    Args:
        text: the claim as a sentence.
        effect: results to `(seeds,)`; differences between arms are taken seed by seed.
        threshold: 0 for a pure direction.
        paper: the paper's value, or "direction only".
        ours: whether the threshold is our own choice rather than the paper's.
        given: preconditions, without which the claim would be vacuous.
        checklist: lines of the papers' checklist (`pliant.papers.checklist`) that the claim is evidence for.
        expected: the effect that the paper leads to expect, by which the number of seeds is chosen.
        beside: lines of the checklist beside which the ledger shows a claim of ours that is no evidence for them: about
            a stand-in, where what the paper ran is out of reach.
    """

    text: str
    effect: Effect
    threshold: float = 0.0
    paper: str = "direction only"
    ours: bool = False
    given: tuple[Claim, ...] = ()
    checklist: tuple[int, ...] = ()
    expected: float | None = None
    beside: tuple[int, ...] = ()

    @property
    def needs(self) -> str:
        """What the effect has to be."""
        return f"> {plain(self.threshold)}"

    def check(self, results: Results) -> Checked:
        """The verdict on stored results; inconclusive where an arm or a column is missing."""
        try:
            values = np.asarray(self.effect(results), dtype=np.float64)
        except Missing as missing:
            return Checked(self, Interval(np.nan, np.nan, np.nan), "inconclusive", str(missing), missing=True)
        found = self.interval(values)
        for given in self.given:
            met = given.check(results)
            if met.verdict != "holds":
                reason = met.reason if met.missing else f"precondition not met: {given.text.removesuffix('.')}"
                return Checked(self, found, "inconclusive", reason, missing=met.missing)
        if len(values) == 1:
            return Checked(self, found, "inconclusive", "one seed")
        if not np.isfinite(values).all():
            return Checked(self, found, "inconclusive", "a seed diverged")
        verdict, reason, p = self.decide(values)
        return Checked(self, found, verdict, reason, p)

    def interval(self, values: np.ndarray) -> Interval:
        """The number that is shown, with its 95 % interval."""
        return interval(values)

    def decide(self, values: np.ndarray) -> tuple[Verdict, str, float]:
        """The verdict on finite values of two seeds or more, why it is inconclusive, and the one-sided p value."""
        found, p = interval(values), p_value(values, self.threshold)
        if found.low > self.threshold:
            return "holds", "", p
        if found.high < self.threshold:
            return "fails", "", p
        return "inconclusive", "the interval contains the threshold", p


@dataclass(frozen=True)
class NoEffect(Claim):
    """A claim that an effect is none: it holds where the 95 % interval lies inside ± `threshold`, fails outside.

    `p` is the larger one of the two one-sided tests against the ends (Schuirmann 1987).

    >>> results = Results({("a", seed): {"step": np.array([1]), "m": np.array([0.01 * seed])} for seed in range(5)})
    >>> NoEffect("a has no m", lambda r: r.last("a", "m"), 0.1, ours=True).check(results).verdict
    'holds'
    """

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"expected a margin above 0 for {self.text!r}, got {self.threshold}")

    @property
    def needs(self) -> str:
        return f"within ±{plain(self.threshold)}"

    def decide(self, values: np.ndarray) -> tuple[Verdict, str, float]:
        found, margin = interval(values), self.threshold
        p = max(p_value(values, -margin), p_value(-values, -margin))
        if -margin < found.low and found.high < margin:
            return "holds", "", p
        if found.low > margin or found.high < -margin:
            return "fails", "", p
        return "inconclusive", "the interval reaches beyond the margin", p


@dataclass(frozen=True)
class Exists(Claim):
    """A claim that there is a setting with an effect above `threshold`, among all that were searched.

    `effect` gives `(seeds, settings)`. It holds where the smallest p value, times the number of settings (Bonferroni),
    is below 0.025, and fails where the 95 % interval of every setting lies below. The number shown is that of the
    setting with the smallest p value.

    >>> values = np.array([[0.0, 1.0], [0.1, 1.1], [-0.1, 0.9]])
    >>> Exists("some setting has m", lambda r: values).check(Results({})).verdict
    'holds'
    """

    @property
    def needs(self) -> str:
        return f"> {plain(self.threshold)} in a setting"

    def interval(self, values: np.ndarray) -> Interval:
        finite = [row for row in values.T if np.isfinite(row).all()] or list(values.T)
        if len(values) == 1:
            return interval(max(finite, key=lambda row: row.mean()))
        return interval(min(finite, key=lambda row: p_value(row, self.threshold)))

    def decide(self, values: np.ndarray) -> tuple[Verdict, str, float]:
        settings = values.shape[1]
        p = min(1.0, settings * min(p_value(each, self.threshold) for each in values.T))
        if p < LEVEL:
            return "holds", "", p
        if all(interval(each).high < self.threshold for each in values.T):
            return "fails", "", p
        return "inconclusive", f"no setting lies beyond the threshold, corrected for {settings} searched", p


@dataclass(frozen=True)
class Resampled(Claim):
    """A claim about a statistic over runs of many settings, such as a correlation with one run a point.

    `effect` gives `(settings, runs, columns)`; `statistic` makes one number of such an array. Its 95 % interval is the
    percentile bootstrap's over the runs within each setting: it is about other seeds, not about other settings. A run
    that is not finite is left out of the statistic by the statistic itself.

    >>> values = np.arange(12.0).reshape(2, 3, 2)
    >>> claim = Resampled("the mean is above 1", lambda r: values, 1.0, statistic=lambda v: float(v.mean()))
    >>> claim.check(Results({})).verdict
    'holds'
    """

    statistic: Callable[[np.ndarray], float] = field(default=np.mean)  # type: ignore[assignment]

    def check(self, results: Results) -> Checked:
        try:
            values = np.asarray(self.effect(results), dtype=np.float64)
        except Missing as missing:
            return Checked(self, Interval(np.nan, np.nan, np.nan), "inconclusive", str(missing), missing=True)
        drawn = self._drawn(values)
        found = Interval(self.statistic(values), *(float(end) for end in np.quantile(drawn, (0.025, 0.975))))
        for given in self.given:
            met = given.check(results)
            if met.verdict != "holds":
                reason = met.reason if met.missing else f"precondition not met: {given.text.removesuffix('.')}"
                return Checked(self, found, "inconclusive", reason, missing=met.missing)
        if values.shape[1] == 1:
            return Checked(self, found, "inconclusive", "one run of each setting")
        p = (1 + int((drawn <= self.threshold).sum())) / (1 + len(drawn))
        if found.low > self.threshold:
            return Checked(self, found, "holds", p=p)
        if found.high < self.threshold:
            return Checked(self, found, "fails", p=p)
        return Checked(self, found, "inconclusive", "the interval contains the threshold", p)

    def _drawn(self, values: np.ndarray) -> np.ndarray:
        """The statistic of resamples."""
        generator, (settings, runs) = np.random.default_rng(0), values.shape[:2]
        rows = np.arange(settings)[:, None]
        chosen = generator.integers(0, runs, (RESAMPLES, settings, runs))
        return np.array([self.statistic(values[rows, which]) for which in chosen])


def trend(values: np.ndarray) -> np.ndarray:
    """How monotonically each seed's values rise over ordered settings: Spearman's rank correlation, `(seeds,)`.

    One contrast in place of a chain of pairs; -1 where all fall, 0 where all are equal.

    Args:
        values: shape `(seeds, settings)`.

    >>> trend(np.array([[0.1, 0.2, 0.4], [0.3, 0.2, 0.1], [0.1, 0.3, 0.2]]))
    array([ 1. , -1. ,  0.5])
    """
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    order = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    sizes = np.sqrt((ranks**2).sum(1) * (order**2).sum())
    found = np.divide(ranks @ order, sizes, out=np.zeros(len(values)), where=sizes > 0)
    return np.where(np.isfinite(values).all(1), found, np.nan)


def seeds_needed(values: np.ndarray, effect: float, threshold: float = 0.0, least: int = 5) -> int | None:
    """How many seeds make the half width of the 95 % interval a third of an effect's distance from a threshold.

    Args:
        values: one number a seed of a pilot, whose standard deviation is taken to be that of all.
        effect: that is expected.
        threshold: what it is held against.
        least: at least so many.

    Returns None where a thousand are not enough.

    >>> seeds_needed(np.array([0.9, 1.0, 1.1]), effect=1.0), seeds_needed(np.array([0.0, 1.0, 2.0]), effect=1.0)
    (5, 38)
    """
    from scipy import special

    spread, wanted = float(np.std(values, ddof=1)), abs(effect - threshold) / 3
    for n in range(max(2, least), 1001):
        if special.stdtrit(n - 1, 0.975) * spread / np.sqrt(n) <= wanted:
            return n
    return None


def check(claims: Sequence[Claim], results: Results) -> list[Checked]:
    """The verdicts on a family of claims, each by its own interval, with Holm's p values beside them."""
    checked = [claim.check(results) for claim in claims]
    adjusted = holm([one.p for one in checked])
    return [replace(one, adjusted=float(p)) for one, p in zip(checked, adjusted, strict=True)]
