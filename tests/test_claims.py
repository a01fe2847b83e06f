"""Claims of every kind: verdicts on numbers made by hand, what is missing, and how many seeds are needed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pliant.claims import Claim, Exists, NoEffect, check, seeds_needed, trend
from pliant.cli.pilot import grid
from pliant.functional.statistics import p_value
from pliant.results import Missing, Results


def results(**arms: list[float]) -> Results:
    """One task, one row; the metric `m` of each arm and seed."""
    table = {"step": np.array([10]), "task": np.array([0]), "end": np.array([True]), "diverged_at": np.array([-1])}
    made = {(arm, s): {**table, "m": np.array([v])} for arm, row in arms.items() for s, v in enumerate(row)}
    return Results(made)


def fixed(values: list) -> Claim:
    return Claim("", lambda r: np.array(values))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.01, -0.02, 0.02, 0.0], "holds"),
        ([0.5, 0.52, 0.49, 0.51], "fails"),
        ([-0.5, -0.52, -0.49, -0.51], "fails"),
        ([0.05, 0.12, -0.01, 0.08], "inconclusive"),
        ([0.2, -0.2, 0.3, -0.25], "inconclusive"),
        ([0.01], "inconclusive"),
    ],
)
def test_no_effect_is_an_interval_inside_the_margin(values: list[float], verdict: str) -> None:
    found = NoEffect("", lambda r: np.array(values), 0.1).check(Results({}))
    assert found.verdict == verdict
    assert found.claim.needs == "within ±0.1"
    if len(values) > 1:
        low = stats.ttest_1samp(values, -0.1, alternative="greater").pvalue
        high = stats.ttest_1samp(values, 0.1, alternative="less").pvalue
        assert found.p == pytest.approx(max(low, high))
        assert (found.p < 0.025) == (verdict == "holds")
    with pytest.raises(ValueError, match="expected a margin above 0"):
        NoEffect("x", lambda r: np.array(values), 0.0)


def test_existence_is_corrected_for_the_search() -> None:
    noise = np.random.default_rng(4).normal(0, 1, (5, 40))
    best = min(p_value(column) for column in noise.T)
    assert best < 0.025  # of 40 settings without an effect, one looks like one
    found = Exists("", lambda r: noise).check(Results({}))
    assert found.verdict == "inconclusive"
    assert "corrected for 40 searched" in found.reason
    assert found.p == pytest.approx(min(1, 40 * best))
    real = noise.copy()
    real[:, 7] += 20
    found = Exists("", lambda r: real, threshold=5.0).check(Results({}))
    assert found.verdict == "holds"
    assert found.effect.mean == pytest.approx(real[:, 7].mean())
    assert found.claim.needs == "> 5 in a setting"
    assert Exists("", lambda r: noise - 50).check(Results({})).verdict == "fails"
    assert Exists("", lambda r: noise[:1]).check(Results({})).reason == "one seed"
    noise[2, 3] = np.nan
    assert Exists("", lambda r: noise).check(Results({})).reason == "a seed diverged"


def test_a_search_of_nothing_holds_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    claim = Exists("", lambda r: generator.normal(0, 1, (6, 10)))
    held = [claim.check(Results({})).verdict == "holds" for _ in range(400)]
    assert np.mean(held) < 0.05


def test_a_trend_is_one_contrast_a_seed() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(0, 1, (6, 7))
    expected = [stats.spearmanr(range(7), row).statistic for row in values]
    np.testing.assert_allclose(trend(values), expected)
    ties = np.array([[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    np.testing.assert_allclose(trend(ties), [stats.spearmanr(range(4), ties[0]).statistic, 0.0])
    assert np.isnan(trend(np.array([[1.0, np.nan, 2.0]]))).all()
    falling = np.sort(values, 1)[:, ::-1]
    assert Claim("", lambda r: -trend(falling)).check(Results({})).verdict == "holds"


def test_what_is_missing_is_named_and_makes_that_claim_alone_inconclusive() -> None:
    stored = results(none=[0.0, 0.1, 0.05], l2=[1.0, 1.1, 0.9])
    there = Claim("l2 is above none", lambda r: r.last("l2", "m") - r.last("none", "m"))
    gone = Claim("both is above none", lambda r: r.last("both", "m") - r.last("none", "m"))
    typo = Claim("l2 is above nome", lambda r: r.last("l2", "m") - r.last("nome", "m"))
    column = Claim("l2 has n", lambda r: r.last("l2", "end_"))
    needs = Claim("l2 is above none", there.effect, given=(gone,))
    found = check([there, gone, typo, column, needs], stored)
    assert [one.verdict for one in found] == ["holds"] + ["inconclusive"] * 4
    assert [one.missing for one in found] == [False, True, True, True, True]
    assert found[1].reason == "arm 'both' was not run"
    assert found[2].reason == "arm 'nome' was not run, did you mean 'none'?"
    assert found[3].reason == "arm 'l2' has no column 'end_', did you mean 'end'?"
    assert found[4].reason == "arm 'both' was not run"
    for asked in (lambda: stored.curve("both", "m"), lambda: stored.ends("l2", "x"), lambda: stored.first("both", "m")):
        with pytest.raises(Missing):
            asked()
    assert issubclass(Missing, ValueError)


@pytest.mark.parametrize(("effect", "threshold"), [(1.0, 0.0), (1.0, 0.5), (-2.0, 0.0)])
def test_seeds_needed_are_the_fewest_that_resolve_a_third_of_the_effect(effect: float, threshold: float) -> None:
    pilot = np.array([0.2, 1.0, 1.9, 0.7])
    spread, wanted = pilot.std(ddof=1), abs(effect - threshold) / 3
    needed = seeds_needed(pilot, effect, threshold)
    halves = [stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) for n in range(2, 1001)]
    first = 2 + next(i for i, half in enumerate(halves) if half <= wanted)
    assert needed == max(5, first)
    assert seeds_needed(pilot, threshold + 1e-6, threshold) is None
    assert seeds_needed(np.array([1.0, 1.0]), 1.0, least=10) == 10


def test_a_pilot_says_how_many_seeds_each_claim_needs() -> None:
    claims = (
        Claim("paper", lambda r: r.last("a", "m"), expected=3.0),
        Claim("own", lambda r: r.last("a", "m")),
        Claim("gone", lambda r: r.last("b", "m")),
        Exists("some", lambda r: np.stack([r.last("a", "m")] * 2, 1)),
    )
    made = grid(claims, results(a=[0.5, 1.0, 1.5]), least=5)
    assert [row[3] for row in made.rows] == ["5", "12", "cannot be told", "cannot be told"]
    assert [row[2] for row in made.rows[:2]] == ["3.000 (the paper's)", "1.000 (the pilot's own)"]
    assert made.notes[-1] == "All claims that can be: 12 seeds."
