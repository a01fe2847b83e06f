"""What experiments with agents in games and in tasks of control share: when rows are taken, effects of claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pliant.claims import Effect
from pliant.probe import Probe
from pliant.results import Results
from pliant.trials import ProbeLoss, When


@dataclass(frozen=True)
class Replayed:
    """Settings of agents that learn from a replay by Adam, and are probed at the end.

    Args:
        num_steps: frames, or steps of control; the beginnings of episodes are among them.
        begin: those of random actions, before the first update.
        lr: of Adam, of every network.
        batch_size: transitions an update.
        capacity: of the replay.
        targets: of a probe.
        steps: of a probe.
        examples: of a probe.
        rows: how often numbers are taken.
    """

    num_steps: int
    begin: int
    lr: float
    batch_size: int
    capacity: int
    targets: int = 3
    steps: int = 400
    examples: int = 256
    rows: int = 40

    def probe(self, probe: Probe) -> ProbeLoss:
        """A probe of the agents at the end."""
        at_the_end = When(ends=False, at=(self.num_steps,))
        return ProbeLoss(probe, at_the_end, self.targets, self.steps, examples=self.examples)


def period(frames: int, rows: int, unit: int = 1) -> int:
    """Frames between rows, where there are so many rows: a multiple of `unit`.

    >>> period(1000, 30), period(1000, 30, unit=4)
    (33, 32)
    """
    return unit * max(1, frames // rows // unit)


def area(arm: str, column: str = "return") -> Effect:
    """The mean return over the learning curve, above that of random actions, one a seed.

    With `column="score"`, of evaluations, above that of the untrained network.

    >>> table = {"step": np.arange(3), "diverged_at": np.full(3, -1), "return": np.array([1.0, 2.0, 4.0])}
    >>> area("a")(Results({("a", 0): table})).tolist()
    [2.0]
    """

    def above(r: Results) -> np.ndarray:
        _, values = r.curve(arm, column)
        return np.nanmean(values[:, 1:], axis=1) - values[:, 0]

    return above


def gain(pairs: Sequence[tuple[str, str]], column: str = "return") -> Effect:
    """How much more area the first arm of each pair has, as a share of the second one's mean area, over pairs.

    >>> low = {"step": np.arange(2), "diverged_at": np.full(2, -1), "return": np.array([1.0, 2.0])}
    >>> high = {**low, "return": np.array([1.0, 2.5])}
    >>> gain([("a", "b")])(Results({("a", 0): high, ("b", 0): low})).tolist()
    [0.5]
    """

    def shares(r: Results) -> np.ndarray:
        found = []
        for changed, plain in pairs:
            areas = area(plain, column)(r)
            found.append((area(changed, column)(r) - areas) / np.mean(areas))
        return np.mean(found, axis=0)

    return shares


def rise(arm: str, column: str = "probe_loss") -> Effect:
    """How much a probe's loss rose from the untrained network to the end.

    >>> table = {"step": np.arange(2), "diverged_at": np.full(2, -1), "probe_loss": np.array([0.5, 0.75])}
    >>> rise("a")(Results({("a", 0): table})).tolist()
    [0.25]
    """
    return lambda r: r.last(arm, column) - r.first(arm, column)
