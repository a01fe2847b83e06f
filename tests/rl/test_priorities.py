"""Prioritised sampling: shares by chi-square, what new and dropped transitions get, weights, against plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pliant.rl import Frame, FrameReplay, Priorities, Prioritised


def grown(replay: FrameReplay, m: int, frames: int) -> None:
    for _ in range(frames):
        number = replay.entries[m]
        replay.add(m, Frame(np.array([number % 256], np.uint8)), action=0, first=number == 0)


def drawn(priorities: Priorities, replay: FrameReplay, how: Prioritised, batch: int, seed: int = 0):
    draws = np.random.default_rng(seed).random((len(replay.items), batch, 3))
    return priorities.sample(replay, draws, how)


@pytest.mark.parametrize(("exponent", "uniform"), [(0.5, 1e-3), (1.0, 0.2), (0.0, 0.0)])
def test_transitions_are_drawn_as_often_as_they_should(exponent: float, uniform: float) -> None:
    how = Prioritised(exponent=exponent, uniform=uniform)
    replay, priorities = FrameReplay.empty(2, 13, (1,)), Priorities.none(2, 13)
    for m, frames in enumerate((14, 30)):
        grown(replay, m, frames)
    priorities.follow(replay, how)
    losses = np.random.default_rng(1).uniform(0, 5, (2, 13))
    losses[:, 4] = 0.0  # never by priority
    items = np.array(replay.dropped)[:, None] + np.arange(13)
    priorities.set(items, losses, how)
    item, weight = drawn(priorities, replay, how, 20_000)
    scaled = np.where(losses == 0, 0.0, losses**exponent)
    share = (1 - uniform) * scaled / scaled.sum(1, keepdims=True) + uniform / 13
    for m in range(2):
        counts = np.bincount(item[m] - items[m, 0], minlength=13)
        there = share[m] > 0
        assert (counts[~there] == 0).all()
        assert stats.chisquare(counts[there], 20_000 * share[m][there]).pvalue > 0.01
        expected = (1 / (13 * share[m][item[m] - items[m, 0]])) ** how.correction(replay.items[m])
        np.testing.assert_allclose(weight[m], expected / expected.max(), rtol=1e-9)


def test_new_transitions_have_the_largest_priority_seen_which_never_falls() -> None:
    how = Prioritised(exponent=0.5)
    replay, priorities = FrameReplay.empty(1, 8, (1,)), Priorities.none(1, 8)
    grown(replay, 0, 4)
    priorities.follow(replay, how)
    assert leaves(priorities) == [1.0, 1.0, 1.0, 0, 0, 0, 0, 0]
    priorities.set(np.array([[0, 1, 1]]), np.array([[9.0, 400.0, 0.25]]), how)  # of two for one, the last
    assert leaves(priorities) == [3.0, 0.5, 1.0, 0, 0, 0, 0, 0]
    assert priorities.largest == [100.0]
    priorities.set(np.array([[0]]), np.array([[np.nan]]), how)
    grown(replay, 0, 1)
    priorities.follow(replay, how)
    assert leaves(priorities) == [0.0, 0.5, 1.0, 10.0, 0, 0, 0, 0]


def leaves(priorities: Priorities) -> list[float]:
    return priorities.tree[0, priorities.tree.shape[1] // 2 :].tolist()


@pytest.mark.parametrize("capacity", [1, 3, 8, 11])
def test_after_any_number_of_rounds_the_tree_equals_a_list(capacity: int) -> None:
    how, generator = Prioritised(), np.random.default_rng(0)
    replay, priorities = FrameReplay.empty(1, capacity, (1,)), Priorities.none(1, capacity)
    kept: dict[int, float] = {}
    largest = 1.0
    grown(replay, 0, 1)
    for _ in range(40):
        count = int(generator.integers(0, 4))
        for _ in range(count):
            grown(replay, 0, 1)
            kept[replay.items[0] - 1] = largest**0.5
        kept = {item: value for item, value in kept.items() if item >= replay.dropped[0]}
        if not kept:
            continue
        item, _ = drawn(priorities, replay, how, 5, int(generator.integers(100)))
        assert set(item[0].tolist()) <= kept.keys()
        losses = generator.exponential(30.0, (1, 5))
        priorities.set(item, losses, how)
        for place, loss in zip(item[0].tolist(), losses[0].tolist(), strict=True):
            kept[place] = min(loss, 100.0) ** 0.5
        largest = max(largest, *np.minimum(losses[0], 100.0).tolist())
        found = leaves(priorities)
        assert {n: found[n % capacity] for n in kept} == pytest.approx(kept)
        assert float(priorities.tree[0, 1]) == pytest.approx(sum(kept.values()))


def test_what_is_dropped_early_is_not_drawn() -> None:
    """Cut episodes of one step take two observations a transition: 87 find room where there would be 128."""
    how = Prioritised(uniform=0.0)
    replay, priorities = FrameReplay.empty(1, 128, (1,)), Priorities.none(1, 128)
    for number in range(400):
        frame = Frame(np.array([0], np.uint8), 0.0, 1.0, number % 2 == 1)
        replay.add(0, frame, action=0, first=number % 2 == 0)
        if number % 37 == 0:
            priorities.follow(replay, how)
    size = int(replay.size[0])
    assert size < 128
    item, weight = drawn(priorities, replay, how, 4000)
    assert item.min() >= 200 - size
    assert item.max() == 199
    assert (weight == 1.0).all()
    assert float(priorities.tree[0, 1]) == size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uniform": 1.5}, r"expected uniform of Prioritised in \[0, 1\], got 1.5"),
        ({"exponent": -1.0}, "expected exponent at least 0 and most above 0"),
        ({"between": (5, 5)}, "expected between to be two rising counts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prioritised(**changes)
