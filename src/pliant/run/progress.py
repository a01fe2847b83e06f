"""The packs of a sweep, and how far they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pliant.experiment import Setup


class Pack(NamedTuple):
    """Seeds of one arm, trained as one population."""

    arm: str
    seeds: tuple[int, ...]


class Taken(NamedTuple):
    """Optimizer steps a seed of one pack, or the seconds that they took: of training, and of refits beside it."""

    steps: float = 0.0
    refits: float = 0.0


@dataclass
class Progress:
    """What a sweep has done so far.

    Args:
        work: the steps of each pack.
        running: how far each pack is that is under way.
        timed: the steps of each pack that were timed, and their seconds.
        kept: how many packs were there already.
    """

    work: dict[Pack, Taken]
    kept: int = 0
    finished: int = 0
    running: dict[Pack, Taken] = field(default_factory=dict)
    timed: dict[Pack, tuple[Taken, Taken]] = field(default_factory=dict)
    failed: dict[Pack, str] = field(default_factory=dict)
    there: set[Pack] = field(default_factory=set)  # kept or finished

    @property
    def packs(self) -> int:
        """How many packs there are."""
        return len(self.work)

    @property
    def total(self) -> float:
        """Steps of all packs, and of their refits."""
        return sum(sum(work) for work in self.work.values())

    @property
    def done(self) -> float:
        """Steps and refits of all packs that are taken."""
        return sum(sum(self.work[pack]) for pack in self.there) + sum(sum(taken) for taken in self.running.values())

    def finish(self, pack: Pack) -> None:
        """Notes that a pack is stored."""
        self.finished += 1
        self.there.add(pack)

    def tell(self, pack: Pack, told: tuple[Taken, Taken, Taken]) -> None:
        """Notes how far a pack is, which steps were timed, and their seconds."""
        self.running[pack] = told[0]
        self.timed[pack] = told[1], told[2]

    def left(self) -> float | None:
        """Seconds until all is done; None before anything was timed.

        A step of training and one of a refit take what they took so far, and each other's time where none was timed.
        """
        each = []
        for kind in (0, 1):
            seconds = sum(took[kind] for _, took in self.timed.values())
            steps = sum(steps[kind] for steps, _ in self.timed.values())
            each.append(seconds / steps if steps else None)
        known = [rate for rate in each if rate is not None]
        if not known:
            return None
        rates = [known[0] if rate is None else rate for rate in each]
        waiting = [pack for pack in self.work if pack not in self.there and pack not in self.failed]
        seconds = []
        for pack in waiting:
            rest = zip(self.work[pack], self.running.get(pack, Taken()), rates, strict=True)
            seconds.append(sum(max(0.0, whole - taken) * rate for whole, taken, rate in rest))
        return max([sum(seconds) / max(1, len(self.running)), *seconds], default=0.0)


def plan(setup: Setup, arms: Sequence[str], num_seeds: int, first: int = 0) -> list[Pack]:
    """The packs of `num_seeds` seeds from `first` on, as many in each as the arm's trial trains together."""
    seeds = range(first, first + num_seeds)

    def packs(arm: str) -> Iterator[Pack]:
        size = setup.arms[arm].trial.together
        return (Pack(arm, tuple(seeds[i : i + size])) for i in range(0, num_seeds, size))

    return [pack for arm in arms for pack in packs(arm)]


class Clock:
    """How far a pack is, and how long that took; making everything, up to the end of the first step, is not timed."""

    def __init__(self, work: Taken):
        self.work = work
        self.taken, self.timed, self.seconds = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
        self.begun, self.last = False, 0.0

    def step(self, step: int) -> None:
        """So many steps are taken; at first those before the checkpoint, with their share of the refits."""
        if self.begun:
            self._add(0, step - self.taken[0])
        else:
            self.begun, self.taken = True, [step, self.work.refits * step / self.work.steps]

    def refit(self, steps: float) -> None:
        """So many more steps of refits are taken."""
        self._add(1, steps)

    def told(self) -> tuple[Taken, Taken, Taken]:
        """For `Progress.tell`."""
        return Taken(*self.taken), Taken(*self.timed), Taken(*self.seconds)

    def _add(self, kind: int, steps: float) -> None:
        now, last = time.monotonic(), self.last
        self.taken[kind] += steps
        if last:
            self.timed[kind] += steps
            self.seconds[kind] += now - last
        self.last = now
