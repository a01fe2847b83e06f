"""What a task is: a pure function of (seed, step), handed over in blocks for a whole population."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.data import Dataset


class Batches(NamedTuple):
    """Inputs and targets, each with a leading member axis.

    >>> Batches(torch.zeros(2, 16, 3), torch.zeros(2, 16)).x.shape
    torch.Size([2, 16, 3])
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Task(ABC):
    """A stream of supervised tasks over a fixed set of examples; what changes at a switch is up to the subclass.

    Each seed draws its own `num_examples` examples of the training set once. Minibatches run through shuffled epochs.

    Args:
        num_examples: how many examples each seed keeps, at most the training set.
        batch_size: at most `num_examples`.
        every: optimizer steps between two switches.
        num_tasks: how many tasks, so that training takes `every * num_tasks` steps.

    >>> task = Task(num_examples=4, batch_size=2, every=10, num_tasks=3)  # nothing changes
    >>> task.num_steps, task.task_at(step=25)
    (30, 2)
    """

    num_examples: int
    batch_size: int
    every: int
    num_tasks: int

    def __post_init__(self) -> None:
        for name in ("num_examples", "batch_size", "every", "num_tasks"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if self.batch_size > self.num_examples:
            raise ValueError(
                f"expected batch_size to be at most num_examples={self.num_examples}, got {self.batch_size}"
            )

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return self.every * self.num_tasks

    def task_at(self, step: int) -> int:
        """Which task a step belongs to."""
        return step // self.every

    def targets(
        self, seed: int, task: int, y: np.ndarray, num_classes: int | None, previous: np.ndarray | None = None
    ) -> np.ndarray:
        """Targets of the seed's examples in a task, given their own targets `y`.

        `previous`, the targets of the task before, is a shortcut for whoever has them: the result is the same.
        """
        return y

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What is minimised: the cross-entropy of class labels."""
        return F.cross_entropy

    def num_outputs(self, data: Dataset) -> int:
        """How many outputs a network needs: one a class."""
        if data.num_classes is None:
            raise ValueError(f"expected class labels in {data.name}, got a regression data set")
        return data.num_classes

    def positions(self, seed: int, task: int, size: int) -> np.ndarray | None:
        """A permutation of the `size` input positions in a task, or None."""
        return None

    def bind(
        self, data: Dataset, seeds: list[int], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Stream:
        """The task over a data set, for a population with these seeds."""
        return Stream(self, data, seeds, torch.device(device), dtype)


class Stream:
    """A task bound to data and seeds. `batches(start, stop)` and `examples(task)` depend on (seed, step) alone.

    Inputs stay uint8 (or whatever the data set holds) until a batch is drawn; a batch is standardised on the device.

    >>> from pliant.data import load
    >>> from pliant.tasks import RandomLabels
    >>> stream = RandomLabels(num_examples=100, batch_size=16, every=10, num_tasks=3).bind(load("digits"), seeds=[0, 1])
    >>> x, y = next(stream.batches(0, 10))
    >>> x.shape, y.shape
    (torch.Size([2, 16, 1, 8, 8]), torch.Size([2, 16]))
    """

    def __init__(self, task: Task, data: Dataset, seeds: list[int], device: torch.device, dtype: torch.dtype):
        if task.num_examples > len(data.x_train):
            raise ValueError(
                f"expected num_examples to be at most {len(data.x_train)}, the size of {data.name}, "
                f"got {task.num_examples}"
            )
        self.task, self.data, self.seeds, self.device, self.dtype = task, data, list(seeds), device, dtype
        rows = [draw(seed, "examples").permutation(len(data.x_train))[: task.num_examples] for seed in seeds]
        kept, where = np.unique(np.stack(rows), return_inverse=True)
        self._pool = torch.from_numpy(np.ascontiguousarray(data.x_train[kept])).to(device)  # shared by all members
        self._where = torch.from_numpy(where.reshape(len(seeds), -1)).to(device)
        self._own_targets = [np.asarray(data.y_train[r]) for r in rows]
        self._targets: dict[int, list[np.ndarray]] = {}  # of the latest task, by member
        self._tasks: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._epochs: dict[tuple[int, int], np.ndarray] = {}

    def batches(self, start: int, stop: int) -> Iterator[Batches]:
        """The minibatches of steps `start` to `stop - 1`, each with a leading member axis."""
        if start == stop:
            return
        index = torch.from_numpy(self._indices(start, stop)).to(self.device)
        members = torch.arange(len(self.seeds), device=self.device)[:, None]
        for step in range(start, stop):
            targets, positions = self._task(self.task.task_at(step))
            picked = index[step - start]
            yield Batches(self._inputs(self._where[members, picked], positions), targets[members, picked])

    def examples(self, task: int, most: int | None = None) -> Batches:
        """The first `most` of every member's examples, with the targets they have in a task."""
        targets, positions = self._task(task)
        return Batches(self._inputs(self._where[:, :most], positions), targets[:, :most])

    def _indices(self, start: int, stop: int) -> np.ndarray:
        """Which examples the steps use: `(step, member, batch)`, from one shuffled order an epoch and seed."""
        n, size = self.task.num_examples, self.task.batch_size
        at = np.arange(start * size, stop * size)
        out = np.empty((len(self.seeds), len(at)), dtype=np.int64)
        for member in range(len(self.seeds)):
            order = np.concatenate([self._epoch(member, e) for e in range(at[0] // n, at[-1] // n + 1)])
            out[member] = order[at - at[0] // n * n]
        return np.ascontiguousarray(out.reshape(len(self.seeds), stop - start, size).swapaxes(0, 1))

    def _epoch(self, member: int, epoch: int) -> np.ndarray:
        key = (member, epoch)
        if key not in self._epochs:
            if len(self._epochs) > 64 * len(self.seeds):
                self._epochs.clear()
            self._epochs[key] = draw(self.seeds[member], "epoch", epoch).permutation(self.task.num_examples)
        return self._epochs[key]

    def _task(self, task: int) -> tuple[Tensor, Tensor | None]:
        if task not in self._tasks:
            size = int(np.prod(self.data.shape))
            previous = self._targets.get(task - 1, [None] * len(self.seeds))
            targets = [
                self.task.targets(seed, task, y, self.data.num_classes, before)
                for seed, y, before in zip(self.seeds, self._own_targets, previous, strict=True)
            ]
            moved = [self.task.positions(seed, task, size) for seed in self.seeds]
            positions = None if moved[0] is None else torch.from_numpy(np.stack(moved)).to(self.device)  # type: ignore[arg-type]
            y = torch.from_numpy(np.stack(targets)).to(self.device)
            self._targets = {task: targets}
            self._tasks = {task: (y.to(self.dtype) if y.is_floating_point() else y, positions)}
        return self._tasks[task]

    def _inputs(self, rows: Tensor, positions: Tensor | None) -> Tensor:
        x = self.data.standardize(self._pool[rows], dtype=self.dtype)
        if positions is None:
            return x
        return x.flatten(2).gather(2, positions[:, None].expand(-1, x.shape[1], -1)).reshape(x.shape)


def draw(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator that is a function of its arguments alone; purposes do not share numbers."""
    return np.random.default_rng([seed, *purpose.encode(), 0, *counters])
