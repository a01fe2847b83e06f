"""What experiments say about why a claim of theirs fails, against the runs that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pliant.experiment import find
from pliant.report.stored import opened
from pliant.results import Results
from pliant.run.store import latest

ROOT = Path(__file__).parents[2]


def kept(id: str) -> Results:
    """The run of an experiment that is kept."""
    return opened(latest(ROOT / "results", find(id), "laptop")).results


def test_figure_4_rises_of_the_fresh_probe_are_noise_at_its_floor() -> None:
    results, arm = kept("lyle2023/fig4"), "scalar_none"
    for seed in results.seeds_of(arm):
        first, *_, last = results.array(arm, "probe_curve", seed)[1]
        floor = 0.1 * results.first(arm, "probe_baseline").mean()
        rises = [np.flatnonzero(np.diff(curve) > 0) for curve in (first, last)]
        assert len(rises[0]) > len(rises[1]) == 1
        assert (first[rises[0]] < floor).all()
        assert 0.62 < (first < floor).mean() < 0.7
        assert (last > floor).all()
        assert rises[1] == [0]
        assert last[1] > 1.25 * last[0]


def test_figure_5_values_grow_beyond_the_largest_there_is() -> None:
    results = kept("lyle2023/fig5")

    def largest(arm: str) -> np.ndarray:
        return np.array([np.nanmax(results.tables[arm, seed]["value"]) for seed in results.seeds_of(arm)])

    assert largest("w1_p1").round(-1).min() == 330
    assert largest("w1_p1").round().max() == 1832
    assert largest("w16_p1").round(-3).min() == 41_000
    assert largest("w16_p1").round(-3).max() == 990_000
    assert min(largest(f"w{width}_p1").min() for width in (1, 2, 4, 8, 16)) > 100
    assert max(largest(f"w{width}_p{period}").max() for width in (1, 2, 4, 8, 16) for period in (100, 1000)) < 61
