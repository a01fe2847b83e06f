"""Training one pack of an experiment: one arm, a few seeds, as one population."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pliant.causes.attribution import disentangled
from pliant.data import Dataset, load
from pliant.experiment import Arm, Probing, Setup
from pliant.network import Network
from pliant.population import Member, Population, PopulationState
from pliant.probe import Training
from pliant.run.checkpoint import Checkpoint, Damaged
from pliant.stacking import at
from pliant.tasks import Batches, Stream

SWITCH = "task_switch"  # the event at the start of every task but the first
BLOCK = 50  # steps between two progress reports; batches are drawn by the block


class Interrupted(Exception):
    """The training was asked to stop; what was done is kept."""


@dataclass
class Trained:
    """What training a pack gave: a table of columns a seed, and how it ran."""

    tables: dict[int, dict[str, np.ndarray]]
    mode: str


def worth_compiling(setup: Setup) -> bool:
    """Whether compiling the gradient (5 to 20 s a pack) pays: a function of the plan alone, so that runs repeat."""
    return setup.task.num_steps >= 10_000


def inputs(setup: Setup) -> Dataset:
    """The data set of an experiment, scaled as it asks; fetched if need be."""
    data = load(setup.data)
    if setup.standardize:
        return data
    return replace(data, mean=(0.0,) * len(data.mean), std=(1.0,) * len(data.std))


def train(
    setup: Setup,
    arm: Arm,
    seeds: list[int],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: bool | None = None,
    checkpoint: Checkpoint | None = None,
    every_seconds: float = 60.0,
    on_progress: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains the seeds of an arm as one population and measures on the way.

    With a checkpoint, training goes on where it was left, to the same numbers as without a break (bitwise, under the
    conditions the checkpoint records), and is kept every `every_seconds` and when it is interrupted.

    `on_progress(step)` is called every few steps; what it raises ends the training.
    """
    start = time.perf_counter()
    setup = replace(setup, task=arm.task or setup.task)
    stream = setup.task.bind(inputs(setup), seeds, device=device, dtype=dtype)
    population = _population(setup, arm, stream, device, dtype, worth_compiling(setup) if compile is None else compile)
    state = population.init()
    recorder = _Recorder(len(seeds))
    first, mode = _restore(checkpoint, population, state, recorder)
    start -= recorder.seconds()
    kept = time.monotonic()

    def keep() -> None:
        if checkpoint is not None and state.step > first:
            about = {"step": state.step, "diverged_at": state.diverged_at, "mode": population.mode}
            leaves = {f"state/{i:04d}": leaf for i, leaf in enumerate(population.leaves(state))}
            checkpoint.save(leaves | recorder.tensors(), about)

    for block in range(first, setup.task.num_steps, BLOCK):
        try:
            on_progress(block)
        except Interrupted:
            keep()
            raise
        if time.monotonic() - kept > every_seconds:
            keep()
            kept = time.monotonic()
        for batch in stream.batches(block, min(block + BLOCK, setup.task.num_steps)):
            _step(setup, population, state, stream, batch, recorder, start)
            if mode not in (None, population.mode):
                raise ValueError(
                    f"the checkpoint was made by a {mode} population, here it is {population.mode}, so going on would "
                    "not give the same numbers: start over with --rerun"
                )
    on_progress(setup.task.num_steps)
    return Trained(dict(zip(seeds, recorder.tables(state.diverged_at), strict=True)), population.mode)


def seconds_per_step(setup: Setup, arm: Arm, seeds: list[int], device: str = "cpu", steps: int = 20) -> float:
    """The time of one optimizer step of a pack, the median over a few, without measurements."""
    setup = replace(setup, task=arm.task or setup.task)
    stream = setup.task.bind(inputs(setup), seeds, device=device)
    population = _population(setup, arm, stream, device, torch.float32, worth_compiling(setup))
    state, took = population.init(), []
    for batch in stream.batches(0, steps):
        start = time.perf_counter()
        population.step(state, batch.x, batch.y)
        took.append(time.perf_counter() - start)
    return float(np.median(took))


def _step(
    setup: Setup,
    population: Population,
    state: PopulationState,
    stream: Stream,
    batch: Batches,
    recorder: _Recorder,
    start: float,
) -> None:
    """One optimizer step, the switch before it where one is due, and what is measured after it."""
    task, into = divmod(state.step, setup.task.every)
    if into == 0 and task > 0:
        population.fire(state, SWITCH)
    done = state.step + 1
    end = done % setup.task.every == 0
    measured = end or (setup.measure_every and done % setup.measure_every == 0)
    before = {k: p.clone() for k, p in state.params.items()} if measured or into < setup.dense else None
    losses = population.step(state, batch.x, batch.y)
    if before is None:
        return
    update = {k: state.params[k] - old for k, old in before.items()}
    row: dict[str, Tensor] = {"batch_loss": losses, "update_norm": _norms(update)}
    if measured:
        row |= _measure(setup, population, state, stream, task, update)
    if end and setup.probing is not None and task in setup.probing.tasks:
        row |= _probe(setup.probing, population, state, stream, task)
    recorder.add(row, step=done, task=task, end=end, elapsed_seconds=time.perf_counter() - start)


def _restore(
    checkpoint: Checkpoint | None, population: Population, state: PopulationState, recorder: _Recorder
) -> tuple[int, str | None]:
    """Takes up what the checkpoint holds; returns the step and the mode, or 0 and None."""
    try:
        found = checkpoint.load() if checkpoint is not None else None
    except Damaged as error:
        assert checkpoint is not None
        warnings.warn(
            f"{error}; it is set aside as {checkpoint.set_aside().name} and the pack starts over", stacklevel=3
        )
        return 0, None
    if found is None:
        return 0, None
    tensors, about = found
    for i, leaf in enumerate(population.leaves(state)):
        leaf.copy_(tensors[f"state/{i:04d}"])
    recorder.restore(tensors)
    state.step, state.diverged_at = about["step"], list(about["diverged_at"])
    return state.step, about["mode"]


def _population(setup: Setup, arm: Arm, stream: Stream, device: str, dtype: torch.dtype, compile: bool) -> Population:
    outputs = setup.task.num_outputs(stream.data)
    example = stream.examples(0, most=4).x[0].to("cpu", torch.float32)
    with torch.random.fork_rng(devices=[]):
        module = arm.chain.build(setup.net(tuple(stream.data.shape), outputs), example)
    members = [Member(seed, arm.optimizer, arm.chain) for seed in stream.seeds]
    if silent := sorted(arm.chain.events - {SWITCH}):
        names = ", ".join(map(repr, silent))
        warnings.warn(f"{arm.label} waits for {names}, but this task fires {SWITCH!r} only", stacklevel=3)
    return Population(
        Network(module, example=example), setup.task.loss, members, compile=compile, device=device, dtype=dtype
    )


def _measure(
    setup: Setup, population: Population, state: PopulationState, stream: Stream, task: int, update: dict[str, Tensor]
) -> dict[str, Tensor]:
    examples = stream.examples(task, setup.evaluate)
    outputs = population.outputs(state.params, examples.x)
    found = population.measure(setup.diagnostics, state, examples.x, examples.y, update)
    with torch.no_grad():
        each = [setup.task.loss(output, y) for output, y in zip(outputs, examples.y, strict=True)]
    found["loss"] = torch.stack(each)
    if not examples.y.is_floating_point():
        found["accuracy"] = (outputs.argmax(-1) == examples.y).to(population.dtype).mean(1)
    return found


def _probe(
    probing: Probing, population: Population, state: PopulationState, stream: Stream, task: int
) -> dict[str, Tensor]:
    """What each mechanism took of every member's plasticity; NaN for members that diverged."""
    x = stream.examples(task, probing.examples).x
    rows: list[dict[str, float]] = []
    for m, member in enumerate(population.members):
        if state.diverged_at[m] >= 0:
            rows.append({})
            continue
        params = {name: p.clone() for name, p in at(state.params, m).items()}
        moments = {kind: group if kind == "step" else at(group, m) for kind, group in state.moments.items()}
        found = disentangled(
            population.network, params, x[m], Training(member.optimizer, moments=moments), probing.probe,
            repairs=probing.repairs, targets=probing.targets, steps=probing.steps, batch_size=probing.batch_size,
            seed=member.seed,
        )  # fmt: skip
        taken = dict(zip((repair.name for repair in found.repairs), found.recovered.mean(1).tolist(), strict=True))
        row = {f"lost/{repair.name}": taken.get(repair.name, 0.0) for repair in probing.repairs}
        row |= {"lost": found.gap.mean, "lost/unexplained": found.gap.mean - sum(row.values())}
        rows.append(row | {"probe_baseline": float(found.probed.baseline.mean())})
    names = {name for row in rows for name in row}
    return {name: torch.tensor([row.get(name, math.nan) for row in rows], dtype=torch.float64) for name in names}


def _norms(update: dict[str, Tensor]) -> Tensor:
    return torch.stack([u.reshape(len(u), -1).square().sum(1) for u in update.values()]).sum(0).sqrt()


class _Recorder:
    """Rows that may lack columns, as one table of NaN-filled columns a member."""

    def __init__(self, members: int):
        self.members, self.rows = members, []

    def add(self, row: dict[str, Tensor], **shared: float) -> None:
        self.rows.append(({name: v.detach().to("cpu", torch.float64).numpy() for name, v in row.items()}, shared))

    def seconds(self) -> float:
        """How long the training has taken until its last row."""
        return self.rows[-1][1]["elapsed_seconds"] if self.rows else 0.0

    def tensors(self) -> dict[str, Tensor]:
        """All rows as tensors by name: `rows/<column>` of shape (rows, members), `shared/<column>` of shape (rows,)."""
        missing = np.full(self.members, np.nan)
        rows = {
            f"rows/{n}": torch.from_numpy(np.array([r.get(n, missing) for r, _ in self.rows])) for n in self._names()
        }
        keys = self.rows[0][1] if self.rows else {}
        return rows | {f"shared/{k}": torch.from_numpy(np.array([s[k] for _, s in self.rows])) for k in keys}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The rows that `tensors` gave."""
        rows = {n.removeprefix("rows/"): t.numpy() for n, t in tensors.items() if n.startswith("rows/")}
        shared = {n.removeprefix("shared/"): t.tolist() for n, t in tensors.items() if n.startswith("shared/")}
        for i in range(len(next(iter(shared.values()), []))):
            row = {name: values[i] for name, values in rows.items() if not np.isnan(values[i]).all()}
            self.rows.append((row, {name: values[i] for name, values in shared.items()}))

    def tables(self, diverged_at: list[int]) -> list[dict[str, np.ndarray]]:
        """One table a member, in the order of the columns' names."""
        tables = []
        for member in range(self.members):
            table = {key: np.array([shared[key] for _, shared in self.rows]) for key in sorted(self.rows[0][1])}
            for name in self._names():
                table[name] = np.array([row[name][member] if name in row else np.nan for row, _ in self.rows])
            table["diverged_at"] = np.full(len(self.rows), diverged_at[member])
            left = diverged_at[member]
            if left >= 0:
                for name in self._names():
                    table[name][table["step"] > left] = np.nan
            tables.append(table)
        return tables

    def _names(self) -> list[str]:
        return sorted({name for row, _ in self.rows for name in row})
