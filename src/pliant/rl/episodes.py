"""The episodes under way of a population's emulators, as tensors: an emulator is brought back by their actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.rl.envs import Emulator, Frame

RETURNS = 100  # of the latest episodes, which are kept


@dataclass
class Episodes:
    """Where each member's game is; one entry a member, on the host.

    Attributes:
        number: of the episode under way, counted from 0; -1 before the first.
        frames: of it, so far, its first one included; 0 where the next frame begins another one.
        decisions: of it, so far.
        reward: of it, so far.
        ended: how many episodes ended.
        actions: of the episode under way, `(members, limit)`.
        returns: of the latest 100 episodes that ended, `(members, 100)`.

    >>> from pliant.rl import Catch
    >>> emulators = [Catch(rows=3).emulator(seed) for seed in (0, 1)]
    >>> episodes = Episodes.none(members=2, limit=Catch(rows=3).limit)
    >>> for _ in range(3):
    ...     frames = episodes.play(emulators)
    ...     episodes.decide(0, 1)
    ...     episodes.decide(1, 0)
    >>> [frame.last for frame in frames], episodes.ended, episodes.actions[1].tolist()
    ([True, True], [1, 1], [0, 0])
    """

    number: list[int]
    frames: list[int]
    decisions: list[int]
    reward: list[float]
    ended: list[int]
    actions: Tensor
    returns: Tensor

    @classmethod
    def none(cls, members: int, limit: int) -> Episodes:
        """Before the first episode."""
        actions = torch.zeros(members, limit, dtype=torch.int16)
        returns = torch.zeros(members, RETURNS, dtype=torch.float64)
        number, frames, decisions, ended = [-1] * members, [0] * members, [0] * members, [0] * members
        return cls(number, frames, decisions, [0.0] * members, ended, actions, returns)

    def first(self, m: int) -> bool:
        """Whether the frame that a member saw latest is the first of its episode."""
        return self.frames[m] == 1

    def decide(self, m: int, action: int) -> None:
        """Takes note of the action that a member chose at its latest observation; after the last one, of none."""
        if self.frames[m]:
            self.actions.numpy()[m, self.decisions[m]] = action
            self.decisions[m] += 1

    def play(self, emulators: Sequence[Emulator]) -> list[Frame]:
        """The next frame of every member: of the episode under way, or the first of the next one."""
        return [self._next(m, emulator) for m, emulator in enumerate(emulators)]

    def bring_back(self, emulators: Sequence[Emulator]) -> None:
        """Plays the episodes under way up to here, in emulators that were just made."""
        for m, emulator in enumerate(emulators):
            frames, actions = self.frames[m], self.actions[m].tolist()
            if not frames:
                continue
            emulator.begin(self.number[m])
            decided = 0
            for _ in range(frames - 1):
                decided += emulator.frame(actions[decided]).observation is not None

    def mean_return(self) -> Tensor:
        """The mean return of the latest 100 episodes that ended, NaN where none did, `(members,)`."""
        there = zip(self.returns, self.ended, strict=True)
        means = [returns[:ended].mean() if ended else torch.tensor(math.nan) for returns, ended in there]
        return torch.stack(means).double()

    def _next(self, m: int, emulator: Emulator) -> Frame:
        if not self.frames[m]:
            self.number[m] += 1
            self.frames[m], self.decisions[m], self.reward[m] = 1, 0, 0.0
            return Frame(emulator.begin(self.number[m]))
        frame = emulator.frame(int(self.actions.numpy()[m, self.decisions[m] - 1]))
        self.frames[m] += 1
        self.reward[m] += frame.reward
        if frame.last:
            self.returns[m, self.ended[m] % RETURNS] = self.reward[m]
            self.ended[m] += 1
            self.frames[m] = 0
        return frame
