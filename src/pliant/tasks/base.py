"""What a task is: a pure function of (seed, step), handed over in blocks for a whole population."""

from __future__ import annotations

import math
from abc import ABC
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pliant.data import Dataset
from pliant.data.dataset import AT_HAND
from pliant.functional.draws import draw

AT_ONCE = 1 << 18  # numbers in the batches that are picked at once, where one has fewer


class Batches(NamedTuple):
    """Inputs and targets, each with a leading member axis.

    >>> Batches(torch.zeros(2, 16, 3), torch.zeros(2, 16)).x.shape
    torch.Size([2, 16, 3])
    """

    x: Tensor
    y: Tensor


class Examples(NamedTuple):
    """What one seed learns in one task.

    Attributes:
        rows: which examples of the training set.
        targets: one a row: class labels, or numbers `(rows,)` or `(rows, values)`.
        positions: a permutation of the input positions, or None.
        inputs: raw inputs, one a row, in place of the training set's, or None.
        held_out: which examples of the test set belong to the task, or None.

    >>> Examples(np.array([3, 1]), np.array([0, 9])).positions is None
    True
    """

    rows: np.ndarray
    targets: np.ndarray
    positions: np.ndarray | None = None
    inputs: np.ndarray | None = None
    held_out: np.ndarray | None = None


@dataclass(frozen=True)
class Task(ABC):
    """A stream of supervised tasks; `examples` says what is learned in each, which is all that a subclass changes.

    Each seed draws its own `num_examples` examples of the training set once. Minibatches run through shuffled epochs.

    Args:
        num_examples: how many examples each seed keeps, at most the training set.
        batch_size: at most `num_examples`.
        every: optimizer steps of each task, one number or one a task.
        num_tasks: how many tasks.

    >>> task = Task(num_examples=4, batch_size=2, every=10, num_tasks=3)  # nothing changes
    >>> task.num_steps, task.place(step=25)
    (30, (2, 5))
    >>> Task(num_examples=4, batch_size=2, every=(100, 10), num_tasks=2).place(step=105)
    (1, 5)
    """

    num_examples: int
    batch_size: int
    every: int | tuple[int, ...]
    num_tasks: int

    def __post_init__(self) -> None:
        for name in ("num_examples", "batch_size", "num_tasks"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        lengths = self.every if isinstance(self.every, tuple) else (self.every,)
        if min(lengths, default=0) < 1:
            raise ValueError(f"expected every to be at least 1, got {self.every}")
        if isinstance(self.every, tuple) and len(lengths) != self.num_tasks:
            raise ValueError(f"expected every to have one length for each of {self.num_tasks} tasks, got {self.every}")
        if self.batch_size > self.num_examples:
            raise ValueError(
                f"expected batch_size to be at most num_examples={self.num_examples}, got {self.batch_size}"
            )

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """How many steps are done at the end of each task."""
        return tuple(accumulate(self.every if isinstance(self.every, tuple) else (self.every,) * self.num_tasks))

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return self.ends[-1]

    def place(self, step: int) -> tuple[int, int]:
        """Which task a step belongs to, and how many steps of it come before."""
        task = bisect_right(self.ends, step)
        return task, step - (self.ends[task - 1] if task else 0)

    def size(self, task: int) -> int:
        """How many examples a seed has in a task."""
        return self.num_examples

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        """What a seed learns in a task; it may look at the inputs.

        `previous`, the examples of the task before, is a shortcut for whoever has them: the result is the same.
        """
        rows = self.own_rows(data, seed) if previous is None else previous.rows
        return Examples(rows, np.asarray(data.y_train[rows]))

    def own_rows(self, data: Dataset, seed: int) -> np.ndarray:
        """The examples that a seed keeps; `ValueError` for more than there are."""
        self.check_size(data)
        return draw(seed, "examples").permutation(len(data.x_train))[: self.num_examples]

    def check_size(self, data: Dataset) -> None:
        """Raises `ValueError` for more examples than the data set has."""
        if self.num_examples > len(data.x_train):
            raise ValueError(
                f"expected num_examples to be at most {len(data.x_train)}, the size of {data.name}, "
                f"got {self.num_examples}: write num_examples={len(data.x_train)}"
            )

    def bind(
        self, data: Dataset, seeds: list[int], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Stream:
        """The task over a data set, for a population with these seeds."""
        return Stream(self, data, seeds, torch.device(device), dtype)


class Stream:
    """A task bound to data and seeds. `batches(start, stop)` and `examples(task)` depend on (seed, step) alone.

    Inputs stay uint8 (or whatever the data set holds) until they are wanted, and are standardised on the device: once a
    task where those of all members take at most 64 MiB, else batch by batch.
    Epochs go on from task to task as long as the number of examples stays the same.

    >>> from pliant.data import load
    >>> from pliant.tasks import RandomLabels
    >>> stream = RandomLabels(num_examples=100, batch_size=16, every=10, num_tasks=3).bind(load("digits"), seeds=[0, 1])
    >>> x, y = next(stream.batches(0, 10))
    >>> x.shape, y.shape
    (torch.Size([2, 16, 1, 8, 8]), torch.Size([2, 16]))
    """

    def __init__(self, task: Task, data: Dataset, seeds: list[int], device: torch.device, dtype: torch.dtype):
        task.check_size(data)
        self.task, self.data, self.seeds, self.device, self.dtype = task, data, list(seeds), device, dtype
        self._rows: np.ndarray | None = None  # of the latest task, by member
        self._latest: tuple[int, list[Examples]] | None = None
        self._tasks: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._epochs: dict[tuple[int, int, int], np.ndarray] = {}
        self._ready: Tensor | None = None  # all inputs of the latest task, where they are at hand
        self._task(0)  # what does not fit shows now

    @property
    def y(self) -> Tensor:
        """The targets of the latest task, `(members, examples, ...)`."""
        return next(iter(self._tasks.values()))[0]

    def batches(self, start: int, stop: int) -> Iterator[Batches]:
        """The minibatches of steps `start` to `stop - 1`, each with a leading member axis."""
        while start < stop:
            task, _ = self.task.place(start)
            until = min(stop, self.task.ends[task])
            index = torch.from_numpy(self._indices(task, start, until)).to(self.device)
            many = max(1, AT_ONCE // (index[0].numel() * math.prod(self.data.shape)))
            for some in index.split(many):
                yield from map(Batches, *self._picked(task, some))
            start = until

    def examples(self, task: int, most: int | None = None) -> Batches:
        """The first `most` of every member's examples, with the targets they have in a task."""
        targets, positions = self._task(task)
        return Batches(self._inputs(self._where[:, :most], positions), targets[:, :most])

    def held_out(self, task: int, most: int | None = None) -> Batches:
        """The first `most` of every member's held-out examples of a task; `ValueError` where it has none."""
        self._task(task)
        assert self._latest is not None
        found = [examples.held_out for examples in self._latest[1]]
        if found[0] is None or self.data.x_test is None or self.data.y_test is None:
            raise ValueError(
                f"expected a task with held-out examples, such as Domains(num_held_out=100), got {self.task}"
            )
        rows = np.stack(found)[:, :most]  # type: ignore[arg-type]
        x, y = (torch.from_numpy(each[rows]).to(self.device) for each in (self.data.x_test, self.data.y_test))
        return Batches(self.data.standardize(x, dtype=self.dtype), y)

    def _picked(self, task: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of examples `(step, member, batch)` of a task."""
        targets, positions = self._task(task)
        members, n = targets.shape[:2]
        if self._ready is None and self._where.numel() * math.prod(self.data.shape) * self.dtype.itemsize <= AT_HAND:
            self._ready = self._inputs(self._where, positions).flatten(0, 1)
        place = (index + n * torch.arange(members, device=self.device)[:, None]).flatten()
        y = targets.flatten(0, 1).index_select(0, place).unflatten(0, index.shape)
        if self._ready is not None:
            return self._ready.index_select(0, place).unflatten(0, index.shape), y
        rows = self._where.flatten()[place].view(index.shape)
        return torch.stack([self._inputs(one, positions) for one in rows]), y

    def _indices(self, task: int, start: int, stop: int) -> np.ndarray:
        """Which examples steps of a task use: `(step, member, batch)`, from one shuffled order an epoch and seed."""
        n, size, begun = self.task.size(task), self.task.batch_size, task
        while begun and self.task.size(begun - 1) == n:
            begun -= 1
        first = self.task.ends[begun - 1] if begun else 0
        at = np.arange((start - first) * size, (stop - first) * size)
        out = np.empty((len(self.seeds), len(at)), dtype=np.int64)
        for member in range(len(self.seeds)):
            order = np.concatenate([self._epoch(member, first, e, n) for e in range(at[0] // n, at[-1] // n + 1)])
            out[member] = order[at - at[0] // n * n]
        return np.ascontiguousarray(out.reshape(len(self.seeds), stop - start, size).swapaxes(0, 1))

    def _epoch(self, member: int, first: int, epoch: int, size: int) -> np.ndarray:
        """The order of an epoch, counted from step `first`."""
        key = (member, first, epoch)
        if key not in self._epochs:
            if len(self._epochs) > 64 * len(self.seeds):
                self._epochs.clear()
            counters = (first, epoch) if first else (epoch,)
            self._epochs[key] = draw(self.seeds[member], "epoch", *counters).permutation(size)
        return self._epochs[key]

    def _task(self, task: int) -> tuple[Tensor, Tensor | None]:
        if task not in self._tasks:
            latest, found = self._latest or (None, [])
            previous = found if latest == task - 1 else [None] * len(self.seeds)
            pairs = zip(self.seeds, previous, strict=True)
            found = [self._checked(self.task.examples(self.data, seed, task, before)) for seed, before in pairs]
            self._latest = (task, found)
            self._keep(found)
            moved = [examples.positions for examples in found]
            positions = None
            if moved[0] is not None:
                positions, self._ready = torch.from_numpy(np.stack(moved)).to(self.device), None  # type: ignore[arg-type]
            y = torch.from_numpy(np.stack([examples.targets for examples in found])).to(self.device)
            if y.is_floating_point():
                y = y.to(self.dtype)
                y = y[..., None] if y.ndim == 2 else y
            self._tasks = {task: (y, positions)}
        return self._tasks[task]

    def _checked(self, examples: Examples) -> Examples:
        said, targets, classes = f"from {type(self.task).__name__}.examples", examples.targets, self.data.num_classes
        if len(targets) != len(examples.rows):
            raise ValueError(f"expected a target a row {said}, {len(examples.rows)}, got {len(targets)}")
        if targets.dtype.kind in "iu" and classes is not None and (targets.min() < 0 or targets.max() >= classes):
            raise ValueError(f"expected labels 0..{classes - 1} {said}, got {targets.min()} to {targets.max()}")
        return examples

    def _keep(self, found: list[Examples]) -> None:
        """Holds the inputs of each member's examples, those of several once, and no others."""
        rows, own = np.stack([examples.rows for examples in found]), [examples.inputs for examples in found]
        if own[0] is not None:
            kept, where = np.concatenate(own), np.arange(rows.size)  # type: ignore[arg-type]
        elif self._rows is not None and np.array_equal(rows, self._rows):
            return
        else:
            self._rows = rows
            kept, where = np.unique(rows, return_inverse=True)
            kept = self.data.x_train[kept]
        self._ready, self._pool = None, torch.from_numpy(np.ascontiguousarray(kept)).to(self.device)
        self._where = torch.from_numpy(where.reshape(rows.shape)).to(self.device)

    def _inputs(self, rows: Tensor, positions: Tensor | None) -> Tensor:
        raw = self._pool.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        x = self.data.standardize(raw, dtype=self.dtype)
        if positions is None:
            return x
        return x.flatten(2).gather(2, positions[:, None].expand(-1, x.shape[1], -1)).reshape(x.shape)


MOST = 0.01  # error that rounding may make, of targets whose own size is about 1


def check_rounding(offset: float | tuple[float, ...], size: float) -> None:
    """Raises `ValueError` for offsets so large that float32 rounds away the targets around them, which have this size.

    >>> check_rounding(1e8, 1.0)
    Traceback (most recent call last):
    ValueError: expected offsets that leave float32 room for targets of size 1 around them, got 1e+08: rounding moves a
    target by up to 4, which is a phase error of 4 rad where targets are sines
    """
    largest = float(np.max(np.abs(offset)))
    error = 0.5 * float(np.spacing(np.float32(largest))) if largest < 1e38 else math.inf
    if not error <= MOST * size:
        raise ValueError(
            f"expected offsets that leave float32 room for targets of size {size:g} around them, got {largest:g}: "
            f"rounding moves a target by up to {error:.2g}, which is a phase error of {error / size:.2g} rad where "
            "targets are sines"
        )
