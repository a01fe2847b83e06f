"""MinAtar's games: a function of seed, episode and actions; and an agent that is killed in the middle of one."""

# pyright: reportMissingImports=false
from __future__ import annotations

from functools import partial

import minatar
import numpy as np
import pytest
import torch

from pliant.nets import CNN
from pliant.optim import Adam
from pliant.rl import Episodes, MinAtar
from pliant.rl.envs.minatar import GAMES
from pliant.run import tree
from pliant.trials import ActionValues, QLearning, When
from tests.bitwise import assert_same

NET = partial(CNN, channels=(4,), hidden=(16,), kernels=(3,), strides=(1,))


def story(emulator, episode: int, steps: int) -> list:
    """What random actions lead to, until the episode ends."""
    generator, found = np.random.default_rng(episode), [emulator.begin(episode)]
    for _ in range(steps):
        frame = emulator.frame(int(generator.integers(6)))
        found += [frame.observation, frame.reward, frame.discount, frame.last]
        if frame.last:
            break
    return found


@pytest.mark.parametrize("game", GAMES)
def test_an_episode_is_a_function_of_seed_number_and_actions_whatever_was_before(game: str) -> None:
    used = MinAtar(game).emulator(7)
    stories = [story(used, episode, 400) for episode in (0, 1, 2)]
    fresh = story(MinAtar(game).emulator(7), 1, 400)
    other = story(MinAtar(game).emulator(8), 1, 400)
    assert_equal(stories[1], fresh)
    assert len(fresh) != len(other) or any(
        (np.asarray(a) != np.asarray(b)).any() for a, b in zip(fresh, other, strict=False)
    )
    assert used.shape == (minatar.Environment(game).state_shape()[2], 10, 10)
    assert set(np.unique(fresh[0])) <= {0, 1}


def assert_equal(a: list, b: list) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_it_plays_as_the_package_does() -> None:
    """The same stream and actions give MinAtar's own boards, rewards and ends."""
    emulator = MinAtar("asterix", sticky=0.25).emulator(3)
    emulator.begin(0)
    theirs = minatar.Environment("asterix", sticky_action_prob=0.25)
    theirs.random = theirs.env.random = np.random.RandomState()
    theirs.random.set_state(emulator._game.random.get_state())
    theirs.env.__dict__.update({k: v for k, v in emulator._game.env.__dict__.items() if k != "random"})
    theirs.env.entities = list(emulator._game.env.entities)
    generator = np.random.default_rng(0)
    for _ in range(60):
        action = int(generator.integers(6))
        frame, (reward, over) = emulator.frame(action), theirs.act(action)
        assert (frame.reward, frame.last, frame.discount) == (float(reward), over, float(not over))
        np.testing.assert_array_equal(frame.observation, theirs.state().transpose(2, 0, 1))
        if over:
            break


def test_a_limit_cuts_an_episode_whose_values_go_on() -> None:
    emulator = MinAtar("freeway", limit=5).emulator(0)
    emulator.begin(0)
    frames = [emulator.frame(0) for _ in range(5)]
    assert [frame.last for frame in frames] == [False] * 4 + [True]
    assert frames[-1].discount == 1.0
    assert MinAtar("freeway", limit=5).limit == Episodes.none(1, 5).actions.shape[1]


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]], ids=["single", "vmap"])
def test_an_agent_that_is_stopped_in_a_game_goes_on_bitwise(seeds: list[int]) -> None:
    trial = QLearning(
        MinAtar("breakout"), NET, Adam(1e-3), num_steps=300, begin=200, decay=50, batch_size=8, learn_period=4,
        target_period=50, capacity=150, measures=(ActionValues(When(every=40), 20),),
    )  # fmt: skip
    run = trial.start(seeds)
    rows = [row for row in run.rows if row]
    for stop in (90, 233):
        first = trial.start(seeds)
        for _ in first.rows:
            if first.state.step == stop:
                break
        kept = {path: tensor.clone() for path, tensor in tree.tensors(first.state).items()}
        numbers = tree.numbers(first.state)
        second = trial.start(seeds)
        tree.fill(second.state, kept, numbers)
        again = [row for row in second.rows if row]
        assert_same(tree.tensors(second.state), tree.tensors(run.state))
        assert tree.numbers(second.state) == tree.numbers(run.state)
        assert torch.equal(again[-1]["value"], rows[-1]["value"])


@pytest.mark.slow
def test_an_agent_with_convolutions_learns_breakout_a_little() -> None:
    """From the return of a random agent, 0.5, to above 1.5 in 6,000 frames of one seed."""
    net = partial(CNN, channels=(16,), hidden=(128,), kernels=(3,), strides=(1,))
    trial = QLearning(
        MinAtar("breakout"), net, Adam(1e-3), num_steps=6000, begin=1000, decay=2000, epsilon=0.02, learn_period=2,
        target_period=250, capacity=6000, measures=(ActionValues(When(every=6000), 100),),
    )  # fmt: skip
    rows = [row for row in trial.start([0]).rows if row]
    assert float(rows[0]["return"]) < 1.0
    assert float(rows[-1]["return"]) > 1.5
