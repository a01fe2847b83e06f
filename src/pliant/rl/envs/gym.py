"""Tasks of Gymnasium: CartPole and whatever else is registered there; needs gymnasium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pliant.functional.draws import draw
from pliant.rl.envs.base import Frame, extra
from pliant.words import unknown


@dataclass(frozen=True)
class Gym:
    """A task of Gymnasium, with actions to choose from or arrays of numbers.

    The observation is the task's, in float32 where it is not uint8. A task that is terminated has discount 0; one that
    is cut by a time limit keeps its discount, so values beyond count. What follows a reset has to be a function of its
    seed and of the actions, as in the classic tasks.

    Args:
        id: as registered, `"CartPole-v1"` say.
        limit: steps after which an episode is cut; no more than the task's own limit.

    Raises:
        ValueError: `limit` is below 1; and, of an emulator, Gymnasium is not installed or does not know the task, or
            observations and actions are of another kind.

    >>> Gym("CartPole-v1").limit
    1000

    Source: Towers et al. 2024. MIT.
    """

    id: str
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"expected a limit of at least 1 step, got {self.limit}")

    def emulator(self, seed: int) -> GymEmulator:
        """A task for one agent."""
        return GymEmulator(self, seed)


class GymEmulator:
    """A task of Gymnasium under way."""

    scale = 1.0

    def __init__(self, settings: Gym, seed: int):
        package: Any = extra("gymnasium", "gymnasium", "Gymnasium's tasks")
        if settings.id not in package.registry:
            raise ValueError(unknown("task of Gymnasium", settings.id, list(package.registry)))
        self._env, spaces = package.make(settings.id), package.spaces
        seen, action = self._env.observation_space, self._env.action_space
        if not isinstance(seen, spaces.Box) or not isinstance(action, spaces.Discrete | spaces.Box):
            raise ValueError(f"expected {settings.id} to show arrays and take numbers, got {seen} and {action}")
        self.shape, self._seed, self._limit, self._taken = seen.shape, seed, settings.limit, 0
        self._kind = np.uint8 if seen.dtype == np.uint8 else np.float32
        self.num_actions, self.num_controls, self._first = 0, 0, 0
        if isinstance(action, spaces.Discrete):
            self.num_actions, self._first = int(action.n), int(action.start)
        elif len(action.shape) == 1 and np.isfinite([action.low, action.high]).all():
            self.num_controls = action.shape[0]
            self._centre, self._half = (action.high + action.low) / 2, (action.high - action.low) / 2
        else:
            raise ValueError(f"expected actions of {settings.id} to be a bounded list of numbers, got {action}")

    def begin(self, episode: int) -> np.ndarray:
        self._taken = 0
        shown, _ = self._env.reset(seed=int(draw(self._seed, "gym", episode).integers(2**31)))
        return np.asarray(shown, self._kind)

    def frame(self, action: Any) -> Frame:
        taken = self._centre + self._half * action if self.num_controls else self._first + action
        shown, reward, terminated, truncated, _ = self._env.step(taken)
        self._taken += 1
        last = bool(terminated or truncated or self._taken == self._limit)
        return Frame(np.asarray(shown, self._kind), float(reward), float(not terminated), last)
