"""Plasticity in the course of a trial: fresh targets fitted from every member's parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from pliant.network import Params
from pliant.population import Population, PopulationState
from pliant.probe import Probe, Start, Training, refit
from pliant.probe.measure import number
from pliant.probe.targets import LOST, outputs
from pliant.stacking import at
from pliant.trials.base import Row, telling
from pliant.trials.measures import When


@dataclass(frozen=True)
class ProbeLoss:
    """The probe of P1: every member is fitted to fresh targets on its own examples, from a copy of its parameters.

    `probe_loss` is the final score, the mean over targets; `probe_curve` the scores on the way, `(points,)`, evenly
    spaced from the first step to the last; `probe_rises` the share of these at which the score is higher than at the
    one before; `probe_baseline` the best constant predictor's score. Targets have the same seeds at every moment and in
    every arm, so that the first moment of a trial, before its first step, is the control of all later ones: what was
    lost is `probe_loss` less that. The optimizer is the member's, with fresh state, without its interventions. NaN for
    a member that diverged, or whose outputs are so large that rounding swallows the targets.

    Args:
        probe: the targets.
        when: the moments.
        targets: how many.
        steps: of each refit.
        batch_size: of the refits.
        examples: how many of each member's examples are the inputs, at most.
        points: of the curve.

    >>> from pliant.probe import Sines
    >>> ProbeLoss(Sines(), When(at=(1000,)), targets=3, steps=100).refits
    600

    Source: P1 sections 3.1 and A.2: 10 targets, 2,000 steps. Deviation: the paper does not say whether the optimizer's
    state is carried along, nor whether all outputs are fitted; here it is fresh, and all are.
    """

    probe: Probe
    when: When
    targets: int
    steps: int
    batch_size: int = 128
    examples: int = 512
    points: int = 21

    @property
    def refits(self) -> int:
        """Steps of all refits of a seed: at the start, and at each of the steps `when` lists."""
        return (1 + len(self.when.at)) * self.targets * self.steps

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        starts: list[Start] = []
        network, chosen = population.network, []
        for m, member in enumerate(population.members):
            params, inputs = {name: p.clone() for name, p in at(state.params, m).items()}, at(x, m)
            largest = float(outputs(network, params, inputs).abs().max())
            if state.diverged_at[m] >= 0 or not largest * torch.finfo(torch.float32).eps < LOST:
                continue
            chosen.append(m)
            for target in range(self.targets):
                fresh = self.probe.targets(network, params, inputs, number(member.seed, target, 0))
                starts.append(Start(params, fresh, x=inputs))
        members, points = len(population), min(self.points, self.steps + 1)
        curves = torch.full((members, points), math.nan, dtype=torch.float64)
        baselines = torch.full((members,), math.nan, dtype=torch.float64)
        if starts:
            member = population.members[0]
            found = refit(
                network, self.probe, starts, None, Training(member.optimizer), steps=self.steps,
                batch_size=self.batch_size, points=self.points, on_progress=telling(self.targets * self.steps),
            )  # fmt: skip
            scores = torch.from_numpy(found.scores).reshape(len(chosen), self.targets, -1)
            curves[chosen] = scores.mean(1)
            rises = torch.full((members,), math.nan, dtype=torch.float64)
            rises[chosen] = (scores.diff(dim=-1) > 0).double().mean((1, 2))
            constant = [self.probe.baseline(start.y) for start in starts]
            baselines[chosen] = torch.tensor(constant, dtype=torch.float64).reshape(len(chosen), -1).mean(1)
        else:
            rises = baselines.clone()
        return {
            "probe_loss": curves[:, -1].clone(), "probe_baseline": baselines, "probe_rises": rises,
            "probe_curve": curves,
        }  # fmt: skip
