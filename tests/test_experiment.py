"""Claims, settings and stored results, on numbers made by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pliant.claims import Claim
from pliant.experiment import Arm, Experiment, Setup, experiments, find
from pliant.functional.statistics import interval
from pliant.plots import Lines
from pliant.results import Results
from pliant.words import unknown

LINES = Lines("accuracy", "accuracy")


def results(values: dict[str, list[float]]) -> Results:
    """One task, one row; the metric `m` of each arm and seed."""
    return Results(
        {
            (arm, seed): {
                "step": np.array([10]), "task": np.array([0]), "end": np.array([True]),
                "m": np.array([v]), "diverged_at": np.array([-1]),
            }
            for arm, row in values.items()
            for seed, v in enumerate(row)
        }
    )  # fmt: skip


def difference(r: Results) -> np.ndarray:
    return r.ends("a", "m")[:, 0] - r.ends("b", "m")[:, 0]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1.0, 1.1, 1.2], [0.0, 0.1, 0.3], "holds"),
        ([0.0, 0.1, 0.3], [1.0, 1.1, 1.2], "fails"),
        ([0.0, 1.0, 0.5], [0.4, 0.5, 0.6], "inconclusive"),
        ([5.0], [0.0], "inconclusive"),
        ([1.0, float("nan"), 1.2], [0.0, 0.1, 0.3], "inconclusive"),
    ],
)
def test_verdict_follows_the_paired_interval(a: list[float], b: list[float], verdict: str) -> None:
    assert Claim("a above b", difference).check(results({"a": a, "b": b})).verdict == verdict


def test_a_threshold_moves_the_verdict() -> None:
    stored = results({"a": [1.0, 1.1, 1.2], "b": [0.0, 0.1, 0.3]})
    assert Claim("", difference, threshold=0.8).check(stored).verdict == "holds"
    assert Claim("", difference, threshold=1.5).check(stored).verdict == "fails"


def test_pairing_removes_what_seeds_share() -> None:
    a, b = [1.0, 5.0, 9.0], [0.9, 4.88, 8.89]
    assert Claim("", difference).check(results({"a": a, "b": b})).verdict == "holds"
    assert stats.ttest_ind(a, b).pvalue > 0.05


def test_a_precondition_that_does_not_hold_makes_the_claim_inconclusive() -> None:
    stored = results({"a": [1.0, 1.1, 1.2], "b": [0.0, 0.1, 0.3]})
    fits = Claim("b fits to 0.9", lambda r: r.ends("b", "m")[:, 0], 0.9)
    checked = Claim("a above b", difference, given=(fits,)).check(stored)
    assert (checked.verdict, checked.reason) == ("inconclusive", "precondition not met: b fits to 0.9")


def test_interval_is_students_below_twenty_and_a_bootstrap_above() -> None:
    generator = np.random.default_rng(0)
    few, many = generator.normal(1, 1, 19), generator.normal(1, 1, 40)
    expected = stats.t.interval(0.95, 18, few.mean(), stats.sem(few))
    np.testing.assert_allclose(interval(few)[1:], expected)
    low, high = interval(many)[1:]
    np.testing.assert_allclose((low, high), stats.t.interval(0.95, 39, many.mean(), stats.sem(many)), atol=0.05)
    assert interval(many) == interval(many)
    assert interval(many, np.random.default_rng(1)) != interval(many, np.random.default_rng(2))
    assert interval(np.array([2.0, 2.0])) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="one value a seed"):
        interval(np.zeros((2, 2)))


def test_intervals_cover_what_they_promise() -> None:
    generator = np.random.default_rng(0)
    hits = [low < 0 < high for _, low, high in (interval(generator.normal(0, 1, 5)) for _ in range(2000))]
    assert 0.93 < np.mean(hits) < 0.97


@dataclass(frozen=True)
class Settings:
    width: int = 4
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)
    on: bool = False
    name: str = "x"


def experiment() -> Experiment:
    return Experiment("e", "", "", (), {"smoke": Settings(), "laptop": Settings(width=8)}, lambda s: None)  # type: ignore[arg-type,return-value]


def test_settings_are_parsed_by_their_types() -> None:
    changed = experiment().settings("laptop", ["rate=1e-3", "sizes=3,4,5", "on=true", "name=a=b"])
    assert changed == Settings(8, 1e-3, (3, 4, 5), True, "a=b")


@pytest.mark.parametrize(
    ("tier", "change", "message"),
    [
        ("labtop", "", "unknown tier 'labtop': did you mean 'laptop'?"),
        ("smoke", "widht=3", "unknown setting 'widht': did you mean 'width'?"),
        ("smoke", "width=many", "expected a value of type int for width, got 'many'"),
        ("smoke", "sizes=1,x", "expected comma-separated ints for sizes, got '1,x'"),
        ("smoke", "on=perhaps", "expected a value of type bool for on, got 'perhaps'"),
        ("smoke", "width", "expected key=value after --set, got 'width'"),
    ],
)
def test_bad_settings_are_one_line_with_the_nearest_match(tier: str, change: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?")) as caught:
        experiment().settings(tier, [change] if change else [])
    assert "\n" not in str(caught.value)


TRIAL: Any = object()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"plots": LINES}, r"expected a tuple of plots, got Lines: write plots=\(\.\.\.,\)"),
        ({"claims": [Claim("c", difference)]}, r"expected a tuple of claims, got list: write claims="),
        ({"deviations": "ours"}, r"expected a tuple of deviations, got str: write deviations="),
        ({"table": None}, r"expected a tuple of table, got NoneType: write table="),
        ({"arms": {"a": TRIAL}}, r"expected Arm\(label, trial\) for arm 'a', got object"),
        (
            {"arms": {"a": Arm("A", TRIAL), "b": Arm("A", TRIAL)}},
            r"expected a label of its own for each arm, got 'A' more than once",
        ),
    ],
)
def test_a_setup_that_is_none_is_refused_with_the_line_to_write(fields: dict[str, Any], message: str) -> None:
    complete = {
        "arms": {"a": Arm("A", TRIAL), "b": Arm("B", TRIAL)}, "plots": (LINES,), "table": (), "claims": (),
        "deviations": (),
    }  # fmt: skip
    assert Setup(**complete).look.labels == {"a": "A", "b": "B"}
    with pytest.raises(ValueError, match=message):
        Setup(**complete | fields)


def test_registered_experiments_are_found_by_their_ids() -> None:
    assert {"lyle2023/fig1", "lyle2024/swiss_cheese"} <= set(experiments())
    assert find("lyle2023/fig1").id == "lyle2023/fig1"
    with pytest.raises(ValueError, match="did you mean 'lyle2024/swiss_cheese'"):
        find("lyle2024/swiss_chese")
    assert "did you mean" not in unknown("thing", "zzz", ["abc"])


def test_curves_skip_what_was_not_measured() -> None:
    tables = {
        ("a", seed): {"step": np.array([1, 2, 3]), "m": np.array([np.nan, 2.0 + seed, np.nan])} for seed in (0, 1)
    }
    steps, values = Results(tables).curve("a", "m")
    assert steps.tolist() == [2]
    assert values.tolist() == [[2.0], [3.0]]
