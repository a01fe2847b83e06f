"""Games frame by frame: when they ask for a decision, what they add up to, and that their actions bring them back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pliant.rl import Catch, Episodes, MinAtar
from pliant.rl.envs.base import Emulator
from tests.rl.scripted import Scripted


def played(episodes: Episodes, emulators: list[Emulator], frames: int, seed: int = 0) -> list:
    generator, told = np.random.default_rng(seed), []
    for _ in range(frames):
        seen = episodes.play(emulators)
        told.append([(f.observation is not None, f.reward, f.discount, f.last) for f in seen])
        for m, frame in enumerate(seen):
            if frame.observation is not None:
                episodes.decide(m, int(generator.integers(emulators[m].num_actions)))
    return told


def test_decisions_come_at_the_first_frame_after_every_four_and_at_the_last() -> None:
    """Episodes of 1, 4, 5 and 7 frames after their first: decisions at these frames of each."""
    episodes, emulators = Episodes.none(1, 8), [Scripted((1, 4, 5, 7), repeat=4).emulator(0)]
    asked = [told[0][0] for told in played(episodes, emulators, 2 + 5 + 6 + 8)]
    assert [place for place, was in enumerate(asked) if was] == [0, 1, 2, 6, 7, 11, 12, 13, 17, 20]
    assert episodes.ended == [4]


def test_returns_are_sums_of_all_rewards_of_an_episode() -> None:
    episodes, emulators = Episodes.none(2, 8), [Scripted((2, 3)).emulator(seed) for seed in (0, 1)]
    assert all(math.isnan(mean) for mean in episodes.mean_return())
    actions = [[2, 0, 1, 1, 0], [1, 2, 0, 2, 1]]
    for _ in range(3 + 4):
        seen = episodes.play(emulators)
        for m in range(2):
            if not seen[m].last:
                episodes.decide(m, actions[m][episodes.decisions[m]])
    first = [1 + 2 + (2 + 0) / 2, 1 + 2 + 3 + (2 + 0 + 1) / 2]
    second = [1 + 2 + 3 + (1 + 2 + 0) / 2, 1 + 2 + (1 + 2) / 2]
    assert episodes.returns[:, :2].tolist() == [first, second]
    assert episodes.mean_return().tolist() == [np.mean(first), np.mean(second)]


@pytest.mark.parametrize("env", [Catch(4, 3), Scripted((1, 4, 6, 3), repeat=4, lost=(2,))], ids=["catch", "scripted"])
@pytest.mark.parametrize("frames", [1, 2, 5, 13, 14, 15])
def test_actions_bring_games_back_in_the_middle_of_anything(env, frames: int) -> None:
    emulators = [env.emulator(seed) for seed in (0, 5)]
    episodes = Episodes.none(2, env.limit)
    played(episodes, emulators, frames)
    again = [env.emulator(seed) for seed in (0, 5)]
    episodes.bring_back(again)
    copies = [Episodes(*(list(v) if isinstance(v, list) else v.clone() for v in vars(episodes).values())) for _ in "ab"]
    assert played(copies[0], emulators, 20, seed=1) == played(copies[1], again, 20, seed=1)


def test_a_random_agent_meets_the_ball_of_catch_one_time_in_five_or_so() -> None:
    episodes, emulators = Episodes.none(1, 9), [Catch().emulator(3)]
    told = [one[0] for one in played(episodes, emulators, 3000)]
    rewards = [reward for _, reward, _, last in told if last]
    assert len(rewards) == 300
    assert set(rewards) == {-1.0, 1.0}
    assert -0.75 < np.mean(rewards) < -0.4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinAtar("Breakuot"), "unknown MinAtar game 'Breakuot': did you mean 'breakout'"),
        (lambda: MinAtar("breakout", sticky=1.5), r"expected sticky in \[0, 1\], got 1.5"),
        (lambda: MinAtar("breakout", limit=0), "expected a limit of at least 1 decision, got 0"),
        (lambda: Catch(1, 5), "expected at least 2 rows and 2 columns, got 1 and 5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
