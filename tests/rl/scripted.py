"""Episodes whose every number is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.rl import Frame


@dataclass(frozen=True)
class Scripted:
    """Episodes of so many frames after their first, one after the other and over again.

    Decisions come as in dqn_zoo: at the first frame, after every `repeat` more, and at the last. The reward of frame f
    of episode e is f + action / 2; episodes of a length in `cut` end by a time limit; a life is lost at the frames in
    `lost`, counted from the first frame as 0.
    """

    lengths: tuple[int, ...]
    repeat: int = 1
    cut: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()

    @property
    def limit(self) -> int:
        return max(self.lengths) + 1

    def emulator(self, seed: int) -> ScriptedEmulator:
        return ScriptedEmulator(self, seed)


class ScriptedEmulator:
    shape, scale, num_actions, num_controls = (2,), 1.0, 3, 0

    def __init__(self, script: Scripted, seed: int):
        self.script, self.seed = script, seed
        self.at = self.length = self.episode = 0
        self.reward, self.discount = 0.0, 1.0

    def begin(self, episode: int) -> np.ndarray:
        self.episode, self.at = episode, 0
        self.reward, self.discount = 0.0, 1.0
        self.length = self.script.lengths[(episode + self.seed) % len(self.script.lengths)]
        return self.seen()

    def seen(self) -> np.ndarray:
        return np.array([self.episode % 200 + 1, self.at + 1], np.uint8)

    def frame(self, action: int) -> Frame:
        self.at += 1
        self.reward += self.at + action / 2
        last = self.at == self.length
        if self.at in self.script.lost or (last and self.length not in self.script.cut):
            self.discount = 0.0
        if not last and self.at % self.script.repeat:
            return Frame(None)
        found = Frame(self.seen(), self.reward, self.discount, last)
        self.reward, self.discount = 0.0, 1.0
        return found
