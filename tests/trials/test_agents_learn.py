"""Agents of P1's experiments really learn, on MNIST: values become what they should, random labels are remembered."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pliant.papers.agents import Agents
from pliant.run.rows import Rows
from pliant.trials import ValueLearning
from pliant.trials.value import ValueState

pytestmark = pytest.mark.slow


def driven(trial: ValueLearning) -> tuple[ValueState, torch.Tensor, torch.Tensor, dict[str, np.ndarray]]:
    """The last state, the values of all actions for all images, the states these show, and the table of seed 100."""
    run, rows = trial.start([100]), Rows([100])
    for row in run.rows:
        if row:
            rows.add(run.state.step, row, 0.0)
    (population,) = run.populations
    world = trial.mdp.bind(trial.inputs(), [100])
    images = torch.arange(world.states.shape[1])[None]
    values = trial.head.value(trial.head.split(population.outputs(run.state.learner.params, world.observe(images))))
    return run.state, values[0], world.states[0], rows.tables(run.state.diverged_at)[100]


def test_true_labels_are_told_and_their_values_are_what_follows_from_them() -> None:
    settings = Agents(gamma=0.9, target_updates=60)
    _, values, states, _ = driven(settings.trial("mnist", "mlp"))
    expected = torch.nn.functional.one_hot(states, 10) + 0.9 / (1 - 0.9)
    assert ((values - expected) / expected).abs().mean() < 0.05
    assert (values.argmax(1) == states).float().mean() > 0.95


def test_random_labels_of_few_images_are_remembered() -> None:
    trial = Agents(num_images=200).trial("mnist", "mlp", mdp="random")
    _, values, states, table = driven(trial)
    assert (values.argmax(1) == states).float().mean() > 0.5
    assert table["accuracy"][0] < 0.3
