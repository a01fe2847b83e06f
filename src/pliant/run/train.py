"""The runner: one pack of an experiment, a trial with a few seeds, from its start or from a checkpoint to its end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from pliant.run import tree
from pliant.run.checkpoint import Checkpoint, Damaged, Pace
from pliant.run.rows import Rows
from pliant.run.segments import Segments
from pliant.trials import SAC, QLearning, Run, Supervised, Trial, ValueLearning


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
    segments = Segments(checkpoint.replay) if checkpoint is not None else None
    mode = _restore(checkpoint, segments, run, rows)
    first, start, pace = run.state.step, start - rows.seconds(), pace or Pace()

    def keep() -> None:
        if checkpoint is not None and segments is not None and run.state.step > first:
            rings = tree.rings(run.state)
            state = {f"state/{path}": t for path, t in tree.tensors(run.state).items() if path not in rings}
            about = {"numbers": tree.numbers(run.state), "mode": mode_of(run), "segments": segments.add(rings)}
            checkpoint.save(state | rows.tensors(), about)
            segments.settle(about["segments"])

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


class Cost(NamedTuple):
    """What a pack costs: the seconds of a step, and the bytes of its state, of its replay alone in `replay`."""

    seconds: float
    state: int
    replay: int


def cost(trial: Trial, seeds: Sequence[int], device: str = "cpu", steps: int = 20) -> Cost:
    """The cost of a pack; the seconds of a step are the median over a few, in which nothing is refitted.

    Of an agent they are the mean over frames, from its second update on, without evaluation.
    """
    first, learn_period = 0, 1
    if isinstance(trial, QLearning | SAC):
        trial, learn_period = trial.soon(), trial.learn_period
        first = trial.begin + learn_period
        steps = -(-steps // learn_period) * learn_period
    elif isinstance(trial, Supervised | ValueLearning):
        trial = replace(trial, measures=tuple(measure for measure in trial.measures if not measure.refits))
    run, took, last = trial.start(seeds, device, torch.float32), [], 0
    start = time.perf_counter()
    for _ in run.rows:
        if run.state.step > max(last, first):
            took.append((time.perf_counter() - start) / (run.state.step - last))
        if run.state.step >= first + steps:
            break
        start, last = time.perf_counter(), run.state.step
    seconds = float(np.median(took) if learn_period == 1 else np.mean(took))
    held = sum(tensor.nbytes for tensor in tree.tensors(run.state).values())
    return Cost(seconds, held, sum(ring.nbytes for ring, _ in tree.rings(run.state).values()))


def mode_of(run: Run) -> str:
    """How the populations of a run are computed, such as `"vmap"`."""
    return "+".join(dict.fromkeys(population.mode for population in run.populations))


def _restore(checkpoint: Checkpoint | None, segments: Segments | None, run: Run, rows: Rows) -> str | None:
    """Takes up what the checkpoint holds; returns the mode that it was made in, None where there is none."""
    if checkpoint is None or segments is None:
        return None
    try:
        found = checkpoint.load()
        if found is not None:
            segments.check(found[1]["segments"])
    except Damaged as error:
        aside = checkpoint.set_aside().name
        warnings.warn(f"{error}; it is set aside as {aside} and the pack starts over", stacklevel=3)
        return None
    if found is None:
        return None
    tensors, about = found
    prefix = "state/"
    state = {path.removeprefix(prefix): tensor for path, tensor in tensors.items() if path.startswith(prefix)}
    rings = tree.rings(run.state)
    tree.fill(run.state, state | {path: ring for path, (ring, _) in rings.items()}, about["numbers"])
    segments.read(about["segments"], rings)
    rows.restore(tensors)
    return about["mode"]


def _check_mode(kept: str, here: str) -> None:
    if kept != here:
        raise ValueError(
            f"the checkpoint was made by a {kept} population, here it is {here}, so going on would not give the same "
            "numbers: start over with --rerun"
        )
