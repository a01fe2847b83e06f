"""Atari's games as dqn_zoo shows them, against its steps written down one by one over an emulator of their own."""

# pyright: reportMissingImports=false
from __future__ import annotations

from functools import partial

import ale_py
import numpy as np
import pytest
from PIL import Image

from pliant.functional.draws import draw
from pliant.nets import CNN
from pliant.optim import RMSProp
from pliant.rl import Atari
from pliant.run import tree
from pliant.trials import ActionValues, QLearning, When
from tests.bitwise import assert_same


class Raw:
    """The emulator, a frame at a time: image, reward, lives, whether the game is over."""

    def __init__(self, game: str, waited: int):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(ale_py.roms.get_rom_path(game))
        self.ale.reset_game()
        for _ in range(waited):
            self.ale.act(0)

    def seen(self) -> tuple:
        return self.ale.getScreenRGB().astype(int), self.ale.lives(), self.ale.game_over()

    def act(self, action: int) -> tuple:
        reward = self.ale.act(self.ale.getMinimalActionSet()[action])
        return (reward, *self.seen())


def grey(images: list[np.ndarray]) -> np.ndarray:
    """The maximum of two RGB images, as luminance, truncated, then shrunk."""
    r, g, b = np.moveaxis(np.maximum(*images), -1, 0)
    luminance = (0.299 * r + 0.587 * g + (1 - (0.299 + 0.587)) * b + 1e-9).astype(np.uint8)
    return np.array(Image.fromarray(luminance).resize((84, 84), Image.Resampling.BILINEAR))


def naive(game: str, seed: int, episode: int, actions: list[int], max_frames: int) -> list[tuple]:
    """All that an agent is shown: images, summed rewards, products of discounts, ends."""
    raw = Raw(game, int(draw(seed, "no-ops", episode).integers(1, 31)))
    image, lives, over = raw.seen()
    black = np.zeros_like(image)
    shown, block, frames, chosen = [(grey([black, image]), None, None, False)], [], 0, iter(actions)
    action = next(chosen)
    while True:
        reward, image, now, over = raw.act(action)
        frames += 1
        last = over or frames >= max_frames
        discount = 0.0 if over or (not last and now < lives) else 1.0
        lives = now
        block.append((image, reward, discount))
        if last or len(block) == 4:
            images = [one[0] for one in block] + [black] * (4 - len(block))
            rewards, discounts = [one[1] for one in block], [one[2] for one in block]
            shown.append((grey(images[2:]), sum(rewards), float(np.prod(discounts)), last))
            block, action = [], next(chosen, None)
        if last or action is None:
            return shown


@pytest.mark.parametrize(
    ("game", "decisions", "max_frames"),
    [("breakout", 300, 108_000), ("seaquest", 80, 108_000), ("freeway", 40, 108_000), ("pong", 60, 110)],
)
def test_an_agent_is_shown_what_dqn_zoo_shows(game: str, decisions: int, max_frames: int) -> None:
    emulator = Atari(game, max_frames=max_frames).emulator(3)
    for episode in (0, 2):
        actions = np.random.default_rng(episode).integers(0, emulator.num_actions, decisions).tolist()
        expected = naive(game, 3, episode, actions, max_frames)
        found = [(emulator.begin(episode)[0], None, None, False)]
        for action in actions:
            frame = emulator.frame(action)
            while frame.observation is None:
                frame = emulator.frame(action)
            found.append((frame.observation[0], frame.reward, frame.discount, frame.last))
            if frame.last:
                break
        assert len(found) == len(expected)
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            np.testing.assert_array_equal(one[0], other[0], err_msg=f"decision {place}")
            assert one[1:] == other[1:]
        if game == "breakout":
            discounts = [one[2] for one in found[1:]]
            assert discounts.count(0.0) == 5  # lives; the fifth ends the game
            assert not any(one[3] for one in found[:-1])
            assert found[-1][3]
        if game == "pong":
            assert len(found) == 1 + 28  # 27 blocks of four and one of two: black, and it bootstraps
            assert found[-1][2:] == (1.0, True)
            assert (found[-1][0] == 0).all()


@pytest.mark.parametrize(
    ("game", "decisions"), [("breakout", 300), ("freeway", 40), ("berzerk", 60), ("name_this_game", 20)]
)
def test_fast_shows_the_same_game_a_little_otherwise(game: str, decisions: int) -> None:
    """Rewards, discounts, ends and frames are the emulator's own; images are much like the exact ones."""
    emulator = Atari(game, fast=True).emulator(3)
    for episode in (1, 0):
        first = emulator.begin(episode)
        waited = (
            emulator._emulated - Raw(game, 0).ale.getEpisodeFrameNumber()
        )  # some games begin with frames of their own
        raw = Raw(game, waited)
        assert 0 <= waited < 30
        assert first.shape == (1, 84, 84)
        (image, lives, over), shown = raw.seen(), 0.0
        for action in np.random.default_rng(episode).integers(0, emulator.num_actions, decisions).tolist():
            total, discount, images = 0, 1.0, []
            for _ in range(4):
                frame = emulator.frame(action)
                reward, image, now, over = raw.act(action)
                total, images = total + reward, [*images, image]
                discount, lives = (0.0 if over or now < lives else discount), now
                assert (frame.observation is None) == (len(images) < 4 and not over)
                if over:
                    break
            assert (frame.reward, frame.discount, frame.last) == (total, discount, over)
            if over:
                break
            exact = grey(images[2:]).astype(int)
            shown = max(shown, float(np.abs(frame.observation[0] - exact).mean()))
        assert shown < 3
        assert over == (game == "breakout")


def test_fast_is_cut_after_the_block_that_reaches_the_limit_and_bootstraps() -> None:
    emulator = Atari("pong", side=42, max_frames=110, fast=True).emulator(0)
    assert emulator.begin(0).shape == emulator.shape == (1, 42, 42)
    frames = [emulator.frame(0) for _ in range(112)]
    assert [at for at, frame in enumerate(frames) if frame.last] == [111]
    assert frames[-1].discount == 1.0
    assert sum(frame.observation is not None for frame in frames) == 28


@pytest.mark.parametrize("fast", [False, True])
def test_an_episode_is_a_function_of_seed_number_and_actions_whatever_was_before(fast: bool) -> None:
    """Tennis keeps something of the game before when it is reset; here nothing is kept."""

    def story(emulator, episode: int) -> list:
        generator, found = np.random.default_rng(episode), [emulator.begin(episode)]
        for _ in range(400):
            frame = emulator.frame(int(generator.integers(emulator.num_actions)))
            found += [frame.observation] if frame.observation is not None else []
        return found

    used = Atari("tennis", fast=fast).emulator(0)
    stories = [story(used, episode) for episode in (0, 1, 0)]
    for fresh, again in ((story(Atari("tennis", fast=fast).emulator(0), 1), stories[1]), (stories[0], stories[2])):
        assert all((a == b).all() for a, b in zip(fresh, again, strict=True))
    starts = [used.begin(episode) for episode in range(8)]
    assert any((start != starts[0]).any() for start in starts)


def test_a_double_dqn_agent_that_is_stopped_in_a_game_goes_on_bitwise() -> None:
    net = partial(CNN, channels=(4, 8), hidden=(16,), kernels=(8, 4), strides=(4, 2))
    zoo = RMSProp(2.5e-4, alpha=0.95, eps=0.0, eps_root=0.01 / 32**2, centered=True)
    trial = QLearning(
        Atari("breakout", side=42), net, zoo, num_steps=900, begin=500, decay=100, batch_size=8, learn_period=16,
        target_period=100, capacity=200, stack=4, clip=1.0, measures=(ActionValues(When(every=200), 8),), together=1,
    )  # fmt: skip
    run = trial.start([0])
    whole = [row for row in run.rows if row]
    assert run.state.learner.step == len([frame for frame in range(500, 900) if frame % 16 == 0])
    first = trial.start([0])
    for _ in first.rows:
        if first.state.step == 742:
            break
    kept = {path: tensor.clone() for path, tensor in tree.tensors(first.state).items()}
    numbers = tree.numbers(first.state)
    second = trial.start([0])
    tree.fill(second.state, kept, numbers)
    again = [row for row in second.rows if row]
    assert_same(tree.tensors(second.state), tree.tensors(run.state))
    assert tree.numbers(second.state) == tree.numbers(run.state)
    assert_same(again[-1], whole[-1])


@pytest.mark.parametrize("fast", [False, True])
def test_an_unknown_game_is_told_its_nearest_match(fast: bool) -> None:
    with pytest.raises(ValueError, match="unknown Atari game 'roadrunner': did you mean 'road_runner'"):
        Atari("roadrunner", fast=fast).emulator(0)


def test_the_57_games_of_the_experiments_are_known_to_the_emulator() -> None:
    from pliant.papers.emulators import GAMES

    assert not set(GAMES) - set(ale_py.roms.get_all_rom_ids())
