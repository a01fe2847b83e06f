"""Replay of observations against lists of whole states: stacks, n-step returns, what is dropped, the ring's seam."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pliant.rl import Frame, FrameReplay

GAMMA = 0.9


class Naive:
    """Whole transitions of one member in a list, built as dqn_zoo builds them."""

    def __init__(self, capacity: int, stack: int, steps: int):
        self.capacity, self.stack, self.steps = capacity, stack, steps
        self.kept: list[tuple] = []
        self.added = 0

    def add(self, frame: Frame, action: int, first: bool) -> None:
        if first:
            self.seen, self.path = [frame.observation], []
            return
        before = self.state()
        self.seen.append(frame.observation)
        self.path.append((before, action, frame.reward, GAMMA * frame.discount, self.state()))
        done = [self.path[-self.steps :]] if len(self.path) >= self.steps else []
        if frame.last:
            done = [self.path[-n:] for n in range(min(self.steps, len(self.path)), 0, -1)]
        for path in done:
            reward, discount = 0.0, 1.0
            for _, _, r, d, _ in path:
                reward, discount = reward + discount * r, discount * d
            self.kept = [*self.kept, (path[0][0], path[0][1], reward, discount, path[-1][4])][-self.capacity :]
            self.added += 1

    def state(self) -> np.ndarray:
        latest = self.seen[-self.stack :]
        return np.concatenate(latest + [np.zeros_like(latest[0])] * (self.stack - len(latest)))


def story(seed: int, frames: int, longest: int = 9):
    """Episodes of 1 to `longest` steps, some lost, some cut, lives lost on the way, one left unfinished: arguments of
    `add`."""
    generator, number, left = np.random.default_rng(seed), 0, 0
    first = True
    for step in range(frames):
        number = number % 250 + 1
        observation = np.full((2, 3), number, np.uint8)
        if first:
            left = int(generator.integers(1, longest + 1))
            yield Frame(observation), 0, True
            first = False
            continue
        left -= 1
        lost = bool(generator.random() < 0.3)
        yield (
            Frame(observation, float(generator.normal()), 0.0 if lost else 1.0, left == 0),
            int(generator.integers(5)),
            False,
        )
        first = left == 0 or step == frames // 2  # an emulator made anew cuts the episode under way


@pytest.mark.parametrize(("stack", "steps"), [(1, 1), (4, 1), (1, 3), (4, 3), (2, 5)])
@pytest.mark.parametrize("frames", [20, 200])
def test_every_transition_equals_that_of_a_list_of_whole_states(stack: int, steps: int, frames: int) -> None:
    capacity, members = 17, 2
    replay = FrameReplay.empty(members, capacity, (2, 3), stack, steps)
    lists = [Naive(capacity, stack, steps) for _ in range(members)]
    for m, naive in enumerate(lists):
        for frame, action, first in story(m, frames):
            replay.add(m, frame, action, first)
            naive.add(frame, action, first)
            np.testing.assert_array_equal(seen(replay, m), naive.state()) if not lost(frame) else None
    assert list(replay.items) == [naive.added for naive in lists]
    size = int(replay.size.min())
    assert size == min(len(naive.kept) for naive in lists)
    items = np.array(replay.items)[:, None] - size + np.arange(size)
    found = replay.take(items, GAMMA)
    for m, naive in enumerate(lists):
        for i, (state, action, reward, discount, following) in enumerate(naive.kept[-size:]):
            np.testing.assert_array_equal(found.x[m, i], state)
            assert int(found.action[m, i]) == action
            assert float(found.reward[m, i]) == pytest.approx(reward, rel=1e-6, abs=1e-7)
            assert float(found.discount[m, i]) == pytest.approx(discount, abs=1e-12)
            if discount:
                np.testing.assert_array_equal(found.following[m, i], following)
    assert frames < 200 or size == capacity


def lost(frame: Frame) -> bool:
    return frame.last and not frame.discount


def seen(replay: FrameReplay, m: int) -> np.ndarray:
    return replay.latest()[m].numpy()


def test_n_step_returns_with_a_life_loss_inside_by_hand() -> None:
    """Rewards 1, 2, 4, 8, 16; the life lost at the second step; the game lost at the fifth."""
    replay = FrameReplay.empty(1, 10, (1,), steps=3)
    for number, reward in enumerate((0.0, 1.0, 2.0, 4.0, 8.0, 16.0)):
        frame = Frame(np.array([number], np.uint8), reward, 0.0 if number in (2, 5) else 1.0, number == 5)
        replay.add(0, frame, action=number, first=number == 0)
    found = replay.take(np.arange(5)[None], gamma=0.5)
    assert found.reward[0].tolist() == [1 + 0.5 * 2, 2.0, 4 + 0.5 * 8 + 0.25 * 16, 8 + 0.5 * 16, 16.0]
    assert found.discount[0].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0]
    assert found.action[0].tolist() == [1, 2, 3, 4, 5]


def test_at_a_time_limit_shorter_returns_go_on_from_the_last_observation() -> None:
    replay = FrameReplay.empty(1, 10, (1,), steps=3)
    for number in range(3):
        replay.add(0, Frame(np.array([7 + number], np.uint8), 1.0, 1.0, number == 2), action=0, first=number == 0)
    found = replay.take(np.arange(2)[None], gamma=0.5)
    assert found.reward[0].tolist() == [1.5, 1.0]
    assert found.discount[0].tolist() == [0.25, 0.5]
    assert found.following[0, :, 0].tolist() == [9, 9]


def test_where_cut_episodes_take_all_the_room_the_oldest_transitions_are_dropped() -> None:
    """Episodes of one step, all cut: two observations a transition, more than there is room for."""
    replay = FrameReplay.empty(1, 64, (1,))
    for number in range(300):
        frame = Frame(np.array([number % 256], np.uint8), float(number), 1.0, number % 2 == 1)
        replay.add(0, frame, action=0, first=number % 2 == 0)
    room = replay.frame.shape[1]
    assert replay.items == [150]
    assert int(replay.size[0]) == room // 2
    items = np.arange(150 - room // 2, 150)[None]
    found = replay.take(items, 0.9)
    assert found.x[0, :, 0].tolist() == [int(2 * item) % 256 for item in items[0]]
    assert found.following[0, :, 0].tolist() == [int(2 * item + 1) % 256 for item in items[0]]
    assert found.reward[0].tolist() == [2.0 * item + 1 for item in items[0]]


def test_transitions_are_drawn_uniformly_from_those_that_are_there() -> None:
    replay = FrameReplay.empty(2, 8, (1,))
    for m, frames in enumerate((6, 30)):
        for number in range(frames):
            replay.add(m, Frame(np.array([number], np.uint8)), action=0, first=number == 0)
    drawn = replay.uniform(np.tile(np.linspace(0, 1, 80, endpoint=False), (2, 1)))
    assert np.unique(drawn[0], return_counts=True)[0].tolist() == [0, 1, 2, 3, 4]
    found, counts = np.unique(drawn[1], return_counts=True)
    assert found.tolist() == list(range(21, 29))
    assert counts.tolist() == [10] * 8


def test_floating_observations_keep_their_type() -> None:
    replay = FrameReplay.empty(1, 4, (2,), dtype=torch.float32)
    replay.add(0, Frame(np.array([0.5, -2.0], np.float32)), action=0, first=True)
    assert replay.latest().tolist() == [[0.5, -2.0]]
