"""Training one pack of an experiment: one arm, a few seeds, as one population."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pliant.data import Dataset, load
from pliant.experiment import Arm, Setup
from pliant.network import Network
from pliant.population import Member, Population, PopulationState
from pliant.tasks import Stream

BLOCK = 50  # steps between two progress reports; batches are drawn by the block


@dataclass
class Trained:
    """What training a pack gave: a table of columns a seed, and how it ran."""

    tables: dict[int, dict[str, np.ndarray]]
    mode: str


def worth_compiling(setup: Setup) -> bool:
    """Whether compiling the gradient (5 to 20 s) pays: a function of the plan alone, so that a run can be repeated."""
    return setup.task.num_steps >= 2000


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
    on_progress: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains the seeds of an arm as one population and measures on the way.

    `on_progress(step)` is called every few steps; what it raises ends the training.
    """
    start = time.perf_counter()
    stream = setup.task.bind(inputs(setup), seeds, device=device, dtype=dtype)
    population = _population(setup, arm, stream, device, dtype, worth_compiling(setup) if compile is None else compile)
    state = population.init()
    recorder = _Recorder(len(seeds))
    for step, batch in _steps(stream, setup.task.num_steps, on_progress):
        if step and step % setup.task.every == 0:
            population.fire(state, "task_switch")
        into, done = step % setup.task.every, step + 1
        end = done % setup.task.every == 0
        measured = end or (setup.measure_every and done % setup.measure_every == 0)
        before = {k: p.clone() for k, p in state.params.items()} if measured or into < setup.dense else None
        losses = population.step(state, batch.x, batch.y)
        if before is None:
            continue
        update = {k: state.params[k] - old for k, old in before.items()}
        row: dict[str, Tensor] = {"batch_loss": losses, "update_norm": _norms(update)}
        if measured:
            row |= _measure(setup, population, state, stream, setup.task.task_at(step), update)
        seconds = time.perf_counter() - start
        recorder.add(row, step=done, task=setup.task.task_at(step), end=end, elapsed_seconds=seconds)
    on_progress(setup.task.num_steps)
    return Trained(dict(zip(seeds, recorder.tables(state.diverged_at), strict=True)), population.mode)


def _population(setup: Setup, arm: Arm, stream: Stream, device: str, dtype: torch.dtype, compile: bool) -> Population:
    classes = stream.data.num_classes
    if classes is None:
        raise ValueError(f"expected class labels in {stream.data.name}, got a regression data set")
    example = stream.examples(0, most=4).x[0].to("cpu", torch.float32)
    with torch.random.fork_rng(devices=[]):
        module = arm.chain.build(setup.net(tuple(stream.data.shape), classes), example)
    members = [Member(seed, arm.optimizer, arm.chain) for seed in stream.seeds]
    return Population(Network(module), F.cross_entropy, members, compile=compile, device=device, dtype=dtype)


def _steps(stream: Stream, total: int, on_progress: Callable[[int], None]) -> Iterator:
    for start in range(0, total, BLOCK):
        on_progress(start)
        yield from enumerate(stream.batches(start, min(start + BLOCK, total)), start)


def _measure(
    setup: Setup, population: Population, state: PopulationState, stream: Stream, task: int, update: dict[str, Tensor]
) -> dict[str, Tensor]:
    examples = stream.examples(task, setup.evaluate)
    outputs = population.outputs(state, examples.x)
    right = (outputs.argmax(-1) == examples.y).to(population.dtype).mean(1)
    loss = F.cross_entropy(outputs.flatten(0, 1), examples.y.flatten(), reduction="none").reshape(examples.y.shape)
    found = population.measure(setup.diagnostics, state, examples.x, examples.y, update)
    return {"accuracy": right, "loss": loss.mean(1), **found}


def _norms(update: dict[str, Tensor]) -> Tensor:
    return torch.stack([u.flatten(1).square().sum(1) for u in update.values()]).sum(0).sqrt()


class _Recorder:
    """Rows that may lack columns, as one table of NaN-filled columns a member."""

    def __init__(self, members: int):
        self.members, self.rows = members, []

    def add(self, row: dict[str, Tensor], **shared: float) -> None:
        self.rows.append(({name: v.detach().to("cpu", torch.float64).numpy() for name, v in row.items()}, shared))

    def tables(self, diverged_at: list[int]) -> list[dict[str, np.ndarray]]:
        names = list(dict.fromkeys(name for row, _ in self.rows for name in row))
        tables = []
        for member in range(self.members):
            table = {key: np.array([shared[key] for _, shared in self.rows]) for key in self.rows[0][1]}
            for name in names:
                table[name] = np.array([row[name][member] if name in row else np.nan for row, _ in self.rows])
            table["diverged_at"] = np.full(len(self.rows), diverged_at[member])
            at = diverged_at[member]
            if at >= 0:
                for name in names:
                    table[name][table["step"] > at] = np.nan
            tables.append(table)
        return tables
