"""Effects and interactions of lyle2024/independence, on outcomes made by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from pliant.papers.lyle2024.independence import (
    EXPERIMENT,
    FACTORS,
    TASKS,
    agreement,
    arm,
    averaged,
    effect,
    outcome,
    overlaps,
)
from pliant.results import Results

PARTS = {"units": 0.3, "norm growth": 0.1, "output layer": 0.05, "target scale": 0.0, "optimizer state": 0.15}


def made(outcomes, seeds: int = 2) -> Results:
    """Results whose outcome is a function of the task and the treatments."""
    tables = {}
    for task, on, seed in product(TASKS, map("".join, product(*(("", f) for f in FACTORS))), range(seeds)):
        row = {"lost": 2 * outcomes(task, on), "probe_baseline": 2.0, "probe_fresh": 0.1, "step": 9, "diverged_at": -1}
        row |= {f"lost/{name}": 2 * part for name, part in PARTS.items()}
        tables[arm(task, on), seed] = {name: np.array([float(value)]) for name, value in row.items()}
    return Results(tables)


def test_treatments_that_add_have_no_interaction() -> None:
    saves = {"n": 0.3, "l": 0.1, "h": 0.05, "o": 0.15}
    results = made(lambda task, on: 0.9 - sum(saves[f] for f in on))
    for task, (factor, saved) in product(TASKS, saves.items()):
        assert effect(results, task, (factor,)) == pytest.approx([saved] * 2)
    assert overlaps(results, tuple(TASKS)) == pytest.approx(np.zeros((2, 6)))
    assert agreement(results, tuple(TASKS)) == pytest.approx([1.0, 1.0])  # as their mechanisms took


def test_treatments_of_which_either_would_do_overlap_by_what_one_saves() -> None:
    either = made(lambda task, on: 0.8 - 0.4 * bool({"n", "l"} & set(on)))
    assert effect(either, "labels", ("n",)) == pytest.approx([0.2] * 2)  # 0.4 without L2, none beside it
    assert averaged(tuple(TASKS), "n", "l")(either) == pytest.approx([-0.4] * 2)
    both = made(lambda task, on: 0.8 - 0.4 * ({"n", "l"} <= set(on)))
    assert averaged(tuple(TASKS), "n", "l")(both) == pytest.approx([0.4] * 2)  # they need each other
    assert averaged(tuple(TASKS), "n", "o")(both) == pytest.approx([0.0] * 2)


def test_a_probe_that_fresh_networks_of_one_arm_do_not_learn_decides_nothing() -> None:
    results = made(lambda task, on: 0.9 - 0.2 * len(on) if on else 0.9, seeds=5)
    claims = EXPERIMENT.setup(EXPERIMENT.settings("laptop")).claims
    assert claims[0].check(results).verdict == "holds"
    for seed in range(5):
        results.tables[arm("noise", "ho"), seed]["probe_fresh"][:] = 1.9  # of 2
    assert {claim.check(results).verdict for claim in claims} == {"inconclusive"}


def test_shares_are_asked_of_untreated_networks_alone() -> None:
    for name, one in EXPERIMENT.setup(EXPERIMENT.settings("laptop")).arms.items():
        assert bool(one.trial.measures[1].repairs) == name.endswith("-none")


def test_a_network_that_diverged_lost_everything() -> None:
    results = made(lambda task, on: np.nan if on else 0.5)
    assert outcome(results, arm("noise", "h")) == pytest.approx([1.0] * 2)


def test_every_combination_is_there_and_only_the_settings_of_its_letters_change() -> None:
    arms = EXPERIMENT.setup(EXPERIMENT.settings("laptop")).arms
    assert len(arms) == 64
    plain = {task: arms[arm(task, "")].trial for task in TASKS}
    for task in TASKS:
        tuned, normed = arms[arm(task, "o")].trial, arms[arm(task, "n")].trial
        assert (tuned.chain, tuned.head) == (plain[task].chain, plain[task].head)
        assert tuned.optimizer != plain[task].optimizer == normed.optimizer
        assert len(arms[arm(task, "nlho")].trial.chain) == (2 if task in ("noise", "offset") else 3)
