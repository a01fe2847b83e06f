"""DeepMind Control: episodes that are functions of seed, number and actions; a time limit that bootstraps."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pliant.nets import MLP
from pliant.optim import Adam
from pliant.papers.lyle2024.dmc import TASKS
from pliant.rl import DMC
from pliant.trials import QLearning


def story(emulator, episode: int, frames: int) -> list:
    generator, found = np.random.default_rng(episode), [(emulator.begin(episode), 0.0)]
    action = generator.uniform(-1, 1, emulator.num_controls)
    for _ in range(frames):
        frame = emulator.frame(action)
        if frame.observation is not None:
            found.append((frame.observation, frame.reward))
            action = generator.uniform(-1, 1, emulator.num_controls)
    return found


@pytest.mark.parametrize("task", ["cartpole_swingup", "cheetah_run", "finger_spin", "point_mass_easy"])
def test_an_episode_is_a_function_of_seed_number_and_actions_whatever_was_before(task: str) -> None:
    used = DMC(task).emulator(1)
    stories = [story(used, episode, 150) for episode in (0, 3)]
    fresh = story(DMC(task).emulator(1), 3, 150)
    for (one, r), (other, s) in zip(stories[1], fresh, strict=True):
        np.testing.assert_array_equal(one, other)
        assert r == s
    assert used.shape == fresh[0][0].shape
    assert any((one[0] != other[0]).any() for one, other in zip(*stories, strict=True))


def test_an_action_is_repeated_and_the_last_step_bootstraps() -> None:
    once, twice = DMC("walker_walk").emulator(0), DMC("walker_walk", repeat=3).emulator(0)
    np.testing.assert_array_equal(once.begin(0), twice.begin(0))
    action = np.zeros(twice.num_controls)
    decisions = 0
    for block in range(334):
        rewards = []
        for _ in range(1 if block == 333 else 3):  # 1,000 steps are 333 blocks of three, and one
            one, other = once.frame(action), twice.frame(action)
            rewards.append(one.reward)
        assert one.observation is not None
        np.testing.assert_array_equal(one.observation, other.observation)
        assert other.reward == pytest.approx(sum(rewards))
        decisions += 1
        assert (other.last, other.discount) == (block == 333, 1.0)
    assert decisions + 1 <= DMC("walker_walk", repeat=3).limit


def test_unknown_tasks_are_told_their_nearest_match_and_agents_that_choose_actions_refuse() -> None:
    with pytest.raises(ValueError, match="unknown task of DeepMind Control 'walker_wlak': did you mean 'walker_walk'"):
        DMC("walker_wlak").emulator(0)
    trial = QLearning(DMC("cartpole_swingup"), partial(MLP, hidden=(8,)), Adam(1e-3), num_steps=100, begin=10)
    with pytest.raises(ValueError, match="expected a game with actions to choose from, got arrays of numbers: DMC"):
        trial.start([0])


def test_the_tasks_of_the_experiment_are_those_of_the_benchmark() -> None:
    from dm_control import suite

    assert sorted(f"{domain}_{task}" for domain, task in suite.BENCHMARKING) == list(TASKS)
