"""DeepMind Control: continuous control of simulated bodies; needs dm_control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pliant.functional.draws import draw
from pliant.rl.envs.base import Frame, extra
from pliant.words import unknown

STEPS = 1000  # of control, of every task of the suite


@dataclass(frozen=True)
class DMC:
    """A task of DeepMind Control, seen by its state.

    The observation is all that the task shows, as one float32 array `(features,)`; an action is an array of numbers in
    [-1, 1], the ends of what the task allows, held for `repeat` steps of control. An episode has 1,000 of them; its
    end is a time limit, and values beyond count.

    Args:
        task: domain and task, `"cartpole_swingup"` say.
        repeat: steps of control an action.

    Raises:
        ValueError: `repeat` is below 1; and, of an emulator, dm_control is not installed or does not know the task.

    >>> DMC("walker_walk", repeat=2).limit
    502

    Source: Tassa et al. 2018. Apache-2.0, as MuJoCo is.
    """

    task: str
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ValueError(f"expected repeat to be at least 1, got {self.repeat}")

    @property
    def limit(self) -> int:
        """How many decisions an episode has at most."""
        return -(-STEPS // self.repeat) + 2

    def emulator(self, seed: int) -> DMCEmulator:
        """A body for one agent."""
        return DMCEmulator(self, seed)


class DMCEmulator:
    """A task of DeepMind Control under way."""

    scale, num_actions = 1.0, 0

    def __init__(self, settings: DMC, seed: int):
        suite: Any = extra("dm_control.suite", "dmc", "DeepMind Control's tasks")
        known = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
        if settings.task not in known:
            raise ValueError(unknown("task of DeepMind Control", settings.task, list(known)))
        self._env = suite.load(*known[settings.task], task_kwargs={"random": 0})
        bounds = self._env.action_spec()
        self._centre, self._half = (bounds.maximum + bounds.minimum) / 2, (bounds.maximum - bounds.minimum) / 2
        (self.num_controls,) = bounds.shape
        self._repeat, self._seed, self._taken = settings.repeat, seed, 0
        self._reward, self._discount = 0.0, 1.0
        self.shape = self.begin(0).shape

    def begin(self, episode: int) -> np.ndarray:
        self._env.task.random.seed(int(draw(self._seed, "dmc", episode).integers(2**32)))
        self._taken, self._reward, self._discount = 0, 0.0, 1.0
        return self._seen(self._env.reset())

    def frame(self, action: np.ndarray) -> Frame:
        shown = self._env.step(self._centre + self._half * action)
        self._taken += 1
        self._reward += shown.reward
        self._discount *= shown.discount
        if not shown.last() and self._taken % self._repeat:
            return Frame(None)
        found = Frame(self._seen(shown), self._reward, self._discount, shown.last())
        self._reward, self._discount = 0.0, 1.0
        return found

    def _seen(self, shown: Any) -> np.ndarray:
        parts = [np.atleast_1d(part).ravel() for part in shown.observation.values()]
        return np.concatenate(parts).astype(np.float32)
