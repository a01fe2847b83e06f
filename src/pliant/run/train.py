"""The runner: one pack of an experiment, a trial with a few seeds, from its start or from a checkpoint to its end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pliant.run import tree
from pliant.run.checkpoint import Checkpoint, Damaged, Pace
from pliant.run.rows import Rows
from pliant.trials import Run, Trial


class Interrupted(Exception):
    """The training was asked to stop; what was done is kept."""


@dataclass
class Trained:
    """What training a pack gave: a table of columns a seed, and how it ran."""

    tables: dict[int, dict[str, np.ndarray]]
    mode: str


def train(
    trial: Trial,
    seeds: Sequence[int],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    checkpoint: Checkpoint | None = None,
    pace: Pace | None = None,
    on_progress: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains a trial with some seeds, and keeps its rows.

    With a checkpoint, training goes on where it was left, to the same numbers as without a break (bitwise, under the
    conditions the checkpoint records), and is kept at the `pace` and when it is interrupted.

    `on_progress(step)` is called at every place to stop, which may be every step; what it raises ends the training.
    """
    start = time.perf_counter()
    run, rows = trial.start(seeds, device, dtype), Rows(seeds)
    mode = _restore(checkpoint, run, rows)
    first, start, pace = run.state.step, start - rows.seconds(), pace or Pace()

    def keep() -> None:
        if checkpoint is not None and run.state.step > first:
            state = {f"state/{path}": tensor for path, tensor in tree.tensors(run.state).items()}
            checkpoint.save(state | rows.tensors(), {"numbers": tree.numbers(run.state), "mode": mode_of(run)})

    on_progress(first)
    for row in run.rows:
        if row:
            rows.add(run.state.step, row, time.perf_counter() - start)
        if mode is not None:
            _check_mode(mode, mode_of(run))
        try:
            on_progress(run.state.step)
        except Interrupted:
            keep()
            raise
        if pace.due():
            keep()
            pace.wrote()
    return Trained(rows.tables(run.state.diverged_at), mode_of(run))


def seconds_per_step(trial: Trial, seeds: Sequence[int], device: str = "cpu", steps: int = 20) -> float:
    """The time of one step of a pack, the median over a few; refits come on top."""
    run, took, last = trial.start(seeds, device, torch.float32), [], 0
    start = time.perf_counter()
    for _ in run.rows:
        if run.state.step > last:
            took.append((time.perf_counter() - start) / (run.state.step - last))
        if run.state.step >= steps:
            break
        start, last = time.perf_counter(), run.state.step
    return float(np.median(took))


def mode_of(run: Run) -> str:
    """How the populations of a run are computed, such as `"vmap"`."""
    return "+".join(dict.fromkeys(population.mode for population in run.populations))


def _restore(checkpoint: Checkpoint | None, run: Run, rows: Rows) -> str | None:
    """Takes up what the checkpoint holds; returns the mode that it was made in, None where there is none."""
    try:
        found = checkpoint.load() if checkpoint is not None else None
    except Damaged as error:
        assert checkpoint is not None
        aside = checkpoint.set_aside().name
        warnings.warn(f"{error}; it is set aside as {aside} and the pack starts over", stacklevel=3)
        return None
    if found is None:
        return None
    tensors, about = found
    prefix = "state/"
    state = {path.removeprefix(prefix): tensor for path, tensor in tensors.items() if path.startswith(prefix)}
    tree.fill(run.state, state, about["numbers"])
    rows.restore(tensors)
    return about["mode"]


def _check_mode(kept: str, here: str) -> None:
    if kept != here:
        raise ValueError(
            f"the checkpoint was made by a {kept} population, here it is {here}, so going on would not give the same "
            "numbers: start over with --rerun"
        )
