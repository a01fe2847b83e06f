"""Shapley values by their axioms and by brute force over all orders of players."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pliant.functional.shapley import coalitions, interactions, orders, prefixes, sampled, shapley

NUMBERS = st.floats(-100, 100)


@st.composite
def games(draw, most=4, least=1, samples=None):
    """The number of players, and a value for every coalition: a number, or an array over samples."""
    players = draw(st.integers(least, most))
    values = draw(arrays(np.float64, (2**players, *([] if samples is None else [samples])), elements=NUMBERS))
    return players, dict(zip(coalitions(players), values, strict=True))


def brute(value, players):
    """What each player adds, averaged over all orders in which players come."""
    total = [0.0] * players
    for order in permutations(range(players)):
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            total[player] = total[player] + value[before | {player}] - value[before]
    return np.array(total) / math.factorial(players)


@given(games(samples=3))
def test_the_mean_over_all_orders(game):
    players, value = game
    np.testing.assert_allclose(shapley(value, players), brute(value, players), rtol=0, atol=1e-10)


@given(games(most=6, samples=2))
def test_efficiency(game):
    players, value = game
    gained = value[frozenset(range(players))] - value[frozenset()]
    np.testing.assert_allclose(shapley(value, players).sum(0), gained, rtol=0, atol=1e-12 * 200 * players)


@given(games(least=2), st.data())
def test_symmetry(game, data):
    players, value = game
    i, j = data.draw(st.sampled_from(list(combinations(range(players), 2))))
    swap = {i: j, j: i}
    same = {c: value[min(c, frozenset(swap.get(p, p) for p in c), key=sorted)] for c in value}
    found = shapley(same, players)
    assert found[i] == pytest.approx(found[j], abs=1e-10)


@given(games(), NUMBERS, st.data())
def test_who_always_adds_the_same_gets_that(game, gift, data):
    players, value = game
    i = data.draw(st.integers(0, players - 1))
    plain = {c: value[c - {i}] + (gift if i in c else 0.0) for c in value}
    assert shapley(plain, players)[i] == pytest.approx(gift, abs=1e-10)


@given(games(), st.data())
def test_additivity(game, data):
    players, value = game
    other = {c: data.draw(NUMBERS) for c in value}
    both = {c: 2 * value[c] + other[c] for c in value}
    expected = 2 * shapley(value, players) + shapley(other, players)
    np.testing.assert_allclose(shapley(both, players), expected, rtol=0, atol=1e-10)


@given(games(samples=2))
def test_all_orders_sampled_are_exact(game):
    players, value = game
    every = list(permutations(range(players)))
    np.testing.assert_allclose(sampled(value, every), shapley(value, players), rtol=0, atol=1e-10)


@given(games(most=5), st.integers(1, 7), st.integers(0, 100))
def test_a_sample_sums_to_the_whole_all_the_same(game, number, seed):
    players, value = game
    chosen = orders(players, number, seed)
    needed = {c: value[c] for c in prefixes(chosen)}
    gained = value[frozenset(range(players))] - value[frozenset()]
    assert sampled(needed, chosen).sum() == pytest.approx(gained, abs=1e-10)


def test_samples_of_an_additive_game_are_exact():
    weights = np.array([1.0, -2.0, 3.0, 0.5, 0.0, 7.0, 11.0, 4.0])
    chosen = orders(8, 6, seed=0)
    value = {c: weights[sorted(c)].sum() for c in prefixes(chosen)}
    np.testing.assert_allclose(sampled(value, chosen), weights, atol=1e-12)


def test_interactions_by_hand():
    """Two players that only help together, and a third that is worth 5 alone and takes 2 from the first."""
    value = {c: 4.0 * ({0, 1} <= c) + 5.0 * (2 in c) - 2.0 * ({0, 2} <= c) for c in coalitions(3)}
    np.testing.assert_allclose(interactions(value, 3), [[0, 4, -2], [4, 0, 0], [-2, 0, 0]], atol=1e-12)
    three = {c: 6.0 * (len(c) == 3) for c in coalitions(3)}  # shared by the pairs: 6 with the third there, 0 without
    np.testing.assert_allclose(interactions(three, 3), 3 * (1 - np.eye(3)), atol=1e-12)


@given(games(least=2, samples=2))
def test_interactions_of_two_players_are_what_both_bring_beyond_each(game):
    players, value = game
    found = interactions(value, players)
    assert found.shape == (players, players, 2)
    np.testing.assert_allclose(found, found.swapaxes(0, 1), atol=0)
    for i, j in combinations(range(players), 2):  # I_ij = phi_i with j there less phi_i without j
        without = {c: v for c, v in value.items() if j not in c}
        with_j = {c - {j}: v for c, v in value.items() if j in c}
        relabel = {p: k for k, p in enumerate(q for q in range(players) if q != j)}
        games_ = [{frozenset(relabel[p] for p in c): v for c, v in g.items()} for g in (with_j, without)]
        there, gone = (shapley(g, players - 1)[relabel[i]] for g in games_)
        np.testing.assert_allclose(found[i, j], there - gone, rtol=0, atol=1e-9)


def test_coalitions_orders_and_prefixes():
    assert len(coalitions(6)) == len(set(coalitions(6))) == 64
    assert coalitions(0) == [frozenset()]
    assert [len(c) for c in coalitions(3)] == [0, 1, 1, 1, 2, 2, 2, 3]
    chosen = orders(7, 5, seed=3)
    assert chosen == orders(7, 5, seed=3) != orders(7, 5, seed=4)
    assert [len(o) for o in chosen] == [7] * 5
    assert all(sorted(o) == list(range(7)) for o in chosen)
    assert chosen[1] == chosen[0][::-1]
    found = prefixes(chosen)
    assert len(found) == len(set(found)) < 2**7
    assert found[0] == frozenset()
    assert found[-1] == frozenset(range(7))
    assert all(frozenset(order[:size]) in found for order in chosen for size in range(8))
