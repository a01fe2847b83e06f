"""The episodes under way of a population's emulators, as tensors: an emulator is brought back by their actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.rl.envs import Emulator, Frame
from pliant.rl.frames import FrameReplay, room_for_actions

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
        actions: of the episode under way, `(members, limit)`, or `(members, limit, controls)` where they are arrays.
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
    def none(cls, members: int, limit: int, controls: int = 0) -> Episodes:
        """Before the first episode; `controls` numbers are an action, or it is one of several."""
        actions = room_for_actions(members, limit, controls)
        returns = torch.zeros(members, RETURNS, dtype=torch.float64)
        number, frames, decisions, ended = [-1] * members, [0] * members, [0] * members, [0] * members
        return cls(number, frames, decisions, [0.0] * members, ended, actions, returns)

    def first(self, m: int) -> bool:
        """Whether the frame that a member saw latest is the first of its episode."""
        return self.frames[m] == 1

    def latest(self, m: int) -> Any:
        """The action that a member chose latest."""
        return self._action(m, self.decisions[m] - 1)

    def decide(self, m: int, action: Any) -> None:
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
            if not (frames := self.frames[m]):
                continue
            emulator.begin(self.number[m])
            decided = 0
            for _ in range(frames - 1):
                decided += emulator.frame(self._action(m, decided)).observation is not None

    def cut(self) -> None:
        """Every game goes on with a new episode; those under way are over, and count nowhere."""
        self.frames[:] = [0] * len(self.frames)

    def mean_return(self) -> Tensor:
        """The mean return of the latest 100 episodes that ended, NaN where none did, `(members,)`."""
        there = zip(self.returns, self.ended, strict=True)
        means = [returns[:ended].mean() if ended else torch.tensor(math.nan) for returns, ended in there]
        return torch.stack(means).double()

    def _action(self, m: int, decision: int) -> Any:
        found = self.actions.numpy()[m, decision]
        return found if found.ndim else found.item()

    def _next(self, m: int, emulator: Emulator) -> Frame:
        if not self.frames[m]:
            self.number[m] += 1
            self.frames[m], self.decisions[m], self.reward[m] = 1, 0, 0.0
            return Frame(emulator.begin(self.number[m]))
        frame = emulator.frame(self.latest(m))
        self.frames[m] += 1
        self.reward[m] += frame.reward
        if frame.last:
            self.returns[m, self.ended[m] % RETURNS] = self.reward[m]
            self.ended[m] += 1
            self.frames[m] = 0
        return frame


def watched(
    episodes: Episodes, replay: FrameReplay, emulators: Sequence[Emulator], clip: float | None = None
) -> list[int]:
    """Plays a frame of every game and adds to the replay what some show; returns the members that do.

    Rewards are kept clipped to [-clip, clip] in the replay; None for as they are.

    >>> from pliant.rl import Catch
    >>> replay, emulators = FrameReplay.empty(1, 8, (1, 10, 5)), [Catch().emulator(0)]
    >>> watched(Episodes.none(1, Catch().limit), replay, emulators), replay.entries
    ([0], [1])
    """
    seen = episodes.play(emulators)
    asked = [m for m, frame in enumerate(seen) if frame.observation is not None]
    for m in asked:
        reward = seen[m].reward if clip is None else max(-clip, min(seen[m].reward, clip))
        replay.add(m, seen[m]._replace(reward=reward), episodes.latest(m), episodes.first(m))
    return asked
