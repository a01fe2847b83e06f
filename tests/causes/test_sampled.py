"""Shapley values of many repairs, estimated from orders of each target's own: against all coalitions, and coverage."""

import numpy as np
import pytest

from pliant.causes import Norm
from pliant.causes.attribution import coalitions_at_most
from pliant.functional.shapley import coalitions, orders, prefixes, sampled, shapley
from tests.causes.test_causes import made

PLAYERS = 8
EVERY = coalitions(PLAYERS)
REPAIRS = tuple(type(f"Number{i}", (Norm,), {"name": str(i)})() for i in range(PLAYERS))


def game(seed: int) -> np.ndarray:
    """What a network has recovered by each coalition: players that need or replace each other."""
    generator = np.random.default_rng(seed)
    there = np.array([[player in c for player in range(PLAYERS)] for c in EVERY], dtype=float)
    pairs = np.triu(generator.normal(0, 0.4, (PLAYERS, PLAYERS)), 1)
    return there @ generator.normal(0, 1, PLAYERS) + np.einsum("ci,ij,cj->c", there, pairs, there)


def test_many_orders_come_to_the_exact_values():
    """And orders with their reverses are exact where players interact in pairs alone: each comes first once in two."""
    value = dict(zip(EVERY, game(0), strict=True))
    exact = shapley(value, PLAYERS)
    np.testing.assert_allclose(sampled(value, orders(PLAYERS, 2, seed=1)), exact, rtol=0, atol=1e-12)
    cubed = {c: v**3 / 50 for c, v in value.items()}
    exact = shapley(cubed, PLAYERS)
    few = [sampled(cubed, orders(PLAYERS, 2, seed)) - exact for seed in range(20)]
    many = sampled(cubed, orders(PLAYERS, 800, seed=1)) - exact
    assert np.square(many).mean() < 0.02 * np.square(few).mean()  # a 400th is expected


@pytest.mark.parametrize("players", [7, 8, 12])
def test_the_number_of_refits_is_bounded(players):
    for seed in range(20):
        assert len(prefixes(orders(players, 6, seed))) <= 2 + 6 * (players - 1)


def covered(targets: int, shared: bool, trials: int = 150) -> float:
    """How often the interval of a part holds the exact Shapley value of the mean game."""
    mean, generator, inside = game(3) ** 3 / 50, np.random.default_rng(4), 0
    truth = shapley(dict(zip(EVERY, mean, strict=True)), PLAYERS)
    for trial in range(trials):
        values = -mean[:, None] + generator.normal(0, 0.1, (len(EVERY), targets))
        chosen = [orders(PLAYERS, 6, seed=1000 * trial + (0 if shared else target)) for target in range(targets)]
        values -= values.min() - 1  # losses are not negative, and below the constant predictor's
        causes = made(dict(zip(map(tuple, EVERY), values, strict=True)), np.zeros(targets), REPAIRS, 1e9, orders=chosen)
        inside += sum(causes.parts[str(i)].low <= truth[i] <= causes.parts[str(i)].high for i in range(PLAYERS))
    return inside / (trials * PLAYERS)


def test_intervals_count_the_sampling():
    """Orders that all targets share make intervals that are too narrow, so this could fail."""
    assert covered(5, shared=False) == pytest.approx(0.95, abs=0.02)
    assert covered(5, shared=True) < 0.85


@pytest.mark.parametrize("repairs", [0, 1, 5, 6, 7, 10, 20])
def test_an_estimate_counts_no_more_sets_of_repairs_than_may_be_refitted(repairs):
    """Exactly the most that any number of acting repairs can need: of all subsets up to six, of six orders beyond."""
    needed = [
        2**acting if acting <= 6 else max(len(prefixes(orders(acting, 6, seed))) for seed in range(50))
        for acting in range(repairs + 1)
    ]
    assert coalitions_at_most(repairs) == max(needed)
