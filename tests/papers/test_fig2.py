"""Figure 2: the walk is as long as the agent's path and never sees the loss; it goes on after a stop; its claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pliant.papers.lyle2023.fig2 import CLAIMS, EXPERIMENT, TOP, Walks
from pliant.results import Results
from tests.trials.stopping import assert_stops_leave_no_trace

SEEDS = [0, 4]


def trial(walks: bool = True) -> Walks:
    arms = EXPERIMENT.setup(EXPERIMENT.settings("smoke")).arms
    found = arms["walk" if walks else "gradient"].trial
    assert isinstance(found, Walks)
    return found


def test_steps_are_as_long_as_the_agents_in_directions_of_their_own() -> None:
    run = trial().start(SEEDS)
    rows = iter(run.rows)
    next(rows)
    state, walk = run.state, torch.zeros(2, 1)
    for _ in range(3):
        before = {name: (p.clone(), state.walk[name].clone()) for name, p in state.agent.learner.params.items()}
        next(rows)
        ours = torch.cat([(p - before[n][0]).flatten(1) for n, p in state.agent.learner.params.items()], 1)
        walk = torch.cat([(state.walk[n] - before[n][1]).flatten(1) for n in before], 1)
        torch.testing.assert_close(ours.norm(dim=1), walk.norm(dim=1), rtol=1e-3, atol=1e-7)
        cosine = (ours * walk).sum(1) / ours.norm(dim=1) / walk.norm(dim=1)
        assert cosine.abs().max() < 0.3
    assert not torch.equal(walk[0], walk[1])


@pytest.mark.parametrize("walks", [True, False])
def test_stopped_and_resumed_it_equals_an_uninterrupted_one(walks: bool) -> None:
    assert_stops_leave_no_trace(trial(walks), SEEDS)


def results(gradient: float, walk: float, negative: float) -> Results:
    """Three seeds; largest eigenvalues 2 at first, and these after 5 target updates."""

    def table(top: float, interference: float, seed: int) -> dict[str, np.ndarray]:
        first = np.linspace(2.0, 0.1, TOP)
        later = first * top / 2.0 * (1 + 0.01 * seed)
        return {
            "step": np.array([0, 1, 5, 20]), "diverged_at": np.full(4, -1),
            "largest": np.stack([first, first, later, later]),
            "gradient_interference": np.array([0.4, 0.4, 0.4, 0.4 + interference + 0.001 * seed]),
        }  # fmt: skip

    found = {("gradient", seed): table(gradient, negative, seed) for seed in range(3)}
    return Results(found | {("walk", seed): table(walk, 0.0, seed) for seed in range(3)})


def test_claims_follow_the_numbers() -> None:
    assert [c.check(results(10.0, 3.0, 0.2)).verdict for c in CLAIMS] == ["holds"] * 6
    found = [c.check(results(3.0, 1.5, -0.2)).verdict for c in CLAIMS]
    assert found == ["fails", "fails", "holds", "holds", "fails", "holds"]
