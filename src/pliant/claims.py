"""Claims that numbers may contradict, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pliant.functional.statistics import Interval, holm, interval, p_value
from pliant.results import Missing, Results

Verdict = Literal["holds", "fails", "inconclusive"]
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
    claim in `given` does not hold.

    Args:
        text: the claim as a sentence.
        effect: results to `(seeds,)`; differences between arms are taken seed by seed.
        threshold: 0 for a pure direction.
        paper: the paper's value, or "direction only".
        ours: whether the threshold is our own choice rather than the paper's.
        given: preconditions, without which the claim would be vacuous.
        checklist: lines of the papers' checklist (`pliant.papers.checklist`) that the claim is evidence for.
    """

    text: str
    effect: Effect
    threshold: float = 0.0
    paper: str = "direction only"
    ours: bool = False
    given: tuple[Claim, ...] = ()
    checklist: tuple[int, ...] = ()

    def check(self, results: Results) -> Checked:
        """The verdict on stored results; inconclusive where an arm or a column is missing."""
        try:
            values = np.asarray(self.effect(results), dtype=np.float64)
        except Missing as missing:
            return Checked(self, Interval(np.nan, np.nan, np.nan), "inconclusive", str(missing), missing=True)
        found = interval(values)
        for given in self.given:
            met = given.check(results)
            if met.verdict != "holds":
                reason = met.reason if met.missing else f"precondition not met: {given.text}"
                return Checked(self, found, "inconclusive", reason, missing=met.missing)
        if len(values) == 1:
            return Checked(self, found, "inconclusive", "one seed")
        if not np.isfinite(values).all():
            return Checked(self, found, "inconclusive", "a seed diverged")
        p = p_value(values, self.threshold)
        if found.low > self.threshold:
            return Checked(self, found, "holds", p=p)
        if found.high < self.threshold:
            return Checked(self, found, "fails", p=p)
        return Checked(self, found, "inconclusive", "the interval contains the threshold", p)


def check(claims: Sequence[Claim], results: Results) -> list[Checked]:
    """The verdicts on a family of claims, each by its own interval, with Holm's p values beside them."""
    checked = [claim.check(results) for claim in claims]
    adjusted = holm([one.p for one in checked])
    return [replace(one, adjusted=float(p)) for one, p in zip(checked, adjusted, strict=True)]
