"""How much of a result each of several causes brought, from the values of their coalitions.

A coalition is a frozenset of players (whole numbers from 0); values are numbers or arrays (one entry a sample, say).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, combinations, pairwise
from math import factorial

import numpy as np

Coalition = frozenset[int]
EXACT = 6  # players: up to so many, all coalitions are evaluated


def coalitions(players: int) -> list[Coalition]:
    """All 2^players coalitions, the small ones first.

    >>> [sorted(c) for c in coalitions(2)]
    [[], [0], [1], [0, 1]]
    """
    every = chain.from_iterable(combinations(range(players), size) for size in range(players + 1))
    return [frozenset(chosen) for chosen in every]


def orders(players: int, number: int, seed: int) -> list[tuple[int, ...]]:
    """Random orders of the players, each followed by its reverse, which makes the estimate steadier.

    >>> orders(3, 2, seed=0)
    [(1, 0, 2), (2, 0, 1)]
    """
    generator = np.random.default_rng([seed, *b"orders"])
    found = [tuple(map(int, generator.permutation(players))) for _ in range(-(-number // 2))]
    return [order for one in found for order in (one, one[::-1])][:number]


def prefixes(orders: Iterable[Sequence[int]]) -> list[Coalition]:
    """The coalitions that these orders form one player at a time, each once, the small ones first.

    >>> [sorted(c) for c in prefixes([(1, 0)])]
    [[], [1], [0, 1]]
    """
    found = {frozenset(order[:size]) for order in orders for size in range(len(order) + 1)}
    return sorted(found, key=lambda c: (len(c), sorted(c)))


def shapley(value: Mapping[Coalition, np.ndarray], players: int) -> np.ndarray:
    """The Shapley value of each player, `(players, ...)`: what it adds, averaged over all orders of players.

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)); all of them sum to v(all) - v(none).
    Source: Shapley 1953.

    >>> v = {frozenset(): 0.0, frozenset({0}): 1.0, frozenset({1}): 0.0, frozenset({0, 1}): 3.0}
    >>> shapley(v, players=2)
    array([2., 1.])
    """
    return np.stack([_average(value, players, [i], lambda s, i=i: value[s | {i}] - value[s]) for i in range(players)])


def sampled(value: Mapping[Coalition, np.ndarray], orders: Sequence[Sequence[int]]) -> np.ndarray:
    """The Shapley values estimated from some orders; they sum to v(all) - v(none) all the same.

    >>> v = {frozenset(): 0.0, frozenset({0}): 1.0, frozenset({0, 1}): 3.0}
    >>> sampled(v, [(0, 1)])
    array([1., 2.])
    """
    total = [np.zeros_like(np.asarray(value[frozenset()], dtype=np.float64)) for _ in orders[0]]
    for order in orders:
        grown = [frozenset(order[:size]) for size in range(len(order) + 1)]
        for player, (before, after) in zip(order, pairwise(grown), strict=True):
            total[player] = total[player] + value[after] - value[before]
    return np.stack(total) / len(orders)


def interactions(value: Mapping[Coalition, np.ndarray], players: int) -> np.ndarray:
    """How much two players bring together beyond what each brings, `(players, players, ...)`, 0 on the diagonal.

    I_ij = sum over S without i, j of |S|! (n - |S| - 2)! / (n - 1)! (v(S + i + j) - v(S + i) - v(S + j) + v(S)).
    Source: Grabisch and Roubens 1999.

    >>> v = {frozenset(): 0.0, frozenset({0}): 1.0, frozenset({1}): 0.0, frozenset({0, 1}): 3.0}
    >>> interactions(v, players=2)
    array([[0., 2.],
           [2., 0.]])
    """
    zero = np.zeros_like(np.asarray(value[frozenset()], dtype=np.float64))
    found = [[zero for _ in range(players)] for _ in range(players)]
    for i, j in combinations(range(players), 2):
        both = _average(
            value, players, [i, j], lambda s, i=i, j=j: value[s | {i, j}] - value[s | {i}] - value[s | {j}] + value[s]
        )
        found[i][j] = found[j][i] = both
    return np.array(found)


def _average(
    value: Mapping[Coalition, np.ndarray], players: int, without: list[int], gain: Callable[[Coalition], np.ndarray]
) -> np.ndarray:
    """A gain averaged over the coalitions without some players, each size with the same weight."""
    rest = [p for p in range(players) if p not in without]
    n = len(rest)
    total = np.zeros_like(np.asarray(value[frozenset()], dtype=np.float64))
    for size in range(n + 1):
        weight = factorial(size) * factorial(n - size) / factorial(n + 1)
        for chosen in combinations(rest, size):
            total = total + weight * gain(frozenset(chosen))
    return total
