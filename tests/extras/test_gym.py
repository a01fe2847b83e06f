"""Tasks of Gymnasium: functions of seed, episode and actions; time limits that bootstrap; CartPole by QLearning."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pliant.heads import C51, Head, Scalar
from pliant.nets import MLP
from pliant.optim import Adam
from pliant.rl import Evaluation, Gym, Prioritised
from pliant.trials import QLearning


def test_cartpole_is_a_function_of_seed_episode_and_actions() -> None:
    used, fresh = Gym("CartPole-v1").emulator(3), Gym("CartPole-v1").emulator(3)
    assert (used.shape, used.num_actions, used.num_controls) == ((4,), 2, 0)
    used.begin(0)
    for _ in range(4):
        used.frame(1)
    np.testing.assert_array_equal(used.begin(5), fresh.begin(5))
    for action in (0, 1, 1, 0):
        np.testing.assert_array_equal(used.frame(action).observation, fresh.frame(action).observation)
    assert (Gym("CartPole-v1").emulator(4).begin(5) != used.begin(5)).any()


def test_what_falls_is_lost_and_what_is_cut_goes_on() -> None:
    emulator = Gym("CartPole-v1").emulator(0)
    emulator.begin(0)
    while not (frame := emulator.frame(1)).last:
        assert (frame.reward, frame.discount) == (1.0, 1.0)
    assert frame.discount == 0.0
    emulator = Gym("CartPole-v1", limit=3).emulator(0)
    emulator.begin(0)
    frames = [emulator.frame(a) for a in (0, 1, 0)]
    assert [(f.last, f.discount) for f in frames] == [(False, 1.0), (False, 1.0), (True, 1.0)]


def test_actions_that_are_numbers_are_scaled_to_their_bounds() -> None:
    emulator = Gym("Pendulum-v1").emulator(0)
    assert (emulator.num_actions, emulator.num_controls) == (0, 1)
    theirs = emulator._env.unwrapped
    emulator.begin(0)
    emulator.frame(np.array([-0.5]))
    assert theirs.last_u == pytest.approx(-1.0)  # of torques in [-2, 2]


def test_unknown_tasks_are_told_their_nearest_match() -> None:
    with pytest.raises(ValueError, match="unknown task of Gymnasium 'CartPole-v11': did you mean 'CartPole-v1'"):
        Gym("CartPole-v11").emulator(0)


AGENTS = {
    "double DQN": (Scalar(clip=1.0), partial(MLP, hidden=(64, 64)), None),
    "C51": (C51(0.0, 100.0, 51), partial(MLP, hidden=(64, 64)), None),
    "with priorities": (C51(0.0, 100.0, 51), partial(MLP, hidden=(64, 64)), Prioritised()),
}


@pytest.mark.slow
@pytest.mark.parametrize(("head", "net", "prioritised"), AGENTS.values(), ids=AGENTS)
def test_agents_hold_the_pole(head: Head, net: partial, prioritised: Prioritised | None) -> None:
    """All of three seeds reach a mean of 475 in 10,000 frames of evaluation, at one of the moments it is taken."""
    trial = QLearning(
        Gym("CartPole-v1", limit=500), net, Adam(1e-3), num_steps=50_000, head=head, double=prioritised is None,
        begin=1000, epsilon=0.02, decay=10_000, batch_size=64, target_period=250, capacity=50_000, learn_period=2,
        steps=3, prioritised=prioritised, evaluation=Evaluation(10_000, 10_000, 0.0),
    )  # fmt: skip
    scores = np.stack([row["score"].numpy() for row in trial.start([100, 101, 102]).rows if "score" in row])
    assert (scores[0] < 200).all()
    assert (scores.max(0) > 475).all()
