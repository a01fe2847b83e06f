"""What trials that count frames share: when measures look, what an update changed, and a few frames of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pliant.network import Params
from pliant.trials.measures import Measure, Moment, brief

FEW = 64  # frames before the first update
RESET = "reset"  # the event of every `reset_period` frames


def due(measures: Sequence[Measure], step: int, begin: int, period: int) -> list[Measure]:
    """The measures that look after so many frames, none up to `begin`; `period` frames are a task.

    >>> from pliant.trials import Steps, When
    >>> [step for step in range(1, 9) if due([Steps(When(every=3, ends=False))], step, begin=3, period=8)]
    [6]
    """
    if step <= begin:
        return []
    task, into = divmod(step - 1, period)
    moment = Moment(step, task, into + 1, step % period == 0)
    return [measure for measure in measures if measure.when(moment)]


def copied(params: Params) -> Params:
    """A copy.

    >>> copied({"w": torch.zeros(1)})
    {'w': tensor([0.])}
    """
    return {name: p.clone() for name, p in params.items()}


def change(params: Params, before: Params) -> Params:
    """What was added to parameters, zero where nothing is known of before.

    >>> change({"w": torch.ones(1)}, {})
    {'w': tensor([0.])}
    """
    return {name: p - before[name] if before else torch.zeros_like(p) for name, p in params.items()}


def first_update(trial: Any) -> Any:
    """The trial up to the end of its first learning period, one update, all measures at work, each refit a step.

    >>> from pliant.rl import Push
    >>> from pliant.trials import SAC
    >>> first_update(SAC(Push(10), num_steps=20_000, learn_period=2)).num_steps
    66
    """
    begin = min(trial.begin, FEW)
    steps = begin + trial.learn_period
    evaluation = trial.evaluation and replace(trial.evaluation, every=steps, frames=4)
    measures = tuple(map(brief, trial.measures))
    return replace(trial, begin=begin, num_steps=steps, num_updates=1, evaluation=evaluation, measures=measures)
