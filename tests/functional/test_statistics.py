"""Intervals, aggregates and tests over seeds, against scipy, rliable, naive transcriptions and what they promise."""

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rliable import library, metrics
from scipy import stats

from pliant.functional.statistics import (
    Interval,
    bands,
    holm,
    interval,
    iqm,
    p_value,
    paired_difference,
    performance_profile,
    stratified_bootstrap,
)

NAN = float("nan")
numbers = st.floats(-10, 10).map(lambda x: round(x, 3))
seeds = npst.arrays(np.float64, st.integers(2, 30), elements=numbers)
few_seeds = npst.arrays(np.float64, st.integers(2, 19), elements=numbers)
probabilities = npst.arrays(np.float64, st.integers(0, 8), elements=st.floats(0, 1))


def sample(n: int, seed: int = 0, skewed: bool = False) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.lognormal(size=n) if skewed else generator.normal(1.0, 1.0, size=n)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# Intervals of a mean


@pytest.mark.parametrize("n", [2, 3, 5, 19])
def test_below_twenty_seeds_it_is_scipys_t_interval(n: int) -> None:
    values = sample(n)
    expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert interval(values) == pytest.approx((values.mean(), *expected), rel=1e-12)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("n", [20, 25, 60])
def test_from_twenty_seeds_it_is_scipys_bca_bootstrap_of_the_same_resamples(n: int, skewed: bool) -> None:
    values = np.sort(sample(n, skewed=skewed))
    expected = stats.bootstrap((values,), np.mean, method="BCa", rng=rng(7)).confidence_interval
    assert interval(values, rng(7)) == pytest.approx((values.mean(), expected.low, expected.high), rel=1e-9)


def test_the_interval_of_paired_differences_is_the_paired_t_interval() -> None:
    a, b = sample(8, 0), sample(8, 1)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert interval(paired_difference(a, b))[1:] == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize(
    ("n", "skewed", "least"), [(3, False, 0.94), (8, False, 0.94), (30, False, 0.925), (40, True, 0.87)]
)
def test_it_covers_the_mean_as_often_as_it_says(n: int, skewed: bool, least: float) -> None:
    """2,000 samples (the standard error of the share is 0.005); of lognormal values any interval covers too little."""
    generator = rng(1)
    drawn = generator.lognormal(size=(n, 2000)) if skewed else generator.normal(size=(n, 2000))
    found = bands(drawn)
    covered = np.mean((found.low < (np.exp(0.5) if skewed else 0)) & ((np.exp(0.5) if skewed else 0) < found.high))
    assert least < covered < 0.965


def test_bca_covers_a_skewed_mean_better_than_the_percentile_bootstrap() -> None:
    drawn = rng(1).lognormal(size=(25, 400))
    found = bands(drawn)
    percentile = np.stack(
        [np.quantile(x[rng(0).integers(25, size=(2000, 25))].mean(1), [0.025, 0.975]) for x in drawn.T]
    )
    inside = (percentile[:, 0] < np.exp(0.5)) & (np.exp(0.5) < percentile[:, 1])
    assert np.mean((found.low < np.exp(0.5)) & (np.exp(0.5) < found.high)) > np.mean(inside)


def test_the_generator_decides_and_is_only_used_from_twenty_seeds() -> None:
    many = sample(25)
    assert interval(many) == interval(many)
    assert interval(many, rng(3)) == interval(many, rng(3))
    assert interval(many, rng(3)) != interval(many, rng(4))
    assert interval(many[:19], rng(3)) == interval(many[:19], rng(4))
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global stream must stay as it is
    interval(many), stratified_bootstrap(many[:, None], num_resamples=10)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
@pytest.mark.parametrize("n", [3, 30])
def test_a_value_that_is_not_finite_leaves_no_interval(n: int, bad: float) -> None:
    values = sample(n)
    values[1] = bad
    assert np.isnan(interval(values)[1:]).all()
    assert np.isnan(p_value(values))


def test_two_opposite_infinities_have_no_mean() -> None:
    assert np.isnan(interval([np.inf, -np.inf])).all()


def test_one_seed_has_a_mean_and_no_interval() -> None:
    mean, low, high = interval([2.5])
    assert mean == 2.5
    assert np.isnan([low, high]).all()
    assert np.isnan(p_value([2.5]))


@pytest.mark.parametrize("n", [2, 3, 19, 20, 30])
def test_equal_values_have_an_interval_of_no_width_exactly_there(n: int) -> None:
    assert interval(np.full(n, 0.1)) == (0.1, 0.1, 0.1)  # the mean of three 0.1 in floating point is not 0.1
    assert [p_value(np.full(n, 0.1), t) for t in (0.0, 0.1, 0.2)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("n", [5, 30])
@pytest.mark.parametrize("unit", [1e-250, 1e30])
def test_extreme_units_do_not_matter(n: int, unit: float) -> None:
    assert np.array(interval(unit * sample(n))) / unit == pytest.approx(interval(sample(n)), rel=1e-9)
    assert p_value(unit * sample(n), 0.7 * unit) == pytest.approx(p_value(sample(n), 0.7), rel=1e-6)


@pytest.mark.parametrize("wrong", [[], 1.0, np.zeros((2, 2))])
def test_what_is_not_one_value_a_seed_is_refused(wrong: object) -> None:
    for function in (interval, p_value):
        with pytest.raises(ValueError, match="expected one value a seed, got an array of shape"):
            function(wrong)  # type: ignore[operator]


@given(values=seeds, data=st.data())
def test_the_order_of_seeds_does_not_matter(values: np.ndarray, data: st.DataObject) -> None:
    shuffled = np.array(data.draw(st.permutations(values.tolist())))
    assert interval(shuffled) == interval(values)
    assert p_value(shuffled) == p_value(values)
    assert iqm(shuffled) == iqm(values)


@given(values=seeds, shift=numbers, scale=st.sampled_from([0.01, 0.5, 3.0, 1000.0]))
def test_shifted_and_scaled_values_shift_and_scale_the_interval(values: np.ndarray, shift: float, scale: float) -> None:
    assume(np.ptp(values) == 0 or np.ptp(values) > 1e-3)
    expected = scale * np.array(interval(values)) + shift
    assert interval(scale * values + shift) == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert iqm(scale * values + shift) == pytest.approx(scale * iqm(values) + shift, rel=1e-9, abs=1e-9)


@given(values=few_seeds)
def test_the_mean_is_inside_and_mirrored_values_mirror_the_interval(values: np.ndarray) -> None:
    mean, low, high = interval(values)
    assert low <= mean <= high
    assert interval(-values) == pytest.approx((-mean, -high, -low), rel=1e-9, abs=1e-12)


# Bands


@pytest.mark.parametrize("n", [2, 12, 24])
def test_a_band_is_the_interval_at_every_point(n: int) -> None:
    values = rng(0).normal(size=(n, 300))
    values[:, 7] = 0.1
    found = bands(values)
    for j in (0, 7, 255, 256, 299):
        assert (found.mean[j], found.low[j], found.high[j]) == pytest.approx(interval(values[:, j]), rel=1e-12)


def test_a_band_leaves_out_the_seeds_that_are_not_finite_there() -> None:
    values = rng(0).normal(size=(24, 5))
    values[:2, 1] = NAN, np.inf
    values[:10, 2] = NAN
    values[:23, 3] = NAN
    values[:, 4] = NAN
    found = np.array(bands(values))
    for j in (0, 1, 2):
        assert found[:, j] == pytest.approx(interval(values[np.isfinite(values[:, j]), j]))
    assert found[:, 3] == pytest.approx((values[23, 3], NAN, NAN), nan_ok=True)
    assert np.isnan(found[:, 4]).all()
    with pytest.raises(ValueError, match=r"shape \(seeds, points\), got an array of shape \(3,\)"):
        bands(np.zeros(3))


def test_a_band_of_no_points_is_empty() -> None:
    assert bands(np.zeros((3, 0))).low.shape == (0,)


# p values


@pytest.mark.parametrize("threshold", [0.0, 0.9, 3.0])
def test_below_twenty_seeds_p_is_scipys_one_sided_t_test(threshold: float) -> None:
    values = sample(8)
    expected = stats.ttest_1samp(values, threshold, alternative="greater").pvalue
    assert p_value(values, threshold) == pytest.approx(expected, rel=1e-10)


@given(values=seeds, step=st.floats(-3, 3))
def test_p_says_what_the_interval_says(values: np.ndarray, step: float) -> None:
    """At thresholds just beside the ends, and anywhere else."""
    mean, low, high = interval(values)
    width = max(high - low, 1e-6)
    for threshold in (mean + step * width, low - 1e-6 * width, low + 1e-6 * width, high + 1e-6 * width):
        p = p_value(values, threshold)
        assert (p < 0.025) == (low > threshold)
        if high < threshold:
            assert p > 0.975


def test_differences_of_whole_numbers_whose_end_is_the_threshold_do_not_hold_by_a_rounding_error() -> None:
    """Accuracies in hundredths: an end of the bootstrap interval is a number that the resamples hit."""
    generator, touched = rng(0), 0
    for _ in range(200):
        values = generator.integers(-1, 3, size=25) / 100
        mean, low, _ = interval(values)
        threshold = round(low * 2500) / 2500  # a mean that 25 such values can have
        if abs(low - threshold) < 1e-9:
            touched += 1
            assert not low > threshold
            assert p_value(values, threshold) >= 0.025
            assert p_value(values, mean) > 0.3
    assert touched > 50


@given(values=seeds, first=numbers, second=numbers)
def test_p_rises_with_the_threshold(values: np.ndarray, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0 <= p_value(values, low) <= p_value(values, high) <= 1


@pytest.mark.parametrize("n", [5, 30])
def test_p_is_uniform_where_nothing_is_there(n: int) -> None:
    found = [p_value(values) for values in rng(2).normal(size=(1000, n))]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.025) == pytest.approx(0.025, abs=0.015)


def test_p_of_the_bootstrap_agrees_with_the_t_test_on_normal_values_and_never_is_zero() -> None:
    values = sample(60)
    for threshold in (0.6, 0.8, 1.0):
        expected = stats.ttest_1samp(values, threshold, alternative="greater").pvalue
        assert p_value(values, threshold) == pytest.approx(expected, rel=0.3, abs=0.005)
    assert 0 < p_value(values, -100.0) < 0.001
    assert 0.999 < p_value(values, 100.0) < 1
    assert p_value(values, 0.8, rng(1)) == p_value(values, 0.8, rng(1)) != p_value(values, 0.8, rng(2))


# Holm


def naive_holm(p: list[float]) -> list[float]:
    """Holm 1979 as it is told: smallest first against alpha / m, alpha / (m - 1), ... until one is not rejected."""
    adjusted = [0.0] * len(p)
    worst = 0.0
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - step) * p[i]))
        adjusted[i] = worst
    return adjusted


@given(p=probabilities)
def test_holm_is_its_naive_transcription(p: np.ndarray) -> None:
    adjusted = holm(p)
    assert adjusted.tolist() == naive_holm(p.tolist())
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, len(p) * p)).all()  # never above Bonferroni's
    order = np.argsort(p)
    assert (np.diff(adjusted[order]) >= 0).all()


@given(p=probabilities, alpha=st.sampled_from([0.01, 0.025, 0.05, 0.3]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: np.ndarray, alpha: float) -> None:
    rejected = set()
    for step, i in enumerate(np.argsort(p)):
        if (len(p) - step) * p[i] > alpha:
            break
        rejected.add(int(i))
    assert set(np.flatnonzero(holm(p) <= alpha).tolist()) == rejected


@given(p=probabilities, data=st.data())
def test_holm_does_not_depend_on_the_order(p: np.ndarray, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(p)))), dtype=int)
    assert holm(p[order]).tolist() == holm(p)[order].tolist()


def test_holm_agrees_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests  # comes with rliable

    p = rng(0).uniform(size=12) ** 2
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)


def test_a_test_that_could_not_be_made_stays_in_the_family() -> None:
    np.testing.assert_allclose(holm([0.01, NAN, 0.02]), [0.03, NAN, 0.04])


@pytest.mark.parametrize("wrong", [[0.5, 1.1], [-0.1], [[0.1, 0.2]], 0.3])
def test_holm_refuses_what_are_no_p_values(wrong: object) -> None:
    with pytest.raises(ValueError, match="p values between 0 and 1"):
        holm(wrong)  # type: ignore[arg-type]


def test_holm_keeps_the_rate_of_any_false_rejection_where_raw_p_values_do_not() -> None:
    """Six claims of which none is true, tested on the same five seeds."""
    families = [[p_value(values) for values in rng(seed).normal(size=(6, 5))] for seed in range(1000)]
    raw = np.mean([min(p) < 0.025 for p in families])
    adjusted = np.mean([holm(p).min() < 0.025 for p in families])
    assert raw > 0.1
    assert adjusted < 0.04


# Pairs


def test_pairs_are_made_by_seed_whatever_the_order() -> None:
    assert paired_difference({3: 1.0, 1: 5.0}, {1: 4.0, 3: 3.0}).tolist() == [1.0, -2.0]
    assert paired_difference([1.0, 5.0], [0.5, 4.0]).tolist() == [0.5, 1.0]
    by_task = paired_difference({0: [1.0, 2.0], 1: [3.0, 4.0]}, {0: [1.0, 1.0], 1: [1.0, 1.0]})
    assert by_task.tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_seeds_that_only_one_has_are_named() -> None:
    with pytest.warns(UserWarning, match=r"seeds \[0, 7\] are in only one of the two: left out, 1 compared"):
        assert paired_difference({0: 1.0, 1: 5.0}, {1: 4.0, 7: 3.0}).tolist() == [1.0]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({0: 1.0}, {1: 1.0}, r"expected seeds that both have, got \[0\] and \[1\]"),
        ({0: 1.0}, [1.0], r"got one of each: dict\(enumerate\(values\)\)"),
        ([1.0], [1.0, 2.0], r"got shapes \(1,\) and \(2,\): hand over mappings"),
        (1.0, 1.0, "expected one value a seed"),
    ],
)
def test_what_cannot_be_paired_is_refused(a: object, b: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b)  # type: ignore[arg-type]


# Over tasks: rliable is the published code of Agarwal et al. 2021


def runs(num_seeds: int, num_tasks: int) -> np.ndarray:
    """Scores of tasks that differ in level and spread, skewed as those of Atari are."""
    generator = rng(5)
    return np.exp(generator.normal(0, 1, num_tasks) + generator.normal(0, 0.5, (num_seeds, num_tasks)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 3), (10, 26), (7, 11)])
def test_iqm_is_rliables(shape: tuple[int, int]) -> None:
    assert iqm(runs(*shape)) == pytest.approx(metrics.aggregate_iqm(runs(*shape)), rel=1e-14)


@given(scores=npst.arrays(np.float64, npst.array_shapes(min_dims=1, max_dims=3, max_side=5), elements=numbers))
def test_iqm_is_scipys_trimmed_mean_and_between_the_quartiles(scores: np.ndarray) -> None:
    found = iqm(scores)
    assert found == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), rel=1e-12, abs=1e-12)
    assert scores.min() - 1e-12 <= found <= scores.max() + 1e-12


def test_a_diverged_run_does_not_vanish_from_the_iqm() -> None:
    assert np.isnan(iqm([1.0, 2.0, NAN, 3.0, 4.0]))
    assert iqm([1.0, 2.0, -np.inf, 3.0, 4.0]) == 2.0
    assert np.isnan(iqm([np.inf, -np.inf]))
    with pytest.raises(ValueError, match="expected scores, got none"):
        iqm([])


@pytest.mark.parametrize("name", ["iqm", "mean"])
def test_stratified_intervals_are_rliables(name: str) -> None:
    scores = runs(5, 6)
    theirs = {"iqm": metrics.aggregate_iqm, "mean": metrics.aggregate_mean}[name]
    ours = {"iqm": iqm, "mean": np.mean}[name]
    np.random.seed(0)  # noqa: NPY002 - rliable 1.2.0 ignores its random_state and draws from the global stream
    points, ends = library.get_interval_estimates({"a": scores}, lambda x: np.array([theirs(x)]), reps=4000)
    found = stratified_bootstrap(scores, ours, rng(1))
    assert found.mean == pytest.approx(points["a"][0], rel=1e-14)
    width = found.high - found.low  # two quantiles of 4,000 and 9,999 resamples: 0.012 of the width, twice
    assert (found.low, found.high) == pytest.approx(ends["a"][:, 0], abs=0.04 * width)


def test_a_profile_is_rliables() -> None:
    scores = runs(5, 6)
    tau = np.sort([0.1, 0.5, 1.0, 1.5, 2.5, 100.0, scores[2, 3], scores[4, 0]])  # a score is not above itself
    np.random.seed(0)  # noqa: NPY002
    points, ends = library.create_performance_profile({"a": scores}, tau, reps=2000)
    found = performance_profile(scores, tau, rng(1))
    assert found.mean == pytest.approx(points["a"], rel=1e-14)
    np.testing.assert_allclose([found.low, found.high], ends["a"], atol=1 / scores.size)  # one run more or less
    assert (found.low[-1], found.high[-1]) == (0, 0)


def test_resamples_keep_the_tasks_and_draw_seeds_within_each() -> None:
    scores = np.array([[0.0, 100.0], [1.0, 101.0], [2.0, 102.0]])
    seen = []
    stratified_bootstrap(scores, lambda x: seen.append(x) or 0.0, num_resamples=200)
    drawn = np.stack(seen[1:])
    assert drawn.shape == (200, 3, 2)
    assert (drawn[..., 0] < 50).all()
    assert (drawn[..., 1] >= 100).all()
    assert (drawn[..., 0] != drawn[..., 1] - 100).any()  # tasks are drawn apart
    assert len(np.unique(drawn[:, :, 0], axis=0)) == 27


def test_stratified_intervals_cover_the_mean_over_tasks() -> None:
    """The spread between tasks is large and must not enter; percentile intervals of 10 seeds are 5 % too narrow."""
    level = np.linspace(-5, 5, 8)
    found = [stratified_bootstrap(level + rng(i).normal(size=(10, 8)), np.mean, rng(i), 400) for i in range(400)]
    assert 0.88 < np.mean([one.low < 0 < one.high for one in found]) < 0.97
    assert found[0].high - found[0].low < 1


def test_stratified_draws_are_the_generators() -> None:
    scores = runs(4, 3)
    one = stratified_bootstrap(scores, iqm, rng(1), 200)
    assert one == stratified_bootstrap(scores, iqm, rng(1), 200)
    assert one != stratified_bootstrap(scores, iqm, rng(2), 200)
    assert stratified_bootstrap(scores, num_resamples=200) == stratified_bootstrap(scores, num_resamples=200)


def test_one_seed_nan_and_constant_scores_over_tasks() -> None:
    mean, low, high = stratified_bootstrap([[1.0, 2.0, 3.0]])
    assert mean == 2.0
    assert np.isnan([low, high]).all()
    assert np.isnan(stratified_bootstrap([[1.0, 2.0], [3.0, NAN]], num_resamples=50)).all()
    assert stratified_bootstrap(np.full((3, 4), 0.1), num_resamples=50) == pytest.approx((0.1, 0.1, 0.1))
    worst = stratified_bootstrap([[1.0, -np.inf], [2.0, 1.0], [3.0, 1.0]], np.mean, num_resamples=50)
    assert worst.mean == worst.low == -np.inf
    assert np.isnan(performance_profile([[1.0, NAN]], [0.0])).all()
    single = performance_profile([[0.0, 1.0]], [0.5])
    assert single.mean.tolist() == [0.5]
    assert np.isnan([single.low, single.high]).all()
    assert isinstance(stratified_bootstrap(runs(2, 2), num_resamples=10), Interval)


@settings(max_examples=20)
@given(scores=npst.arrays(np.float64, npst.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=numbers))
def test_a_profile_falls_from_one_to_zero_inside_its_band(scores: np.ndarray) -> None:
    tau = np.concatenate([[-11.0], np.sort(scores, axis=None), [11.0]])
    found = performance_profile(scores, tau, num_resamples=50)
    assert (found.mean[0], found.mean[-1]) == (1, 0)
    assert (np.diff(found.mean) <= 0).all()
    if len(scores) > 1:
        assert (np.diff(found.low) <= 1e-12).all()
        assert (found.low <= found.high).all()


@settings(max_examples=20)
@given(
    scores=npst.arrays(np.float64, npst.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=5), elements=numbers)
)
def test_stratified_intervals_shift_scale_and_ignore_the_order_of_tasks_for_the_statistic(scores: np.ndarray) -> None:
    found = np.array(stratified_bootstrap(scores, num_resamples=100))
    moved = stratified_bootstrap(2.0 * scores + 3.0, num_resamples=100)
    assert moved == pytest.approx(tuple(2.0 * found + 3.0), rel=1e-9, abs=1e-9)
    assert stratified_bootstrap(scores[:, ::-1], num_resamples=1).mean == found[0]


@pytest.mark.parametrize("shape", [(3,), (0, 2), (2, 2, 2)])
def test_what_is_not_seeds_by_tasks_is_refused(shape: tuple[int, ...]) -> None:
    for function in (stratified_bootstrap, lambda s: performance_profile(s, [0.0])):
        with pytest.raises(ValueError, match=r"expected scores of shape \(seeds, tasks\).*scores\[:, None\]"):
            function(np.zeros(shape))
    with pytest.raises(ValueError, match=r"expected thresholds of shape \(thresholds,\)"):
        performance_profile(np.zeros((2, 2)), 0.5)


def test_importing_needs_no_scipy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, pliant.functional.statistics; print([m for m in sys.modules if m.startswith(('scipy', 'torch'))])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
