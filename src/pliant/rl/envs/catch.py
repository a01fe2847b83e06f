"""Catch: the smallest game, without a package of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.functional.draws import draw
from pliant.rl.envs.base import Frame

LEFT, STAY, RIGHT = -1, 0, 1


@dataclass(frozen=True)
class Catch:
    """A ball falls from a random column, a row a frame; a paddle at the bottom goes left, stays or goes right.

    The observation is the board, `(1, rows, columns)`, 1 where ball and paddle are. At the last row the episode ends
    with reward 1 where the ball meets the paddle, else -1. A random agent's mean return with ten rows and five columns
    is about -0.6.

    Raises:
        ValueError: fewer than two rows or columns.

    >>> emulator = Catch(rows=3, columns=3).emulator(seed=0)
    >>> int(emulator.begin(episode=0).sum()), emulator.frame(1).last, emulator.frame(1).last
    (2, False, True)

    Source: after Mnih et al. 2014, as the behaviour suite of Osband et al. 2020 has it.
    """

    rows: int = 10
    columns: int = 5

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 2:
            raise ValueError(f"expected at least 2 rows and 2 columns, got {self.rows} and {self.columns}")

    @property
    def limit(self) -> int:
        """How many decisions an episode has."""
        return self.rows - 1

    def emulator(self, seed: int) -> CatchEmulator:
        """A game for one agent."""
        return CatchEmulator(self, seed)


class CatchEmulator:
    """A game of `Catch` under way."""

    scale, num_actions, num_controls = 1.0, 3, 0

    def __init__(self, settings: Catch, seed: int):
        self.shape, self._seed = (1, settings.rows, settings.columns), seed
        self._row = self._ball = self._paddle = 0

    def begin(self, episode: int) -> np.ndarray:
        _, _, columns = self.shape
        self._row, self._paddle = 0, columns // 2
        self._ball = int(draw(self._seed, "catch", episode).integers(columns))
        return self._board()

    def frame(self, action: int) -> Frame:
        _, rows, columns = self.shape
        self._paddle = min(max(self._paddle + (LEFT, STAY, RIGHT)[action], 0), columns - 1)
        self._row += 1
        if self._row < rows - 1:
            return Frame(self._board())
        return Frame(self._board(), 1.0 if self._ball == self._paddle else -1.0, 0.0, last=True)

    def _board(self) -> np.ndarray:
        board = np.zeros(self.shape, np.uint8)
        board[0, self._row, self._ball] = board[0, -1, self._paddle] = 1
        return board
