"""The analysis of toolbox/prescription, on tables made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pliant.causes.words import SHOWN
from pliant.interventions import Chain, LayerNorm
from pliant.papers.toolbox import prescription
from pliant.papers.toolbox.prescription import EXPERIMENT, Settings, arm, choose, gain, losses, scored
from pliant.papers.toolbox.situations import SITUATIONS
from pliant.report.stored import opened
from pliant.results import Results
from pliant.run.store import latest
from pliant.trials import Mechanisms

LN10 = math.log(10)


def table(*tasks: float, lost: dict[str, float] | None = None) -> dict[str, np.ndarray]:
    """A row a task, whose loss is a share of ln 10; the parts of what was lost at the last one."""
    num = len(tasks)
    made = {
        "step": np.arange(1, num + 1), "task": np.arange(num), "end": np.ones(num), "loss": LN10 * np.array(tasks),
        "diverged_at": np.full(num, -1),
    }  # fmt: skip
    if lost is None:
        return made
    parts = {m: lost.get(m, 0.0) for m in SITUATIONS["relu"].mechanisms}
    last = {f"lost/{m}": v for m, v in parts.items()} | {"lost": sum(parts.values()), "probe_baseline": 1.0}
    last |= {"probe_fresh": 0.1, "lost/unexplained": 0.0}
    return made | {name: np.array([np.nan] * (num - 1) + [value]) for name, value in last.items()}


def test_what_makes_the_first_task_easier_or_harder_gains_nothing_by_it() -> None:
    none = table(0.5, 0.9, 0.8, 0.8, 0.8)  # loses 0.3
    easier = table(0.1, 0.3, 0.4, 0.4, 0.4)  # loses 0.3, too
    spoiled = table(0.9, 0.8, 0.8, 0.8, 0.8)  # ends no better
    better = table(0.6, 0.4, 0.4, 0.4, 0.4)  # 0.1 better than the first task without a cure
    results = Results(
        {("relu-none", 0): none, ("relu-l2", 0): easier, ("relu-redo", 0): spoiled, ("relu-tuned", 0): better}
    )
    found = [float(gain(results, f"relu-{cure}")[0]) for cure in ("none", "l2", "redo", "tuned")]
    assert found == pytest.approx([0, 0, 0, 0.4])


def test_losses_count_up_to_the_constant_predictor_also_where_they_are_no_number() -> None:
    results = Results({("relu-none", 0): table(0.5, 3.0, np.nan, 0.7)})
    first, last = losses(results, "relu-none")
    assert (first[0], last[0]) == pytest.approx((0.5, (1 + 1 + 0.7) / 3))


def test_an_agent_pays_for_the_accuracy_that_its_cure_costs() -> None:
    def agent(end: float, accuracy: float) -> dict[str, np.ndarray]:
        ones = np.ones(2)
        return {
            "step": np.array([0, 9]), "probe_loss": np.array([0.1, end]), "probe_baseline": 0.5 * ones,
            "accuracy": np.array([0.1, accuracy]), "diverged_at": -ones,
        }  # fmt: skip

    results = Results({("agent-none", 0): agent(0.4, 0.9), ("agent-reset_last", 0): agent(0.2, 0.7)})
    assert gain(results, "agent-reset_last")[0] == pytest.approx((0.4 - 0.2) / 0.5 - (0.9 - 0.7))
    results.tables["agent-reset_last", 0]["accuracy"][-1] = 1.0
    assert gain(results, "agent-reset_last")[0] == pytest.approx(0.4)  # nothing for a better policy


def prescribed() -> Results:
    """Four seeds: units took most in even ones, norms in odd ones; L2 works in even seeds, ReDo in odd ones."""
    tables = {}
    for seed in range(4):
        even = seed % 2 == 0
        parts = {"units": 0.7, "norm growth": 0.3} if even else {"units": 0.2, "norm growth": 0.5}
        tables["relu-none", seed] = table(0.2, 1.0, 1.0, 1.0, lost=parts)
        ends = dict.fromkeys(SITUATIONS["relu"].treatments(Settings()), 1.0) | {
            "l2": 0.4 if even else 0.9, "redo": 0.8 if even else 0.3, "layer_norm": 0.7, "layer_norm+l2": 0.2,
        }  # fmt: skip
        for cure, end in ends.items():
            if cure != "none":
                tables[arm("relu", cure), seed] = table(0.2, end, end, end)
    return Results(tables)


def test_advice_and_best_cure_are_chosen_on_half_of_the_seeds_and_scored_on_the_other() -> None:
    results = prescribed()
    even, odd = (choose(results, "relu", np.array(places)) for places in ([0, 2], [1, 3]))
    assert (even.first, even.second, even.best) == ("layer_norm", "l2", "l2")
    assert (odd.first, odd.second, odd.best) == ("l2", "layer_norm", "redo")
    choices = {said: scored(results, "relu", score) for said, score in prescription.CHOICES.items()}
    assert choices["cure of the largest share"] == pytest.approx([0.6, 0.3, 0.6, 0.3])  # l2 in even, layer norm in odd
    assert choices["best single cure"] == pytest.approx([0.2, 0.1, 0.2, 0.1])  # ReDo in even, l2 in odd
    assert choices["cures of the two largest"] == pytest.approx([0.8] * 4)
    assert choices["layer norm + L2"] == pytest.approx([0.8] * 4)
    assert choices["median of the others"] == pytest.approx([0.0] * 4)


def test_a_situation_alone_decides_no_claim_and_two_without_loss_neither() -> None:
    reasons = {claim.check(prescribed()).reason for claim in prescription.claims(("relu",))}
    assert reasons == {"fewer than two situations lost plasticity"}
    unlearned = Results({key: {**t, "probe_fresh": 0.9 + 0 * t["loss"]} for key, t in prescribed().tables.items()})
    assert "which does not count: fresh networks did not learn" in prescription.sentences(unlearned)["relu-none"]
    healthy = Results({key: {**t, "lost": 0 * t["loss"]} for key, t in prescribed().tables.items()})
    assert "too little to count" in prescription.sentences(healthy)["relu-none"]
    assert "advice over all seeds: layer norm, then L2" in prescription.sentences(prescribed())["relu-none"]


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_situation_has_eight_cures_and_one_for_each_mechanism_and_pair(name: str) -> None:
    situation, settings = SITUATIONS[name], Settings()
    treatments = situation.treatments(settings)
    cures = [situation.prescribed(m) for m in situation.mechanisms]
    assert len(situation.cures(settings)) == 8
    assert len(set(cures)) == len(cures)
    assert set(cures) <= set(treatments)
    assert len(treatments) == 9 + len(cures) * (len(cures) - 1) // 2
    assert situation.fixed in treatments
    setups = EXPERIMENT.setup(EXPERIMENT.settings("laptop", [f"only={name}"]))
    for cure in treatments:
        trial = setups.arms[arm(name, cure)].trial
        assert isinstance(trial.chain, Chain)
        normed = sum(isinstance(i, LayerNorm) for i in trial.chain)
        assert normed == (situation.normed or "layer_norm" in cure) - (cure == "nap")
        assert any(isinstance(m, Mechanisms) for m in trial.measures) == (cure == "none")


def test_an_unknown_situation_shows_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown situation 'gleu': did you mean 'gelu'"):
        EXPERIMENT.setup(EXPERIMENT.settings("smoke", ["only=gleu"]))


def test_the_advice_tells_what_the_kept_run_found() -> None:
    run = opened(latest(Path(__file__).parents[2] / "results", EXPERIMENT, "laptop"))
    counted = [name for name in SITUATIONS if not prescription.left_out(run.results, name)]
    means = {
        said: np.mean([scored(run.results, name, score).mean() for name in counted])
        for said, score in prescription.CHOICES.items()
    }
    two, one, fixed, best = (
        f"{means[said]:.2f}"
        for said in ("cures of the two largest", "cure of the largest share", "layer norm + L2", "best single cure")
    )
    for told in (f"in {len(counted)} situations", f"together gave back {two}", f"alone {one}", f"causes {fixed}"):
        assert told in SHOWN
    assert SHOWN.endswith(f"the best single cure of eight {best}")
