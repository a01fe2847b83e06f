"""Atari games as dqn_zoo shows them to an agent; needs ale-py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pliant.functional.draws import draw
from pliant.rl.envs.base import Frame, extra
from pliant.words import unknown

REPEAT = 4  # frames for which an action is repeated
ROOM = 256  # frames beyond an episode's, so that the emulator does not cut it: it counts those before (up to 134 + 30)
GREY = (0.299, 0.587, 1 - (0.299 + 0.587))


@dataclass(frozen=True)
class Atari:
    """A game of the Arcade Learning Environment, without sticky actions, with the actions that mean something in it.

    An episode begins after 1 to 30 frames without action. An action is repeated for four frames. The observation,
    `(1, side, side)` in 0 to 255, is the maximum over the RGB images of the last two of them, made grey (0.299 R +
    0.587 G + 0.114 B, truncated) and shrunk (PIL's bilinear). Agents stack four, as `FrameReplay` does. A block cut
    short by the end of the game is filled up with black images: one that ends at its first or second frame is black.
    Where a life is lost the discount is 0 and the game goes on. After `max_frames` an episode is cut; values beyond it
    count.

    With `fast`, ale-py's own preprocessing in C++ (`AtariVectorEnv`) shows the game, a decision in two thirds of the
    time, and not exactly so: 0 to 29 frames without action, rather than 1 to 30; the maximum over grey images, whose
    grey is the emulator's, shrunk by averaging areas: pixels differ by 0.1 to 2.4 of 255 in the mean, by game; where
    the end of the game cuts a block short, its last images; and a cut at the end of the block in which `max_frames` are
    reached. Rewards, discounts and ends are those of the same actions after as many frames without action, in all 57
    games over random decisions. An episode begins in 90 ms in place of 6, as the game is loaded anew: below some 500
    decisions an episode nothing is gained.

    Args:
        game: as ale-py names it, `"road_runner"` say.
        side: of the observation.
        max_frames: of an episode.
        fast: whether ale-py prepares the images.

    Raises:
        ValueError: a number is below 1; and, of an emulator, ale-py is not installed or does not know the game.

    >>> Atari("pong").limit
    27002

    Source: Quan & Ostrovski 2020 (dqn_zoo), after Mnih et al. 2015. Deviations: the emulator is today's, whose palette
    was not compared with that of its time; every episode begins as after power-on, where the reset of nine games keeps
    something of the episode before (assault, beam_rider, berzerk, ice_hockey, solaris, surround, tennis, time_pilot and
    yars_revenge, with ale-py 0.12.1). The package is GPL-2; it is imported, nothing of it is here.
    """

    game: str
    side: int = 84
    max_frames: int = 108_000
    fast: bool = False

    def __post_init__(self) -> None:
        for name in ("side", "max_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")

    @property
    def limit(self) -> int:
        """How many decisions an episode has at most."""
        return -(-self.max_frames // REPEAT) + 2

    def emulator(self, seed: int) -> AtariEmulator | FastEmulator:
        """A game for one agent."""
        return (FastEmulator if self.fast else AtariEmulator)(self, seed)


def _package(game: str) -> Any:
    """ale-py, which knows the game; `ValueError` otherwise."""
    package: Any = extra("ale_py", "atari", "Atari's games")
    known = package.roms.get_all_rom_ids()
    if game not in known:
        raise ValueError(unknown("Atari game", game, known))
    package.ALEInterface.setLoggerMode(package.LoggerMode.Error)
    return package


class AtariEmulator:
    """A game of Atari under way."""

    scale, num_controls = 255.0, 0

    def __init__(self, settings: Atari, seed: int):
        package = _package(settings.game)
        self._ale = package.ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt("frame_skip", 1)
        self._ale.setInt("random_seed", 0)
        self._ale.loadROM(package.roms.get_rom_path(settings.game))
        self._power_on = self._ale.cloneSystemState()
        self._actions = self._ale.getMinimalActionSet()
        self._settings, self._seed = settings, seed
        self.shape, self.num_actions = (1, settings.side, settings.side), len(self._actions)
        self._frames = self._lives = 0
        self._third: np.ndarray | None = None
        self._reward, self._discount = 0.0, 1.0

    def begin(self, episode: int) -> np.ndarray:
        self._ale.restoreSystemState(self._power_on)
        self._ale.reset_game()
        waited = int(draw(self._seed, "no-ops", episode).integers(1, 31))
        for _ in range(waited):
            self._ale.act(self._actions[0])
            if self._ale.game_over():
                raise ValueError(f"{self._settings.game} ended during {waited} frames without action")
        self._frames, self._lives, self._third = 0, self._ale.lives(), None
        self._reward, self._discount = 0.0, 1.0
        return self._seen(self._ale.getScreenRGB())

    def frame(self, action: int) -> Frame:
        self._reward += self._ale.act(self._actions[action])
        place = self._frames % REPEAT  # in the block
        self._frames += 1
        over, lives = self._ale.game_over(), self._ale.lives()
        last = over or self._frames == self._settings.max_frames
        if over or (not last and lives < self._lives):
            self._discount = 0.0
        self._lives = lives
        if place == REPEAT - 2:
            self._third = self._ale.getScreenRGB()
        if not last and place < REPEAT - 1:
            return Frame(None)
        found = Frame(self._seen(self._pooled(place)), self._reward, self._discount, last)
        self._reward, self._discount = 0.0, 1.0
        return found

    def _pooled(self, place: int) -> np.ndarray:
        """The maximum over the last two of the block's images, black where the game ended before."""
        if place == REPEAT - 1:
            assert self._third is not None
            return np.maximum(self._third, self._ale.getScreenRGB())
        if place == REPEAT - 2:
            assert self._third is not None
            return self._third
        return np.zeros((*self._ale.getScreenDims(), 3), np.uint8)

    def _seen(self, image: np.ndarray) -> np.ndarray:
        grey = np.tensordot(image, GREY, (-1, 0)).astype(np.uint8)
        side = self._settings.side
        return np.array(Image.fromarray(grey).resize((side, side), Image.Resampling.BILINEAR), np.uint8)[None]


class FastEmulator:
    """A game of Atari under way, four frames at a time."""

    scale, num_controls = 255.0, 0

    def __init__(self, settings: Atari, seed: int):
        _package(settings.game)
        vector: Any = extra("ale_py.vector_env", "atari", "Atari's games with fast=True")
        self._env = vector.AtariVectorEnv(
            settings.game, 1, num_threads=1, img_height=settings.side, img_width=settings.side, stack_num=1,
            max_num_frames_per_episode=settings.max_frames + ROOM, life_loss_info=True, reward_clipping=False,
            use_fire_reset=False,
        )  # fmt: skip
        self._settings, self._seed = settings, seed
        self.shape, self.num_actions = (1, settings.side, settings.side), int(self._env.single_action_space.n)
        self._lives = self._emulated = self._frames = 0
        self._block: tuple[int, Frame] | None = None  # how many frames of it are to come, and what the last one shows

    def begin(self, episode: int) -> np.ndarray:
        image, about = self._env.reset(seed=int(draw(self._seed, "no-ops", episode).integers(2**31)))
        self._lives, self._emulated = int(about["lives"][0]), int(about["episode_frame_number"][0])
        self._frames, self._block = 0, None
        return image[0].copy()

    def frame(self, action: int) -> Frame:
        left, found = self._block or self._four(action)
        self._block = (left - 1, found) if left > 1 else None
        return Frame(None) if self._block else found

    def _four(self, action: int) -> tuple[int, Frame]:
        """How many frames of the game an action takes, and what the last one shows."""
        image, reward, terminated, _, about = self._env.step(np.array([action]))
        lives, emulated = int(about["lives"][0]), int(about["episode_frame_number"][0])
        taken = emulated - self._emulated
        self._frames += taken
        over = bool(terminated[0]) and lives == 0
        last = over or self._frames >= self._settings.max_frames
        lost = over or lives < self._lives
        self._lives, self._emulated = lives, emulated
        return taken, Frame(image[0].copy(), float(reward[0]), float(not lost), last)
