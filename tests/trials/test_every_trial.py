"""What holds for every trial: every yield is a place to stop, members know nothing of each other, draws are its own."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

from pliant.run import tree
from pliant.run.identity import canonical
from pliant.run.rows import Rows
from pliant.trials import Trial
from tests.bitwise import streams
from tests.listed import assert_examples, assert_public
from tests.trials.examples import EXAMPLES, registered
from tests.trials.stopping import assert_stops_leave_no_trace, finished

every_trial = pytest.mark.parametrize("trial", EXAMPLES.values(), ids=EXAMPLES)
SEEDS = [0, 3, 4]


def whole(trial: Trial, seeds: list[int], dtype: torch.dtype = torch.float32) -> dict:
    run, rows = trial.start(seeds, "cpu", dtype), Rows(seeds)
    finished(run, rows)
    return rows.tables(run.state.diverged_at)


def test_every_trial_has_an_example() -> None:
    assert_examples(registered(), EXAMPLES.values(), "tests/trials/examples.py")
    assert_public(registered())


@every_trial
@pytest.mark.parametrize("seeds", [[0], [0, 3], SEEDS], ids=["single", "loop", "vmap"])
def test_stopped_anywhere_and_resumed_it_equals_an_uninterrupted_one(trial: Trial, seeds: list[int]) -> None:
    assert_stops_leave_no_trace(trial, seeds)


@every_trial
def test_a_member_alone_and_in_a_crowd_gives_the_same(trial: Trial) -> None:
    together = whole(trial, SEEDS, torch.float64)
    alone = whole(trial, SEEDS[1:2], torch.float64)
    for name, values in alone[SEEDS[1]].items():
        np.testing.assert_allclose(together[SEEDS[1]][name], values, rtol=1e-7, atol=1e-9, err_msg=name)


@every_trial
def test_its_state_has_one_structure_and_grows_by_a_step_at_most(trial: Trial) -> None:
    run = trial.start(SEEDS)
    shapes = {path: (t.shape, t.dtype, t.data_ptr()) for path, t in tree.tensors(run.state).items()}
    names, step = list(tree.numbers(run.state)), 0
    assert run.state.step == 0
    assert len(run.state.diverged_at) == len(SEEDS)
    for row in run.rows:
        assert step <= run.state.step <= step + 50
        step = run.state.step
        assert {path: (t.shape, t.dtype, t.data_ptr()) for path, t in tree.tensors(run.state).items()} == shapes
        assert list(tree.numbers(run.state)) == names
        assert all(len(value) == len(SEEDS) for value in row.values())


@every_trial
def test_seeds_differ_and_the_same_seed_does_not_and_none_draws_from_the_global_streams(trial: Trial) -> None:
    before = streams()
    one, two, again = (whole(trial, [seed]) for seed in (0, 1, 0))
    assert streams() == before
    np.testing.assert_array_equal(one[0]["batch_loss"], again[0]["batch_loss"])
    assert (one[0]["batch_loss"] != two[1]["batch_loss"]).all()


@every_trial
def test_it_is_a_frozen_dataclass_that_pickles_and_tells_itself_apart(trial: Trial) -> None:
    assert is_dataclass(trial)
    assert type(trial).__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert canonical(pickle.loads(pickle.dumps(trial))) == canonical(trial)
    assert repr(copy.deepcopy(trial)) == repr(trial)
    assert all(field.name in repr(trial) for field in fields(trial))
    assert len({repr(one) for one in EXAMPLES.values()}) == len(EXAMPLES)
    assert trial.num_steps > 0 < trial.together
    assert trial.refits >= 0
