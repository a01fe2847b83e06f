"""Replay: the latest transitions and no others, uniformly, in few bytes."""

from __future__ import annotations

import torch
from scipy.stats import chisquare

from pliant.rl import Replay, Transitions


def numbered(start: int, n: int, members: int = 2) -> Transitions:
    """Transitions whose four parts are the same number, 1,000 apart between members."""
    numbers = torch.arange(start, start + n) + 1000 * torch.arange(members)[:, None]
    return Transitions(numbers, numbers, numbers.float(), numbers)


def test_it_holds_the_latest_transitions_of_each_member() -> None:
    replay = Replay.empty(members=2, capacity=10)
    for start in range(0, 21, 3):
        replay.add(numbered(start, 3))
    assert (replay.size, replay.count) == (10, 21)
    every = (torch.arange(10, dtype=torch.float64) / 10 + 0.01).expand(2, 10)
    for part in replay.sample(every):
        assert sorted(part[0].tolist()) == list(range(11, 21))
        assert sorted(part[1].tolist()) == list(range(1011, 1021))


def test_it_samples_uniformly_from_what_is_there() -> None:
    replay = Replay.empty(members=1, capacity=100)
    replay.add(numbered(0, 40, members=1))
    draws = torch.rand(1, 8000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = replay.sample(draws)
    assert chisquare(torch.bincount(found.image[0], minlength=40).numpy()).pvalue > 0.01
    assert torch.equal(found.image, found.following)
    assert torch.equal(found.image, found.action)
    assert torch.equal(found.image.float(), found.reward)


def test_100_000_transitions_take_less_than_4_megabytes() -> None:
    replay = Replay.empty(members=1, capacity=100_000)
    assert sum(t.nbytes for t in vars(replay).values() if isinstance(t, torch.Tensor)) < 4e6
