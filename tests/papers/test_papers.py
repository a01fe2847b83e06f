"""What every registered experiment has to do, at smoke tier and in its settings."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pliant.cite import bibtex
from pliant.experiment import TIERS, experiments, find
from pliant.papers.lyle2023.fig1 import spike
from pliant.papers.lyle2024.swiss_cheese import sentences
from pliant.plots.figures import captions, figure, sheets
from pliant.report.tables import closing
from pliant.results import Results
from pliant.run.store import Store
from pliant.run.sweep import sweep

IDS = list(experiments())


@pytest.mark.parametrize("id", IDS)
def test_smoke_tier_runs_and_its_claims_evaluate(id: str, swiss_cheese: Path, tmp_path: Path) -> None:
    experiment = find(id)
    settings = experiment.settings("smoke")
    setup = experiment.setup(settings)
    store = Store(shutil.copytree(swiss_cheese, tmp_path / "runs"), experiment, "smoke", settings)  # one is done
    done = sweep(store, setup, list(setup.arms), 2)
    assert done.failed == {}
    results = store.results(list(setup.arms), [0, 1])
    for claim in setup.claims:
        checked = claim.check(results)
        assert checked.verdict in ("holds", "fails", "inconclusive")
        assert "has no column" not in checked.reason, f"{claim.text} {checked.reason}"
    assert set(setup.columns()) <= set(results.columns())
    assert [row.arm for row in closing(setup, results).rows] == list(setup.arms)
    for sheet in sheets(setup.plots):
        assert figure(id, sheet, results, setup.look).axes
        assert captions(sheet, results, setup.look)
        assert all(plot.grid(results, setup.look).rows for plot in sheet)
    if experiment.sentences is not None:
        told = experiment.sentences(results)
        assert told
        assert set(told) <= set(setup.arms)


@pytest.mark.parametrize("id", IDS)
def test_every_tier_is_complete(id: str) -> None:
    experiment = find(id)
    for tier in TIERS:
        assert tier in experiment.tiers, f'write in tiers of {id}: "{tier}": Settings(...)'
    bibtex(experiment.references)
    assert pickle.loads(pickle.dumps(experiment)).id == id  # workers get it
    arms = {arm for tier in experiment.tiers for arm in experiment.setup(experiment.settings(tier)).arms}
    for tier in experiment.tiers:
        setup = experiment.setup(experiment.settings(tier))
        assert setup.deviations, f"write in deviations of {id} where it departs from the paper, or that it is ours"
        for claim in setup.claims:
            reason = claim.check(Results({}, {})).reason
            assert any(f"arm {arm!r} was not run" in reason for arm in arms), f"{tier}: {claim.text} {reason}"
        assert len({claim.text for claim in setup.claims}) == len(setup.claims)
        if tier == "paper":
            laptop = experiment.setup(experiment.settings("laptop"))
            assert setup.arms[next(iter(laptop.arms))].trial.num_steps >= max(
                a.trial.num_steps for a in laptop.arms.values()
            )


def table(**columns: list[float]) -> dict[str, np.ndarray]:
    made = {name: np.array(values) for name, values in columns.items()}
    return {**made, "diverged_at": np.full(len(made["step"]), -1)}


def test_spike_is_the_peak_after_a_switch_over_the_median_of_the_rest() -> None:
    step = [1, 50, 150, 200, 201, 250, 350, 401]
    norm = [9.0, 1.0, 2.0, 4.0, 30.0, 1.0, 3.0, 3.0]
    stored = table(step=step, task=[0, 0, 0, 0, 1, 1, 1, 1], update_norm=norm)
    assert spike(Results({("default", 0): stored}), "default") == pytest.approx([10.0])  # the first task has no switch


def test_sentences_follow_the_numbers() -> None:
    def arm(first: float, last: float, dead: float, norm: float) -> dict[str, np.ndarray]:
        return table(
            step=[1, 2], task=[0, 1], end=[True, True], accuracy=[first, last], dead=[0.0, dead],
            linearized=[0.0, 0.0], norm_ratio=[1.0, norm],
        )  # fmt: skip

    said = sentences(
        Results(
            {
                ("a", 0): arm(0.9, 0.2, 0.6, 3.0),
                ("b", 0): arm(0.95, 0.96, 0.0, 1.0),
                ("c", 0): arm(0.5, 0.5, 0.0, 1.0),
                ("d", 0): arm(0.5, 0.9, 0.0, 1.0),
            }
        )
    )
    assert said["a"].startswith(
        "lost the ability to learn, 0.90 to 0.20: 60% of its units are dead, its parameters have"
    )
    assert said["b"].startswith("kept learning")
    assert "never learned well" in said["c"]
    assert said["d"].startswith("learned better")
    stored = Results({("a", 0): {**arm(0.9, 0.2, 0.6, 3.0), "diverged_at": np.array([1, 1])}})
    assert sentences(stored)["a"].startswith("diverged with seed 0")


def test_settings_reach_the_training(tmp_path: Path) -> None:
    experiment = find("lyle2024/swiss_cheese")
    settings = experiment.settings("smoke", ["l2=0.5", "lr=0.01", "hidden=7,5"])
    setup = experiment.setup(settings)
    assert setup.arms["both"].trial.chain[1].strength == setup.arms["l2"].trial.chain[0].strength == 0.5  # type: ignore[attr-defined]
    assert setup.arms["none"].trial.optimizer.lr == 0.01
    assert [p.shape[0] for n, p in setup.arms["l2"].trial.net((1, 8, 8), 10).named_parameters() if "weight" in n] == [
        7,
        5,
        10,
    ]
    assert replace(settings, l2=0.1) != settings
