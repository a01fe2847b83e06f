"""Soft actor-critic: when it learns, what its distribution is, what is reset, that it learns, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from pliant.interventions import Chain, Reset, ShrinkAndPerturb
from pliant.nets import MLP
from pliant.optim import Adam, Shampoo
from pliant.population import Population
from pliant.rl import Catch, Push
from pliant.run.train import cost
from pliant.trials import SAC, Steps, When
from pliant.trials.actor_critic import squashed

TRIAL = SAC(
    Push(5), num_steps=60, net=partial(MLP, hidden=(8,)), begin=30, batch_size=4, capacity=50,
    measures=(Steps(When(every=20)),),
)  # fmt: skip


def test_the_density_of_an_action_is_that_of_a_squashed_normal_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, noise = (0.5 * torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (6, 3))
    action, log_prob = squashed(outputs, noise, (-20.0, 2.0))
    mean, spread = outputs.chunk(2, -1)
    law = TransformedDistribution(Normal(mean, spread.exp()), TanhTransform())
    torch.testing.assert_close(log_prob, law.log_prob(action).sum(-1))
    _, bounded = squashed(torch.tensor([0.0, 9.0]), torch.zeros(1), (-1.0, 1.0))
    assert bounded.item() == pytest.approx(-1.0 - 0.5 * math.log(2 * math.pi))
    far, log_prob = squashed(torch.tensor([30.0, 0.0]), torch.zeros(1), (-20.0, 2.0))
    assert far.item() == 1.0  # rounded, while its density is finite
    assert log_prob.item() == pytest.approx(60 - 2 * math.log(2) - 0.5 * math.log(2 * math.pi), abs=1e-4)


def test_updates_come_by_the_frame_and_several_at_once() -> None:
    run, updates = replace(TRIAL, learn_period=3, num_updates=2).start([0, 1]), []
    for _ in run.rows:
        if run.state.critics.step > sum(count for _, count in updates):
            updates.append((run.state.step - 1, run.state.critics.step - sum(count for _, count in updates)))
    assert updates == [(frame, 2) for frame in range(30, 60, 3)]
    assert run.state.actor.step == run.state.critics.step == 20
    assert run.state.episodes.ended == [10, 10]


def test_critics_differ_between_seeds_and_within_a_pair() -> None:
    weights = TRIAL.start([0, 1]).state.critics.params["hidden.0.weight"]
    assert len({tuple(w.flatten().tolist()) for w in weights}) == 4


def test_an_event_resets_actors_critics_and_their_targets_alike() -> None:
    trial = replace(TRIAL, chain=Chain(Reset("output.*", event="reset")), reset_period=10, tau=0.0, num_steps=42)
    run, seen = trial.start([0]), {}
    state, head, hidden = run.state, "output.weight", "hidden.0.weight"
    for _ in run.rows:
        seen[state.step - 1] = state.target[head].clone(), state.actor.params[head].clone()
        same = torch.equal(state.target[head], state.critics.params[head])
        assert same == (state.step <= 30 or state.step - 1 == 40)  # the targets never move, but for the reset
        assert torch.equal(state.target[hidden], state.critics.params[hidden]) == (state.step <= 30)
    assert torch.equal(seen[38][0], seen[39][0])
    assert not torch.equal(seen[39][0], seen[40][0])
    assert torch.equal(seen[40][0], seen[41][0])
    moved = [(seen[frame][1] - seen[frame - 1][1]).abs().max() for frame in (39, 40)]
    assert moved[1] > 20 * moved[0]  # a step of Adam, and a fresh draw


@pytest.mark.parametrize("period", [1, 3])
def test_its_step_is_timed_while_it_learns(period: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks at every step of a population: two an update, of critics and of actors."""
    ticks, step = [0], Population.advance

    def counted(*args: Any) -> Any:
        ticks[0] += 1
        return step(*args)

    monkeypatch.setattr(Population, "advance", counted)
    monkeypatch.setattr("pliant.run.train.time.perf_counter", lambda: float(ticks[0]))
    trial = replace(TRIAL, begin=500, num_steps=1000, learn_period=period)
    assert cost(trial, [0]).seconds == pytest.approx(2 / period)


@pytest.mark.slow
def test_an_agent_learns_to_hold_a_mass_in_the_middle() -> None:
    """50 steps that give 1 at most: a random agent has less than half of it, one that learned above 40."""
    trial = SAC(
        Push(50), num_steps=10_000, net=partial(MLP, hidden=(32, 32)), actor=Adam(1e-3), critic=Adam(1e-3),
        temperature=Adam(1e-3), begin=1000, batch_size=64, capacity=10_000, tau=0.01,
        measures=(Steps(When(every=10_000)),),
    )  # fmt: skip
    rows = [row for row in trial.start([100]).rows if row]
    assert float(rows[0]["return"]) < 25
    assert float(rows[-1]["return"]) > 40
    assert float(rows[-1]["alpha"]) < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begin": 60}, "expected begin to be at least 1 and below num_steps, 60, .* got 60"),
        ({"num_updates": 0}, "expected num_updates to be at least 1, got 0"),
        ({"reset_period": 0}, "expected reset_period to be at least 1, got 0"),
        ({"tau": 1.5}, r"expected tau in \[0, 1\], got 1.5"),
        ({"capacity": 3}, "expected a capacity that holds a batch of 4, got 3"),
        ({"alpha": 0.0}, "expected alpha above 0, got 0.0"),
        ({"log_std": (2.0, -2.0)}, r"expected log_std to be the least and the largest, got \(2.0, -2.0\)"),
        ({"temperature": Shampoo(1e-3)}, "expected a temperature optimizer that updates numbers alone, got Shampoo"),
        ({"chain": ShrinkAndPerturb(0.5, 0.5)}, "expected a Chain of interventions"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TRIAL, **changes)


def test_what_does_not_fit_together_is_said() -> None:
    with pytest.raises(ValueError, match="expected actions that are arrays of numbers, got some to choose from: Catch"):
        replace(TRIAL, env=Catch()).start([0])
    with pytest.warns(UserWarning, match="Reset waits for 'reset', but this trial fires no events"):
        replace(TRIAL, chain=Chain(Reset("last", event="reset"))).start([0])
