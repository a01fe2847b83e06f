"""Numbers beside the code that made them: what was edited, renamed or added since is told, and claims know it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pliant.experiment import Arm, Experiment, Setup
from pliant.interventions import L2, Chain
from pliant.report.compare import compare
from pliant.report.index import index
from pliant.report.keep import keep
from pliant.report.ledger import ledger
from pliant.report.page import page
from pliant.report.stored import Stored, opened
from tests.report.stores import KNOWN, written
from tests.report.synthetic import Settings
from tests.report.test_page import Reader

MADE = KNOWN["made/up"]


def edited(arms: dict[str, Arm]) -> Experiment:
    """The experiment with other arms in its code."""

    def setup(settings: Settings) -> Setup:
        return replace(MADE.setup(settings), arms=arms)

    return replace(MADE, setup=setup)


def arms() -> dict[str, Arm]:
    return dict(MADE.setup(Settings()).arms)


def stronger(arm: Arm) -> Arm:
    return replace(arm, trial=replace(arm.trial, chain=Chain(L2(0.07))))  # type: ignore[type-var]


def reopened(root: Path, experiment: Experiment, recorded: bool = True) -> Stored:
    return opened(written(root, recorded=recorded), {MADE.id: experiment})


def test_an_arm_that_was_edited_is_shown_as_it_was_and_claims_on_it_are_inconclusive(tmp_path: Path) -> None:
    run = reopened(tmp_path, edited({**arms(), "l2": stronger(arms()["l2"])}))
    told = "chain (L2(strength=0.5),), here (L2(strength=0.07),)"
    assert run.changed == {"l2": told}
    assert [one.verdict for one in run.checked()] == ["inconclusive"] * 3
    assert run.checked()[0].reason == f"arm 'l2' was trained by another definition: {told}"
    made = page(run, run.checked())
    Reader(made)
    assert "L2 &lt;b&gt;&amp; (another definition)" in made
    assert "(L2(strength=0.5),)" in made
    assert "differs from this version" in made
    assert compare([run]).table.rows[1].label == "L2 <b>& (another definition)"
    known = {MADE.id: run.experiment}
    assert "trained by another definition" in ledger(tmp_path, known)
    assert ' 3<i class="hidden"> inconclusive</i>' in index(tmp_path, known)
    kept = opened(keep(run, tmp_path / "results").folder, known)
    assert kept.changed == run.changed
    assert [one.reason for one in kept.checked()] == [one.reason for one in run.checked()]


def test_claims_on_other_arms_stand(tmp_path: Path) -> None:
    last = lambda r: r.last("none", "accuracy") - 0.1  # noqa: E731
    claims = (*MADE.setup(Settings()).claims, replace(MADE.setup(Settings()).claims[0], text="alone", effect=last))
    setup = replace(MADE.setup(Settings()), arms={**arms(), "l2": stronger(arms()["l2"])}, claims=claims)
    run = reopened(tmp_path, replace(MADE, setup=lambda settings: setup))
    assert [one.verdict for one in run.checked()] == ["inconclusive"] * 3 + ["holds"]


def test_an_arm_that_was_added_changes_no_verdict(tmp_path: Path) -> None:
    before = reopened(tmp_path, MADE)
    more = reopened(tmp_path, edited({**arms(), "more": replace(stronger(arms()["l2"]), label="more")}))
    assert more.changed == {}
    assert [(one.verdict, one.effect) for one in more.checked()] == [(o.verdict, o.effect) for o in before.checked()]
    assert {one.verdict for one in more.checked()} >= {"holds", "fails"}
    known = {MADE.id: more.experiment}
    assert ledger(tmp_path, known) == ledger(tmp_path, {MADE.id: MADE})


def test_pages_of_a_run_with_a_renamed_arm_work(tmp_path: Path) -> None:
    run = reopened(tmp_path, edited({"none": arms()["none"], "weight_decay": arms()["l2"]}))
    made = page(run, run.checked())
    Reader(made)
    assert "l2 (not in this version)" in made
    assert "0.72" in made  # its numbers
    assert [one.verdict for one in run.checked()] == ["inconclusive"] * 3
    assert "was trained by another definition: this version has no such arm" in run.checked()[0].reason
    assert "pliant run made/up --tier laptop --seeds 3 --arms none" in made
    assert compare([run]).table.rows[1].label == "l2 (not in this version)"
    assert opened(keep(run, tmp_path / "results").folder, {MADE.id: run.experiment}).arms == ("none", "l2")


def test_what_was_stored_before_definitions_were_says_so_and_keeps_its_verdicts(tmp_path: Path) -> None:
    run = reopened(tmp_path, edited({**arms(), "l2": stronger(arms()["l2"])}), recorded=False)
    assert run.changed == {}
    assert {one.verdict for one in run.checked()} >= {"holds", "fails"}
    made = page(run, run.checked())
    assert "not recorded" in made
    assert "strength=" not in made  # today's code is not what made these numbers


def test_a_new_field_with_a_default_and_another_label_orphan_nothing(tmp_path: Path) -> None:
    labelled = {name: replace(arm, label=f"{arm.label}, renamed") for name, arm in arms().items()}
    assert reopened(tmp_path, edited(labelled)).changed == {}


def test_seeds_of_several_definitions_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, recorded=True)
    store = opened(folder, {MADE.id: MADE}).store
    how = {"mode": "vmap", "threads": 1, "total_seconds": 1.0, "definition": {"kind": "another"}}
    table = {name: np.asarray(v) for name, v in store.results(["l2"], [1]).tables["l2", 1].items()}
    store.write("l2", {1: table}, how, rerun=True)
    with pytest.raises(ValueError, match=r"has an arm l2 of several definitions \(seed 1\)"):
        opened(folder, {MADE.id: MADE}).checked()
