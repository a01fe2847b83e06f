"""Push: the smallest task of continuous control, without a package of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.functional.draws import draw
from pliant.rl.envs.base import Frame

STEP = 0.2  # of time


@dataclass(frozen=True)
class Push:
    """A mass on a line, pushed to its middle and held there.

    The observation is place and velocity, `(2,)`, the action a force in [-1, 1]. An episode begins at rest, at a random
    place in [-1, 1], and has `steps` steps, each of which gives 1 less the distance to the middle, or 0 beyond 1. Its
    end is a time limit, and values beyond count.

    Args:
        steps: of an episode.

    Raises:
        ValueError: fewer than one step.

    >>> emulator = Push(steps=2).emulator(seed=0)
    >>> place, velocity = emulator.begin(episode=0)
    >>> emulator.frame(np.array([0.0])).last, emulator.frame(np.array([0.0])).last
    (False, True)
    """

    steps: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"expected at least 1 step, got {self.steps}")

    @property
    def limit(self) -> int:
        """How many decisions an episode has."""
        return self.steps

    def emulator(self, seed: int) -> PushEmulator:
        """A mass for one agent."""
        return PushEmulator(self, seed)


class PushEmulator:
    """A mass under way."""

    shape, scale, num_actions, num_controls = (2,), 1.0, 0, 1

    def __init__(self, settings: Push, seed: int):
        self._settings, self._seed = settings, seed
        self._place = self._velocity = 0.0
        self._taken = 0

    def begin(self, episode: int) -> np.ndarray:
        self._place, self._velocity, self._taken = float(draw(self._seed, "push", episode).uniform(-1, 1)), 0.0, 0
        return self._seen()

    def frame(self, action: np.ndarray) -> Frame:
        self._velocity += STEP * float(action[0])
        self._place += STEP * self._velocity
        self._taken += 1
        return Frame(self._seen(), max(0.0, 1 - abs(self._place)), last=self._taken == self._settings.steps)

    def _seen(self) -> np.ndarray:
        return np.array([self._place, self._velocity], np.float32)
