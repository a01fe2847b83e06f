"""Random labels: uniform, independent of the true ones, as many new ones at a switch as was asked for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pliant.tasks import RandomLabels, random_labels
from tests.tasks.examples import data

LARGE = RandomLabels(num_examples=5000, batch_size=10, every=10, num_tasks=4)


def labels(task, index, seed=0, classes=10, previous=None):
    return task.labels(seed, index, classes, previous)


@pytest.mark.parametrize("index", [0, 1, 5])
@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_labels_are_uniform(fraction, index):
    found = labels(replace(LARGE, fraction=fraction), index)
    assert set(found) == set(range(10))
    assert stats.chisquare(np.bincount(found)).pvalue > 1e-3


@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_labels_are_independent_of_the_true_ones_of_other_tasks_and_seeds(fraction):
    task = replace(LARGE, fraction=fraction)
    true = np.arange(5000) % 10
    first = labels(task, 0)
    others = [true, labels(task, 0, seed=1)] + ([labels(task, 1), labels(task, 2)] if fraction == 1 else [])
    for other in others:
        table = np.histogram2d(first, other, bins=10)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.999])
def test_a_switch_draws_exactly_a_fraction_again(fraction):
    """With very many classes nearly every redrawn label is another one."""
    task = replace(LARGE, fraction=fraction)
    for index in range(1, 4):
        changed = (labels(task, index, classes=2**40) != labels(task, index - 1, classes=2**40)).mean()
        assert changed == pytest.approx(round(5000 * fraction) / 5000, abs=1e-9)


def test_every_switch_picks_its_own_examples():
    task = replace(LARGE, fraction=0.1)
    steps = [labels(task, index, classes=2**40) for index in range(3)]
    first, second = steps[1] != steps[0], steps[2] != steps[1]
    assert 20 < (first & second).sum() < 90  # 50 expected of two independent draws of 500


def test_all_labels_are_new_at_fraction_one():
    assert (labels(LARGE, 1) == labels(LARGE, 0)).mean() == pytest.approx(0.1, abs=0.02)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    fraction=st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]),
    index=st.integers(0, 12),
    seed=st.integers(0, 2**32),
)
def test_the_shortcut_gives_the_same(fraction, index, seed):
    task = RandomLabels(num_examples=40, batch_size=4, every=5, num_tasks=13, fraction=fraction)
    previous = labels(task, index - 1, seed) if index else None
    kept = None if previous is None else previous.copy()
    assert np.array_equal(labels(task, index, seed, previous=previous), labels(task, index, seed))
    assert kept is None or np.array_equal(previous, kept)  # and leaves what it was given alone


def test_many_small_switches_cost_one_draw_each(monkeypatch):
    """Fraction 0.01 means a hundred times as many switches: walking from the first each time would take minutes."""
    task = RandomLabels(num_examples=20, batch_size=2, every=1, num_tasks=60, fraction=0.05)
    calls = []
    draw = random_labels.draw
    monkeypatch.setattr(random_labels, "draw", lambda *args: calls.append(args) or draw(*args))
    stream = task.bind(data(), [0, 1])
    list(stream.batches(0, 60))
    assert len(calls) <= 2 * 62


def test_fractions_are_matched_in_total_change():
    for fraction in (0.01, 0.05, 0.1, 0.5, 1.0):
        task = RandomLabels.matched(fraction, num_examples=1000, batch_size=10, every=500, num_tasks=30)
        assert task.num_steps == 15_000
        assert task.num_tasks * round(fraction * 1000) == 30 * 1000
        assert (task.num_examples, task.batch_size, task.fraction) == (1000, 10, fraction)


@pytest.mark.parametrize(("fraction", "every"), [(0.01, 30), (0.3, 5), (0.001, 500)])
def test_refuses_a_match_that_rounding_would_spoil(fraction, every):
    with pytest.raises(ValueError, match=r"expected fraction \* every to be a whole number of steps"):
        RandomLabels.matched(fraction, num_examples=1000, batch_size=10, every=every, num_tasks=30)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.001, float("nan")])
def test_refuses_fractions_that_are_none(fraction):
    with pytest.raises(ValueError, match=r"expected fraction to be in \(0, 1\]"):
        replace(LARGE, fraction=fraction)
    with pytest.raises(ValueError, match=r"expected fraction to be in \(0, 1\]"):
        RandomLabels.matched(fraction, num_examples=1000, batch_size=10, every=1000, num_tasks=30)


def test_refuses_a_fraction_below_one_label():
    with pytest.raises(ValueError, match=r"one label or more, got 0\.01 of num_examples=20"):
        RandomLabels(num_examples=20, batch_size=2, every=1, num_tasks=2, fraction=0.01)


def test_refuses_regression_data():
    task = RandomLabels(num_examples=20, batch_size=2, every=1, num_tasks=2)
    with pytest.raises(ValueError, match="expected class labels, got a regression data set"):
        next(task.bind(data(regression=True), [0]).batches(0, 1))


def test_the_examples_stay():
    task = RandomLabels(num_examples=20, batch_size=2, every=1, num_tasks=3)
    stream = task.bind(data(), [0, 1])
    first, last = stream.examples(0), stream.examples(2)
    assert (first.x == last.x).all()
    assert not (first.y == last.y).all()
