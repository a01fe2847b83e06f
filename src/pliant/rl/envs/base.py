"""What an environment of episodes is: settings that make emulators, and what an emulator shows frame by frame."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np


class Frame(NamedTuple):
    """What one frame gives.

    Attributes:
        observation: what the agent sees, None where it does not decide: amid the frames for which an action is
            repeated. The last frame of an episode always has one.
        reward: of the frames since the last observation; the game's own, not clipped. 0 without an observation.
        discount: 0 where a life or the game was lost since the last observation, else 1: at a time limit it stays 1,
            so values beyond it count.
        last: whether the episode ends here.

    >>> Frame(None).discount
    1.0
    """

    observation: np.ndarray | None
    reward: float = 0.0
    discount: float = 1.0
    last: bool = False


class Emulator(Protocol):
    """An environment under way. What follows `begin` is a function of the seed, the episode and the actions alone, in
    an emulator of any past: so an episode is brought back by its actions.

    Attributes:
        shape: of an observation, (channels, height, width) or (features,).
        scale: an observation is divided by it, to be the input of a network.
        num_actions: how many actions there are to choose from; 0 where an action is an array of numbers.
        num_controls: how many numbers, each in [-1, 1], an action is; 0 where actions are chosen.

    >>> class Nothing:
    ...     shape, scale, num_actions, num_controls = (1,), 1.0, 2, 0
    ...     def begin(self, episode): return np.zeros(1, np.float32)
    ...     def frame(self, action): return Frame(np.zeros(1, np.float32), last=True)
    >>> emulator: Emulator = Nothing()
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def scale(self) -> float: ...

    @property
    def num_actions(self) -> int: ...

    @property
    def num_controls(self) -> int: ...

    def begin(self, episode: int) -> np.ndarray:
        """The first observation of an episode."""
        ...

    def frame(self, action: Any) -> Frame:
        """The next frame; `action` is the one that was chosen at the latest observation."""
        ...


class Environment(Protocol):
    """A frozen dataclass of settings.

    Attributes:
        limit: how many decisions an episode has at most.

    >>> from pliant.rl import Catch
    >>> environment: Environment = Catch()
    """

    @property
    def limit(self) -> int: ...

    def emulator(self, seed: int) -> Emulator:
        """An emulator of its own for one agent; `ValueError` where its package or the game is not there."""
        ...


def extra(package: str, name: str, what: str) -> ModuleType:
    """A module that an extra of pliant brings; `ValueError` with the line that installs it.

    >>> extra("json", "minatar", "MinAtar").__name__
    'json'
    >>> extra("no_such_package", "minatar", "MinAtar's games")
    Traceback (most recent call last):
    ValueError: MinAtar's games need no_such_package: pip install 'pliant[minatar]'
    """
    try:
        return import_module(package)
    except ImportError:
        raise ValueError(f"{what} need {package}: pip install 'pliant[{name}]'") from None
