"""Supervised training on a stream of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.data import Dataset, load
from pliant.heads import Head
from pliant.interventions import Chain
from pliant.optim import Optimizer
from pliant.population import Population, PopulationState
from pliant.tasks import Stream, Task
from pliant.trials.base import Row, Run
from pliant.trials.building import BLOCK, Net, built, several
from pliant.trials.measures import HeldOut, Measure, Moment, brief

SWITCH = "task_switch"  # the event at the start of every task but the first


@dataclass(frozen=True)
class Supervised:
    """Networks trained on a stream of tasks, one optimizer step a minibatch, a population of all seeds.

    A row is made at every step at which some measure is due. It has `task` (from 0), `end` (whether it closes a task),
    `batch_loss` and `update_norm` of the step, and what the measures say after it.

    Args:
        task: the stream of tasks.
        data: a data set's name, or the path of an .npz file.
        net: a function of (input shape, number of outputs) that builds the network; its first and all later draws of
            parameters are as the function makes them.
        optimizer: of the networks.
        chain: the interventions.
        head: what makes values of the outputs, where numbers are learned otherwise than by squared error.
        measures: what is measured, and when.
        standardize: inputs with mean 0 and variance 1 a channel; otherwise scaled to [0, 1].
        together: seeds that are trained as one population.

    >>> from functools import partial
    >>> from pliant.nets import MLP
    >>> from pliant.optim import Adam
    >>> from pliant.tasks import RandomLabels
    >>> from pliant.trials import Fit
    >>> task = RandomLabels(num_examples=32, batch_size=8, every=2, num_tasks=2)
    >>> trial = Supervised(task, "digits", partial(MLP, hidden=(8,)), Adam(1e-3), measures=(Fit(),))
    >>> [row["task"].tolist() for row in trial.start([0, 1]).rows if row]
    [[0, 0], [1, 1]]
    """

    task: Task
    data: str
    net: Net
    optimizer: Optimizer
    chain: Chain = field(default_factory=Chain)
    head: Head | None = None
    measures: tuple[Measure, ...] = ()
    standardize: bool = True
    together: int = 5

    def __post_init__(self) -> None:
        several(self.chain, self.measures)

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return self.task.num_steps

    @property
    def refits(self) -> int:
        """Optimizer steps of the measures' refits."""
        return sum(measure.refits for measure in self.measures)

    def brief(self) -> Supervised:
        """A step a task, all measures at work, each refit a step."""
        return replace(self, task=replace(self.task, every=1), measures=tuple(map(brief, self.measures)))

    def start(self, seeds: Sequence[int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
        """The population at its first step; `ValueError` for what does not fit together."""
        stream = self.task.bind(self.inputs(), list(seeds), device=device, dtype=dtype)
        population = self._population(stream, device, dtype)
        state = population.init()
        return Run(state, self._rows(stream, population, state), (population,))

    def inputs(self) -> Dataset:
        """The data set, scaled as it is trained on; fetched if need be."""
        data = load(self.data)
        if self.standardize:
            return data
        return replace(data, mean=(0.0,) * len(data.mean), std=(1.0,) * len(data.std))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch: the head's, or the cross-entropy of class labels, the mean squared error of numbers."""
        if self.head is not None:
            return self.head.loss(self.head.split(output), self.head.encode(target))
        return F.mse_loss(output, target) if target.is_floating_point() else F.cross_entropy(output, target)

    def _num_outputs(self, stream: Stream) -> int:
        if not stream.y.is_floating_point():
            if self.head is not None:
                raise ValueError(f"expected numbers to learn with {self.head}, got class labels: leave head out")
            assert stream.data.num_classes is not None
            return stream.data.num_classes
        values = stream.y.shape[-1]
        return values if self.head is None else values * self.head.num_outputs

    def _population(self, stream: Stream, device: str, dtype: torch.dtype) -> Population:
        outputs = self._num_outputs(stream)
        example = stream.examples(0, most=4).x[0].to("cpu", torch.float32)
        return built(
            self.net, outputs, example, self.chain, self.optimizer, self.loss, stream.seeds, (SWITCH,), self.num_steps,
            device, dtype,
        )  # fmt: skip

    def _rows(self, stream: Stream, population: Population, state: PopulationState) -> Iterator[Row]:
        while state.step < self.num_steps:
            stop = min((state.step // BLOCK + 1) * BLOCK, self.num_steps)
            for batch in stream.batches(state.step, stop):
                task, into = self.task.place(state.step)
                if into == 0 and task > 0:
                    population.fire(state, SWITCH)
                moment = Moment(state.step + 1, task, into + 1, state.step + 1 == self.task.ends[task])
                due = [measure for measure in self.measures if measure.when(moment)]
                before = {name: p.clone() for name, p in state.params.items()} if due else {}
                losses = population.step(state, batch.x, batch.y)
                if not due:
                    yield {}
                    continue
                update = {name: state.params[name] - old for name, old in before.items()}
                shared = {"task": torch.full((len(population),), task), "end": torch.tensor([moment.end] * len(losses))}
                row = {**shared, "batch_loss": losses, "update_norm": _norms(update)}
                looked_at = {}
                for measure in due:
                    of = stream.held_out if isinstance(measure, HeldOut) else stream.examples
                    if (of, measure.examples) not in looked_at:
                        looked_at[of, measure.examples] = of(task, measure.examples)
                    row |= measure(population, state, *looked_at[of, measure.examples], update)
                del looked_at, update
                yield row


def _norms(update: dict[str, Tensor]) -> Tensor:
    return torch.stack([u.reshape(len(u), -1).square().sum(1) for u in update.values()]).sum(0).sqrt()
