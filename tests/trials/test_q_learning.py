"""Agents in games: when they learn, what the target network gets, that they learn, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from pliant.heads import C51, Scalar
from pliant.interventions import Chain, ShrinkAndPerturb
from pliant.nets import MLP
from pliant.optim import Adam
from pliant.rl import Catch, Prioritised, td_target
from pliant.run.rows import Rows
from pliant.trials import ActionValues, QLearning, When
from pliant.trials.q_learning import one_of_the_best
from tests.rl.scripted import Scripted

TRIAL = QLearning(
    Catch(5, 4), partial(MLP, hidden=(32,)), Adam(2e-3), num_steps=120, begin=50, decay=40, batch_size=16,
    target_period=30, capacity=1000, measures=(ActionValues(When(every=20), 50),),
)  # fmt: skip


def driven(trial: QLearning, seeds: tuple[int, ...] = (0,), dtype: torch.dtype = torch.float32):
    run, rows = trial.start(seeds, dtype=dtype), Rows(seeds)
    for row in run.rows:
        if row:
            rows.add(run.state.step, row, 0.0)
    return run.state, rows.tables(run.state.diverged_at)


@pytest.mark.parametrize(("learn", "target"), [(4, 20), (16, 32), (1, 7)])
def test_updates_come_by_the_frame_whatever_the_lengths_of_episodes(learn: int, target: int) -> None:
    """Episodes of lengths 1, 4, 5 and 4k + 3, an action for four frames: the clock counts every frame."""
    trial = replace(
        TRIAL, env=Scripted((1, 4, 5, 11), repeat=4), learn_period=learn, target_period=target, num_steps=130
    )
    run = trial.start([0, 1])
    updates, copies = [], []
    before, old = 0, {name: p.clone() for name, p in run.state.target.items()}
    asked, seen = [], list(run.state.replay.entries)
    for row in run.rows:
        frame = run.state.step - 1
        if run.state.learner.step > before:
            updates.append(frame)
        if any(not torch.equal(old[name], p) for name, p in run.state.target.items()):
            copies.append(frame)
        if run.state.replay.entries[0] > seen[0]:
            asked.append(frame)
        before, old = run.state.learner.step, {name: p.clone() for name, p in run.state.target.items()}
        seen = list(run.state.replay.entries)
        assert row is not None
    assert updates == [frame for frame in range(50, 130) if frame % learn == 0]
    assert copies == [frame for frame in range(50, 130) if frame % target == 0]
    # the cycle of 2 + 5 + 6 + 12 frames: observations that are kept, all but the last ones of lost episodes
    kept = [0, 2, 7, 11, 13, 17, 21]
    assert asked == [25 * cycle + frame for cycle in range(6) for frame in kept if 25 * cycle + frame < 130]


def test_an_event_at_target_updates_acts_on_the_target_network_with_the_same_draws() -> None:
    trial = replace(TRIAL, chain=Chain(ShrinkAndPerturb(0.5, 0.5, event="target_update")), num_steps=61, learn_period=9)
    run, same = trial.start([0, 3]), []
    for _ in run.rows:
        if run.state.step - 1 == 60:
            same = [torch.equal(run.state.target[name], p) for name, p in run.state.learner.params.items()]
    assert same
    assert all(same)


def test_targets_are_double_dqns_or_dqns() -> None:
    for double in (True, False):
        trial = replace(TRIAL, double=double, gamma=0.8, steps=2)
        run = trial.start([0], dtype=torch.float64)
        for _ in run.rows:
            pass
        (population,), state = run.populations, run.state
        drawn = state.replay.take(np.array([[40, 60, 70]]), 0.8)
        x, y = trial._batch(population, state, drawn, 1.0)
        target = population.outputs(state.target, drawn.following.double())
        online = population.outputs(state.learner.params, drawn.following.double())
        best = (online if double else target).argmax(-1, keepdim=True)
        expected = drawn.reward + drawn.discount * target.gather(-1, best).squeeze(-1)
        torch.testing.assert_close(y["target"].squeeze(-1), expected)
        assert x.dtype == torch.float64
    mixed = td_target(Scalar(), torch.ones(2), torch.tensor([0.0, 0.5]), torch.tensor([[[4.0]], [[4.0]]]))
    assert mixed.flatten().tolist() == [1.0, 3.0]


def test_an_agent_learns_catch() -> None:
    trial = replace(
        TRIAL, env=Catch(4, 4), num_steps=1500, begin=200, decay=600, epsilon=0.05, learn_period=2, target_period=100
    )
    _, tables = driven(replace(trial, measures=(ActionValues(When(every=1500, ends=False), 50),)))
    assert tables[0]["return"][0] < 0.1
    assert tables[0]["return"][-1] > 0.7


def test_priorities_that_are_all_alike_are_uniform_replay_and_others_are_not() -> None:
    def end(prioritised: Prioritised | None) -> dict[str, torch.Tensor]:
        state, _ = driven(replace(TRIAL, prioritised=prioritised, num_steps=80), (0, 3), torch.float64)
        return state.learner.params

    uniform, alike, by_loss = (end(how) for how in (None, Prioritised(0.0, uniform=1.0), Prioritised(1.0)))
    for name, p in uniform.items():
        torch.testing.assert_close(alike[name], p, atol=1e-12, rtol=1e-12)
        assert not torch.equal(by_loss[name], p)


def test_a_transition_has_the_priority_of_its_loss_before_the_update() -> None:
    how = Prioritised(exponent=1.0, uniform=0.0)
    trial = replace(TRIAL, prioritised=how, num_steps=52, batch_size=64, target_period=200, epsilon=1.0)
    run, fresh = trial.start([0], dtype=torch.float64), {}
    for _ in run.rows:
        if run.state.learner.step == 0:
            fresh = {name: p.clone() for name, p in run.state.learner.params.items()}
        if run.state.learner.step == 1:
            break
    (population,), state = run.populations, run.state
    items = np.arange(state.replay.items[0])[None]
    before = replace(state.learner, params=fresh)
    drawn = state.replay.take(items, trial.gamma)
    x, y = trial._batch(population, replace(state, learner=before), drawn, 1.0)
    losses = trial.head.losses(population.outputs(fresh, x).gather(-1, y["action"][..., None]), y["target"])
    leaves = state.priorities.tree[0, state.priorities.tree.shape[1] // 2 :][: items.shape[1]]
    set_by_loss = leaves != 1.0
    assert set_by_loss.sum() > 10
    torch.testing.assert_close(leaves[set_by_loss], losses[0][set_by_loss])


def test_rewards_are_clipped_for_learning_alone() -> None:
    trial = replace(TRIAL, env=Scripted((3,)), clip=1.0, num_steps=60)
    state, tables = driven(trial)
    assert set(state.replay.reward[0, : state.replay.entries[0] - 1].tolist()) == {1.0}
    assert tables[0]["return"][-1] >= 6.0


def test_exploration_falls_from_one_and_ties_are_broken_alike() -> None:
    assert [round(TRIAL.explore(frame), 3) for frame in (0, 50, 70, 90, 119)] == [1.0, 1.0, 0.55, 0.1, 0.1]
    values = torch.tensor([[2.0, 5.0, 5.0, 1.0, 5.0]]).expand(300, 5)
    found = one_of_the_best(values, torch.linspace(0, 1, 301, dtype=torch.float64)[:-1])
    assert found.bincount(minlength=5).tolist() == [0, 100, 100, 0, 100]


def test_rows_begin_with_the_first_update_and_say_how_much_was_done() -> None:
    _, tables = driven(replace(TRIAL, learn_period=5))
    table = tables[0]
    assert table["step"].tolist() == [50, 60, 80, 90, 100, 120]
    assert table["updates"].tolist() == [0, 2, 6, 8, 10, 14]
    assert table["target_updates"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["episodes"].tolist() == [10, 12, 16, 18, 20, 24]
    assert np.isnan(table["batch_loss"]).tolist() == [True, *[False] * 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begin": 120}, "expected begin to be at least 1 and below num_steps, 120, .* got 120"),
        ({"begin": 0}, "expected begin to be at least 1"),
        ({"learn_period": 0}, "expected learn_period to be at least 1, got 0"),
        ({"epsilon": -0.1}, r"expected epsilon in \[0, 1\], got -0.1"),
        ({"gamma": 1.5}, r"expected gamma in \[0, 1\], got 1.5"),
        ({"capacity": 3}, "expected a capacity that holds a batch of 16, got 3"),
        ({"head": 3}, "expected a head such as"),
        ({"chain": ShrinkAndPerturb(0.5, 0.5)}, "expected a Chain of interventions"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TRIAL, **changes)


def test_what_does_not_fit_together_is_said() -> None:
    with pytest.raises(ValueError, match="expected a transition of every seed by frame 1: write a larger begin"):
        driven(replace(TRIAL, env=Scripted((9,), repeat=8), begin=1))
    with pytest.warns(UserWarning, match="ShrinkAndPerturb waits for 'task_switch', but this trial fires 'target_up"):
        replace(TRIAL, chain=Chain(ShrinkAndPerturb(0.5, 0.5))).start([0])
    brief = replace(TRIAL, head=C51(-1.0, 1.0, 11)).brief()
    assert (brief.begin, brief.num_steps) == (50, 51)
