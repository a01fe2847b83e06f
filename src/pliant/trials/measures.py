"""Measures: what is looked at in a population, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pliant.causes import Repair
from pliant.causes.attribution import coalitions_at_most, disentangled
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.heads import Head
from pliant.network import Params
from pliant.population import Population, PopulationState
from pliant.probe import Probe, Training
from pliant.stacking import at
from pliant.trials.base import Row, telling


class Moment(NamedTuple):
    """A step of a stream of tasks: how many steps were taken with it, its task, its place in that task, and whether it
    is the last one there.

    >>> Moment(step=20, task=1, into=10, end=True).task
    1
    """

    step: int
    task: int
    into: int
    end: bool


@dataclass(frozen=True)
class When:
    """At which steps something is measured; all of it together, within `tasks`.

    A trial that looks before its first step (step 0, no step into a task) measures everything there.

    Args:
        every: at every so many steps; 0 for none.
        ends: at the end of each task.
        first: at each of the first so many steps of a task.
        tasks: only in these tasks, counted from 0.
        at: at each of these steps.

    >>> when = When(every=5, first=1)
    >>> [step for step in range(1, 25) if when(Moment(step, (step - 1) // 12, (step - 1) % 12 + 1, step % 12 == 0))]
    [1, 5, 10, 12, 13, 15, 20, 24]
    """

    every: int = 0
    ends: bool = True
    first: int = 0
    tasks: tuple[int, ...] | None = None
    at: tuple[int, ...] = ()

    def __call__(self, moment: Moment) -> bool:
        """Whether the step is among them."""
        if self.tasks is not None and moment.task not in self.tasks:
            return False
        regular = self.every > 0 and moment.step % self.every == 0
        return regular or (self.ends and moment.end) or moment.into <= self.first or moment.step in self.at


def brief(measure: Any) -> Any:
    """A measure that is at work in a trial of a step a task, and takes as few steps as can be.

    >>> brief(Fit(When(every=100)))
    Fit(when=When(every=1, ends=True, first=0, tasks=None, at=()), examples=4096, head=None)
    """
    steps = {"steps": 1} if hasattr(measure, "steps") else {}
    return replace(measure, when=replace(measure.when, every=min(measure.when.every, 1)), **steps)


class Measure(Protocol):
    """A frozen dataclass: numbers of every member, at certain moments.

    Attributes:
        when: the moments.
        examples: how many of a member's examples it looks at, at most.
        refits: optimizer steps a seed that it takes in one trial, at most.

    >>> isinstance(Numbers(()).when, When)
    True
    """

    @property
    def when(self) -> When: ...

    @property
    def examples(self) -> int: ...

    @property
    def refits(self) -> int: ...

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        """One number, or one array, a member by name; training is not touched.

        Args:
            population: the members.
            state: of the population.
            x: inputs of each member, with the member axis.
            y: their targets now.
            update: the latest change of the parameters.
        """
        ...


@dataclass(frozen=True)
class Fit:
    """The loss on a member's examples, and the accuracy where targets are class labels.

    With a head, `error` is the mean squared error of the predicted values, on one scale whatever the head.

    >>> Fit().examples
    4096
    """

    when: When = When()
    examples: int = 4096
    head: Head | None = None
    refits = 0

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        outputs = population.outputs(state.params, x)
        with torch.no_grad():
            each = [population.loss(output, target) for output, target in zip(outputs, y, strict=True)]
        found = {"loss": torch.stack(each)}
        if not y.is_floating_point():
            found["accuracy"] = (outputs.argmax(-1) == y).to(population.dtype).mean(1)
        elif self.head is not None:
            found["error"] = (self.head.value(self.head.split(outputs)) - y).square().flatten(1).mean(1)
        return found


@dataclass(frozen=True)
class HeldOut(Fit):
    """What `Fit` says, of the task's held-out examples (`Domains`): `held_out_loss`, `held_out_accuracy`.

    With class labels, `held_out_constant` is the best accuracy there of a network that always says the same.

    >>> HeldOut(examples=100).when.ends
    True
    """

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        found = super().__call__(population, state, x, y, update)
        if not y.is_floating_point():
            most = torch.stack([labels.bincount().max() for labels in y])
            found["constant"] = most.to(population.dtype) / y.shape[1]
        return {f"held_out_{name}": values for name, values in found.items()}


@dataclass(frozen=True)
class Steps:
    """A row with no more than what every row of the trial has, such as the batch loss.

    >>> Steps(When(first=100, ends=False)).examples
    0
    """

    when: When
    examples = refits = 0

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        return {}


@dataclass(frozen=True)
class Numbers:
    """Scalars of diagnostics.

    >>> from pliant.diagnostics import DeadUnits
    >>> Numbers((DeadUnits(),), When(every=100)).diagnostics
    (DeadUnits(tolerance=0.0),)
    """

    diagnostics: tuple[Diagnostic, ...]
    when: When = When()
    examples: int = 4096
    refits = 0

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        return population.measure(self.diagnostics, state, x, y, update)


@dataclass(frozen=True)
class Arrays:
    """Arrays of fixed shape: histograms, spectra, kernels.

    Args:
        quantities: functions of an `Observation` of one network, by the column they fill; run under `vmap`.
        needs: the fields of `Observation` that they read beside `params`.
        when: the moments.
        examples: how many of a member's examples are looked at, at most.

    >>> Arrays({"weights": lambda seen: torch.histc(seen.params["weight"], 4, -2, 2)}).needs
    frozenset()
    """

    quantities: Mapping[str, Callable[[Observation], Tensor]]
    needs: frozenset[str] = frozenset()
    when: When = When()
    examples: int = 512
    refits = 0

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        """The arrays of one network."""
        return {name: quantity(seen) for name, quantity in self.quantities.items()}

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        return population.measure([self], state, x, y, update)


@dataclass(frozen=True)
class Mechanisms:
    """How much of its plasticity every member has lost, and to which mechanism, as `pliant.disentangle` says.

    `lost` is the final probe loss less that of fresh networks, `lost/<repair>` what each mechanism took of it, which
    with `lost/unexplained` sums to `lost`; `probe_fresh` is the loss of fresh networks, `probe_baseline` the constant
    predictor's; NaN for a member that diverged. Refits use the member's optimizer, with its state, without its
    interventions.

    Args:
        probe: the targets.
        repairs: the mechanisms.
        when: the moments.
        targets: how many.
        steps: of each refit.
        batch_size: of the refits.
        examples: how many of each member's examples are the inputs, at most.

    >>> from pliant.causes import Norm, Units
    >>> from pliant.probe import Sines
    >>> Mechanisms(Sines(), (Units(), Norm()), When(tasks=(4, 9)), targets=3, steps=100).refits
    3000
    """

    probe: Probe
    repairs: tuple[Repair, ...]
    when: When
    targets: int
    steps: int
    batch_size: int = 128
    examples: int = 1024

    @property
    def refits(self) -> int:
        """Steps of all refits of a seed, at most: repairs that find nothing to do are left out."""
        return len(self.when.tasks or ()) * self.targets * (coalitions_at_most(len(self.repairs)) + 1) * self.steps

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        rows = [self._of(population, state, x, m) for m in range(len(population))]
        names = {name for row in rows for name in row}
        return {name: torch.tensor([row.get(name, math.nan) for row in rows], dtype=torch.float64) for name in names}

    def _of(self, population: Population, state: PopulationState, x: Any, m: int) -> dict[str, float]:
        if state.diverged_at[m] >= 0:
            return {}
        member = population.members[m]
        params = {name: p.clone() for name, p in at(state.params, m).items()}
        moments = {kind: group if kind == "step" else at(group, m) for kind, group in state.moments.items()}
        share = self.refits / len(self.when.tasks or (0,)) / len(population)  # of the steps a seed of this moment
        found = disentangled(
            population.network, params, at(x, m), Training(member.optimizer, moments=moments), self.probe,
            repairs=self.repairs, targets=self.targets, steps=self.steps, batch_size=self.batch_size, seed=member.seed,
            on_progress=telling(share),
        )  # fmt: skip
        taken = dict(zip((repair.name for repair in found.repairs), found.recovered.mean(1).tolist(), strict=True))
        row = {f"lost/{repair.name}": taken.get(repair.name, 0.0) for repair in self.repairs}
        row |= {"lost": found.gap.mean, "lost/unexplained": found.gap.mean - sum(row.values())}
        return row | {"probe_fresh": found.waterfall.fresh, "probe_baseline": float(found.probed.baseline.mean())}
