"""MinAtar: five Atari games on a board of ten by ten; needs the package of that name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pliant.functional.draws import draw
from pliant.rl.envs.base import Frame, extra
from pliant.words import unknown

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")


@dataclass(frozen=True)
class MinAtar:
    """A game of MinAtar, with all six actions, rewards as the game gives them, and a decision every frame.

    The observation is the board, `(channels, 10, 10)`, of zeros and ones; each game has its own number of channels.
    With probability `sticky` the latest action is taken in place of the chosen one. Where `ramping`, asterix, seaquest
    and space_invaders get faster as they go on. Every episode draws from its own stream (MinAtar's own runs on), so
    that an episode is brought back by its number and its actions.

    Args:
        game: one of asterix, breakout, freeway, seaquest, space_invaders.
        sticky: in [0, 1].
        ramping: whether the difficulty grows.
        limit: decisions after which an episode is cut; values beyond count. MinAtar has no such limit; freeway's own,
            2,500 frames, ends the game.

    Raises:
        ValueError: the game is unknown, `sticky` or `limit` out of its range; and, of an emulator, MinAtar is not
            installed.

    >>> MinAtar("breakout").limit
    10000
    >>> MinAtar("break_out")
    Traceback (most recent call last):
    ValueError: unknown MinAtar game 'break_out': did you mean 'breakout'? (asterix, breakout, ...)

    Source: Young & Tian 2019. The package is GPL-3; it is imported, nothing of it is here.
    """

    game: str
    sticky: float = 0.1
    ramping: bool = True
    limit: int = 10_000

    def __post_init__(self) -> None:
        if self.game not in GAMES:
            raise ValueError(unknown("MinAtar game", self.game, GAMES))
        if not 0 <= self.sticky <= 1:
            raise ValueError(f"expected sticky in [0, 1], got {self.sticky}")
        if self.limit < 1:
            raise ValueError(f"expected a limit of at least 1 decision, got {self.limit}")

    def emulator(self, seed: int) -> MinAtarEmulator:
        """A game for one agent."""
        return MinAtarEmulator(self, seed)


class MinAtarEmulator:
    """A game of MinAtar under way."""

    scale, num_controls = 1.0, 0

    def __init__(self, settings: MinAtar, seed: int):
        made: Any = extra("minatar", "minatar", "MinAtar's games")
        self._game = made.Environment(settings.game, settings.sticky, settings.ramping)
        height, width, channels = self._game.state_shape()
        self.shape, self.num_actions = (channels, height, width), self._game.num_actions()
        self._limit, self._seed, self._taken = settings.limit, seed, 0

    def begin(self, episode: int) -> np.ndarray:
        self._game.seed(int(draw(self._seed, "minatar", episode).integers(2**32)))
        self._game.last_action = self._taken = 0
        self._game.reset()
        return self._board()

    def frame(self, action: int) -> Frame:
        reward, over = self._game.act(action)
        self._taken += 1
        return Frame(self._board(), float(reward), float(not over), over or self._taken == self._limit)

    def _board(self) -> np.ndarray:
        return self._game.state().astype(np.uint8).transpose(2, 0, 1)
