"""Value learning: what the target network gets, where heads begin, that values are learned, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from pliant.data import load
from pliant.heads import Scalar, TwoHot
from pliant.interventions import Chain, Reset, ShrinkAndPerturb
from pliant.nets import MLP
from pliant.network import Network
from pliant.optim import Adam
from pliant.probe import Sines, Start, Training, refit
from pliant.rl import RandomLabel, SparseReward, TrueLabel
from pliant.run.rows import Rows
from pliant.trials import Policy, ProbeLoss, ValueLearning, When
from pliant.trials.value import ValueState

RESET = Chain(Reset("last", event="target_update"))
TRIAL = ValueLearning(
    TrueLabel(200), "digits", partial(MLP, hidden=(32,)), Adam(3e-3), num_steps=41, batch_size=32, target_period=20,
    fill=200, measures=(Policy(When(every=100), 200),),
)  # fmt: skip


def driven(trial: ValueLearning, seeds: tuple[int, ...] = (0,), dtype: torch.dtype = torch.float32):
    run, rows = trial.start(seeds, dtype=dtype), Rows(seeds)
    for row in run.rows:
        if row:
            rows.add(run.state.step, row, 0.0)
    state: ValueState = run.state
    return state, rows.tables(state.diverged_at)


def test_values_are_rewards_and_what_they_lead_to() -> None:
    """With discount g, Q(s, a) = 1[a = s] + g / (1 - g), once the target network was updated often enough."""
    trial = replace(TRIAL, num_steps=4500, target_period=100, gamma=0.9, envs=10, act_every=10, epsilon=0.3)
    state, tables = driven(trial)
    world = trial.mdp.bind(load("digits"), [0])
    every = torch.arange(200)[None]
    module = MLP((1, 8, 8), 10, (32,))
    values = Network(module)({name: p[0] for name, p in state.learner.params.items()}, world.observe(every)[0])
    expected = nn.functional.one_hot(world.states[0], 10) + 9.0
    assert ((values - expected) / expected).abs().mean() < 0.05
    assert (values.argmax(-1) == world.states[0]).float().mean() > 0.95
    assert tables[0]["accuracy"][0] < 0.5 < tables[0]["accuracy"][-1]


@pytest.mark.parametrize("gets", ["before", "after"])
def test_the_target_network_gets_the_network_before_or_after_a_reset(gets) -> None:
    trial = replace(TRIAL, chain=RESET, target_gets=gets, num_steps=21)
    run, trained = trial.start([0]), {}
    for _ in run.rows:
        if run.state.step == 20:
            trained = {name: p.clone() for name, p in run.state.learner.params.items()}
    target = run.state.target
    for name in target:
        kept = torch.equal(target[name], trained[name])
        assert kept == (gets == "before" or not name.startswith("output")), name
    assert not torch.equal(run.state.learner.params["output.weight"], trained["output.weight"])


def test_the_target_network_changes_at_its_updates_alone() -> None:
    run = TRIAL.start([0])
    initial = {name: p.clone() for name, p in run.state.target.items()}
    changed = []
    for _ in run.rows:
        if not all(torch.equal(run.state.target[name], p) for name, p in initial.items()):
            changed.append(run.state.step)
            initial = {name: p.clone() for name, p in run.state.target.items()}
    assert changed == [21, 41]  # before the steps 20 and 40


@pytest.mark.parametrize("double", [False, True])
def test_a_table_of_the_target_networks_outputs_gives_what_they_are(double: bool, monkeypatch) -> None:
    trial = replace(TRIAL, double=double, mdp=SparseReward(200))
    with_table, _ = driven(trial, dtype=torch.float64)
    monkeypatch.setattr(ValueLearning, "_table", lambda *_: None)
    without, _ = driven(trial, dtype=torch.float64)
    for name, p in with_table.learner.params.items():
        torch.testing.assert_close(p, without.learner.params[name], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("begin", "value"), [(None, 25.0), (0.0, 0.0), (7.0, 7.0)])
def test_a_head_over_bins_begins_where_it_is_told(begin, value) -> None:
    head = TwoHot(-5.0, 55.0, 61)
    trial = replace(TRIAL, head=head, begin=begin, gamma=0.9, chain=RESET, num_steps=1)
    run = trial.start([0, 1, 2])
    network = run.populations[0].network
    for params in ({n: p[1] for n, p in run.state.learner.params.items()}, network.fresh(5, only=set(network.head))):
        full = {n: p[1] for n, p in run.state.learner.params.items()} | params
        found = head.value(head.split(network(full, network.example)))
        assert (found - value).abs().max() < 1.5


def test_probes_have_each_members_own_inputs_and_the_same_targets_later() -> None:
    probe = ProbeLoss(Sines(), When(at=(20,)), targets=2, steps=5, batch_size=50, examples=100, points=3)
    trial = replace(TRIAL, measures=(probe,), num_steps=20)
    _, tables = driven(trial, (0, 3), torch.float64)
    assert tables[3]["probe_curve"].shape == (2, 3)
    assert tables[3]["probe_baseline"] == pytest.approx([0.5, 0.5], abs=0.05)
    assert (tables[3]["probe_loss"] == tables[3]["probe_curve"][:, -1]).all()
    assert tables[0]["probe_loss"][0] != tables[3]["probe_loss"][0]
    _, alone = driven(trial, (3,), torch.float64)
    assert alone[3]["probe_loss"] == pytest.approx(tables[3]["probe_loss"], rel=1e-6)


def test_refits_on_inputs_of_their_own_equal_those_on_shared_ones() -> None:
    network = Network(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    probe, params = Sines(frequency=10.0), network.fresh(0)
    ys = [probe.targets(network, params, x, seed) for seed in range(3)]
    how = Training(Adam(1e-2))
    shared = refit(network, probe, [Start(params, y) for y in ys], x, how, steps=20, batch_size=7)
    own = refit(network, probe, [Start(params, y, x=x) for y in ys], None, how, steps=20, batch_size=7)
    assert (shared.scores == own.scores).all()
    with pytest.raises(ValueError, match="expected as many inputs of every start, got 10 and 20"):
        refit(network, probe, [Start(params, ys[0], x=x), Start(params, ys[1], x=x[:10])], None, how, steps=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.0}, r"expected gamma in \[0, 1\), got 1.0"),
        ({"gamma": -0.1}, r"expected gamma in \[0, 1\)"),
        ({"target_period": 0}, "expected target_period to be at least 1, got 0"),
        ({"capacity": 20}, "expected a capacity that holds a batch of 32"),
        ({"epsilon": 1.5}, r"expected epsilon in \[0, 1\]"),
        ({"fill": 50}, "expected fill to be at least 200, as many transitions as a measure looks at"),
        ({"fill": 0}, "expected fill to be at least 1"),
        ({"head": 3}, "expected a head such as"),
        ({"begin": 0.0}, "expected begin with a head over bins"),
        ({"target_gets": "now"}, "expected target_gets to be 'before' or 'after'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TRIAL, **changes)


def headless(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A network of the wrong size."""
    return MLP(shape, outputs + 1, (8,))


def test_what_does_not_fit_together_is_said_when_it_starts() -> None:
    with pytest.warns(UserWarning, match=r"does not hold all values from 0 to 1 / \(1 - gamma\) = 100"):
        replace(TRIAL, head=TwoHot(-1.0, 50.0, 21)).start([0])
    with pytest.warns(UserWarning, match="ShrinkAndPerturb waits for 'task_switch', but this trial fires 'target_up"):
        replace(TRIAL, chain=Chain(ShrinkAndPerturb(0.5, 0.5))).start([0])
    with pytest.raises(ValueError, match="expected a network with outputs of shape"):
        replace(TRIAL, net=headless).start([0])
    with pytest.raises(ValueError, match="expected a network that ends in a linear layer of 310 outputs"):
        replace(TRIAL, net=headless, head=TwoHot(-5.0, 105.0, 31), begin=0.0).start([0])
    with pytest.raises(ValueError, match="expected num_images to be at most"):
        replace(TRIAL, mdp=RandomLabel(10**6)).start([0])
    assert isinstance(TRIAL.head, Scalar)
