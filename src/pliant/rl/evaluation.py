"""Evaluation as dqn_zoo does it: phases between stretches of training, in games of their own, of so many frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.functional.draws import draw
from pliant.rl.envs import Emulator, Environment
from pliant.rl.episodes import Episodes, watched
from pliant.rl.frames import FrameReplay


@dataclass(frozen=True)
class Evaluation:
    """When agents are evaluated, and for how long: before training, and after every so many frames of it.

    A phase plays games of its own, with parameters as they are. The score is the mean return, not clipped, of the
    episodes that ended within it; where none did, the return so far. After a phase training goes on with a new episode.

    Args:
        every: frames of training between phases.
        frames: of a phase.
        epsilon: the share of random actions; agents that draw their actions take their means.

    Raises:
        ValueError: a number of frames is below 1, or `epsilon` not in [0, 1].

    >>> Evaluation()
    Evaluation(every=1000000, frames=500000, epsilon=0.01)

    Source: Quan & Ostrovski 2020 (dqn_zoo).
    """

    every: int = 1_000_000
    frames: int = 500_000
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        for name in ("every", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of Evaluation to be at least 1, got {getattr(self, name)}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"expected epsilon of Evaluation in [0, 1], got {self.epsilon}")


@dataclass
class Phases:
    """Evaluations so far, and the one under way; one entry a member.

    Attributes:
        episodes: the games.
        latest: what was seen latest, as states are made of it.
        total: returns of the episodes that ended in this phase, added up.
        ended: how many these are.
        frames: of this phase, so far.
        done: phases that are over.

    >>> from pliant.rl import Catch
    >>> emulators = [Catch(3, 3).emulator(0)]
    >>> phases = Phases.none(emulators[0], Catch(3, 3).limit, 1, 1, torch.uint8)
    >>> settings, training = Evaluation(every=100, frames=6), Episodes.none(1, 2)
    >>> *_, row = phases.rows(settings, emulators, training, lambda frame: torch.tensor([1]))
    >>> -1.0 <= row["score"].item() <= 1.0, phases.done, phases.due(settings, 100)
    (True, 1, True)
    """

    episodes: Episodes
    latest: FrameReplay
    total: list[float]
    ended: list[int]
    frames: int = 0
    done: int = 0

    @classmethod
    def none(
        cls, emulator: Emulator, limit: int, members: int, stack: int, kind: torch.dtype, device: str = "cpu"
    ) -> Phases:
        """Before the first phase."""
        return cls(
            Episodes.none(members, limit, emulator.num_controls),
            FrameReplay.empty(
                members, 1, emulator.shape, stack, dtype=kind, device=device, controls=emulator.num_controls
            ),
            [0.0] * members,
            [0] * members,
        )  # fmt: skip

    def due(self, settings: Evaluation, step: int) -> bool:
        """Whether a phase begins after so many frames of training, or is under way."""
        return self.done * settings.every == step

    def rows(
        self, settings: Evaluation, emulators: Sequence[Emulator], training: Episodes, act: Callable[[int], Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        """Plays the phase to its end, a frame a turn: nothing, but the `score` of each member at the last.

        Args:
            settings: of the phase.
            emulators: one a member.
            training: the games of training, which are cut at the end.
            act: gives each member's action where it is now, by the number of the frame, over all phases.
        """
        while True:
            if asked := watched(self.episodes, self.latest, emulators):
                action = act(self.done * settings.frames + self.frames)
                for m in asked:
                    self.episodes.decide(m, action[m])
            for m, reward in enumerate(self.episodes.reward):
                if not self.episodes.frames[m]:
                    self.total[m] += reward
                    self.ended[m] += 1
            self.frames += 1
            if self.frames == settings.frames:
                break
            yield {}
        parts = zip(self.total, self.ended, self.episodes.reward, strict=True)
        found = [total / ended if ended else reward for total, ended, reward in parts]
        self.total[:], self.ended[:] = [0.0] * len(found), [0] * len(found)
        self.frames, self.done = 0, self.done + 1
        self.episodes.cut()
        training.cut()
        yield {"score": torch.tensor(found, dtype=torch.float64)}


def evaluators(env: Environment, seeds: Sequence[int], phases: Phases | None) -> list[Emulator]:
    """Games of evaluations, others than those of training, where they are by now; none without evaluations.

    >>> from pliant.rl import Catch
    >>> evaluators(Catch(), [0, 1], None)
    []
    """
    if phases is None:
        return []
    made = [env.emulator(int(draw(seed, "evaluation").integers(2**31))) for seed in seeds]
    phases.episodes.bring_back(made)
    return made
