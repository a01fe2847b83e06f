"""Kept results: smaller, and the same to everyone who reads them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pliant.report.stored
from pliant.cli import main
from pliant.plots import Cells
from pliant.report.index import index
from pliant.report.keep import keep
from pliant.report.ledger import ledger
from pliant.report.page import page
from pliant.report.stored import Stored, opened
from pliant.results import Results
from pliant.run.store import Store
from tests.report.stores import KNOWN, run, written
from tests.report.synthetic import SETUP, Settings, results


def more(made: Results) -> Results:
    """`made` with a metric of a layer that nobody reads, and one that only a claim reads, at every third step."""
    tables = {}
    for key, table in made.tables.items():
        third = np.where(table["step"] % 3 == 0, table["step"], np.nan)
        tables[key] = {**table, "dead/0": table["norm"], "dead/1": third, "dead": table["norm"], "loss": third}
    return Results(tables)


def text(one: Stored, root: Path) -> str:
    """The report of a run."""
    return page(one, one.checked())


def test_page_ledger_and_index_are_the_same(tmp_path: Path) -> None:
    one = run(tmp_path / "runs", made=more(results()))
    kept = keep(one, tmp_path / "results")
    again = opened(kept.folder, KNOWN)
    assert kept.after < kept.before
    lines = text(one, tmp_path / "runs").splitlines()
    added = [line for line in text(again, tmp_path / "results").splitlines() if line not in lines]
    assert [line for line in text(again, tmp_path / "results").splitlines() if line not in added] == lines
    assert len(added) == 1
    assert f"Drawn from a kept copy, <code>made/up/{kept.folder.name}</code>" in added[0]
    assert ledger(tmp_path / "results", KNOWN) == ledger(tmp_path / "runs", KNOWN)
    assert index(tmp_path / "results", KNOWN) == index(tmp_path / "runs", KNOWN)


def test_what_the_figure_and_the_claims_read_is_kept_to_the_bit(tmp_path: Path) -> None:
    one = run(tmp_path / "runs", made=more(results()))
    found = opened(keep(one, tmp_path / "results").folder, KNOWN).results
    for key, table in one.results.tables.items():
        assert "dead/0" not in found.tables[key]
        assert len(found.tables[key]["step"]) == 50  # the panel of the norm is over steps
        for name in found.tables[key]:
            np.testing.assert_array_equal(found.tables[key][name], table[name])
            assert found.tables[key][name].dtype == table[name].dtype


def test_rows_that_nobody_reads_go(tmp_path: Path) -> None:
    claims = (
        replace(SETUP.claims[0], effect=lambda r: np.array([np.nansum(r.tables["l2", s]["dead/1"]) for s in r.seeds])),
    )
    setup = replace(SETUP, plots=SETUP.plots[:1], table=SETUP.table[:1], claims=claims)
    experiment = replace(KNOWN["made/up"], setup=lambda settings: setup)
    one = run(tmp_path / "runs", made=more(results()), experiment=experiment)
    found = opened(keep(one, tmp_path / "results").folder, {"made/up": experiment}).results
    step = found.tables["l2", 0]["step"]
    assert all(s % 3 == 0 or s % 10 == 0 for s in step)
    assert len(step) == 16 + 5 - 1
    assert "dead/1" in found.tables["l2", 0]


def test_a_claim_that_needs_what_is_dropped_is_named(tmp_path: Path) -> None:
    claims = (replace(SETUP.claims[0], effect=lambda r: np.array([len(r.tables["l2", s]["step"]) for s in r.seeds])),)
    setup = replace(SETUP, plots=SETUP.plots[:1], table=SETUP.table[:1], claims=claims)
    one = run(tmp_path / "runs", experiment=replace(KNOWN["made/up"], setup=lambda settings: setup))
    with pytest.raises(ValueError, match=r"'L2 ends above nothing\.' needs rows"):
        keep(one, tmp_path / "results")
    assert not list(tmp_path.glob("results/**/*.parquet"))


def test_folders_of_this_machine_are_not_kept(tmp_path: Path) -> None:
    one = run(tmp_path / "runs", Settings(data="/home/someone/secret/pixels.npz"))
    kept = keep(one, tmp_path / "results")
    assert all(b"/home" not in path.read_bytes() for path in kept.folder.rglob("*") if path.is_file())
    assert opened(kept.folder, KNOWN).settings == Settings(data="pixels.npz")
    assert Store(tmp_path / "results", one.experiment, "laptop", Settings(data="pixels.npz")).folder == kept.folder


def test_keeping_again_replaces_and_a_whole_run_is_never_overwritten(tmp_path: Path) -> None:
    keep(run(tmp_path / "runs"), tmp_path / "results")
    kept = keep(run(tmp_path / "fewer", seeds=[0, 1]), tmp_path / "results")
    assert opened(kept.folder, KNOWN).seeds == (0, 1)
    assert sorted(path.name for path in kept.folder.iterdir()) == ["metrics.parquet", "run.json"]
    assert not list(kept.folder.parent.glob(".*"))
    with pytest.raises(ValueError, match="is a run of its own"):
        keep(opened(kept.folder, KNOWN), tmp_path / "runs")


def test_an_incomplete_run_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "runs", missing=[("l2", 1)])
    with pytest.raises(ValueError, match="has no arm l2 seed 1 yet"):
        keep(opened(folder, KNOWN), tmp_path / "results")


def test_some_arms_can_be_kept(tmp_path: Path) -> None:
    kept = keep(run(tmp_path / "runs", arms=["l2"]), tmp_path / "results")
    assert opened(kept.folder, KNOWN).arms == ("l2",)


def test_arms_kept_before_stay(tmp_path: Path) -> None:
    whole = keep(run(tmp_path / "runs", made=more(results())), tmp_path / "whole")
    keep(run(tmp_path / "first", made=more(results()), arms=["l2"]), tmp_path / "results")
    kept = keep(run(tmp_path / "second", made=more(results()), arms=["none"]), tmp_path / "results")
    assert (kept.stayed, kept.dropped) == (("l2",), ())
    both, once = opened(kept.folder, KNOWN), opened(whole.folder, KNOWN)
    assert sorted(both.arms) == sorted(once.arms)
    assert both.cells == once.cells
    for key, table in once.results.tables.items():
        found = both.results.tables[key]
        assert list(found) == list(table)
        for name in table:
            np.testing.assert_array_equal(found[name], table[name])
    again = keep(run(tmp_path / "third", made=more(results()), arms=["none"]), tmp_path / "results")
    assert again.stayed == ("l2",)
    assert again.after == kept.after


def test_the_command_says_what_stays_and_what_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pliant.report.stored, "experiments", lambda: KNOWN)
    for arm in ("l2", "none"):
        folder = written(tmp_path / arm, arms=[arm], recorded=True)
        assert main(["keep", str(folder), "--to", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["beside 1 of the arms that were kept before"]
    arms = {**SETUP.arms, "l2": replace(SETUP.arms["none"], label="something else")}
    edited = replace(KNOWN["made/up"], setup=lambda settings: replace(SETUP, arms=arms))
    monkeypatch.setattr(pliant.report.stored, "experiments", lambda: {"made/up": edited})
    assert main(["keep", str(folder), "--to", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["no longer kept, being trained otherwise in this version: l2"]


def test_arms_kept_before_need_the_same_seeds(tmp_path: Path) -> None:
    keep(run(tmp_path / "first", arms=["l2"]), tmp_path / "results")
    with pytest.raises(
        ValueError, match=r"keeps other arms \(l2\) with seeds 0, 1, 2, and the run has seeds 0, 1: run"
    ):
        keep(run(tmp_path / "second", arms=["none"], seeds=[0, 1]), tmp_path / "results")
    (folder,) = tmp_path.glob("results/made/up/*")
    assert opened(folder, KNOWN).arms == ("l2",)


def test_arms_that_are_trained_otherwise_now_are_dropped(tmp_path: Path) -> None:
    kept = keep(run(tmp_path / "first", arms=["l2"], recorded=True), tmp_path / "results")
    arms = {**SETUP.arms, "l2": replace(SETUP.arms["none"], label="something else")}
    edited = replace(KNOWN["made/up"], setup=lambda settings: replace(SETUP, arms=arms))
    again = keep(run(tmp_path / "second", arms=["none"], experiment=edited), tmp_path / "results")
    assert (again.folder, again.stayed, again.dropped) == (kept.folder, (), ("l2",))
    assert opened(again.folder, KNOWN).arms == ("none",)


def test_an_arm_that_nothing_reads_keeps_its_numbers(tmp_path: Path) -> None:
    plots = (Cells("norm", "norm", ("now",), {"alone": (lambda r: r.last("none", "norm"),)}),)
    claims = (replace(SETUP.claims[0], effect=lambda r: r.last("none", "norm")),)
    setup = replace(SETUP, plots=plots, table=(), claims=claims)
    experiment = replace(KNOWN["made/up"], setup=lambda settings: setup)
    made = Results(
        {
            (arm, seed): {n if n != "norm" or arm == "none" else "height": v for n, v in t.items() if n != "end"}
            for (arm, seed), t in results().tables.items()
        }
    )
    found = opened(
        keep(run(tmp_path / "runs", made=made, experiment=experiment), tmp_path / "results").folder,
        {"made/up": experiment},
    ).results
    np.testing.assert_array_equal(found.tables["l2", 0]["height"], made.tables["l2", 0]["height"])
    np.testing.assert_array_equal(found.tables["none", 0]["norm"], made.tables["none", 0]["norm"])


def test_what_a_figure_computes_is_kept(tmp_path: Path) -> None:
    sums = lambda r: np.array([np.nansum(r.tables["l2", s]["dead/1"]) for s in r.seeds])  # noqa: E731
    setup = replace(SETUP, plots=(Cells("norm", "norm", ("sum",), {"alone": (sums,)}),), table=(), claims=())
    experiment = replace(KNOWN["made/up"], setup=lambda settings: setup)
    one = run(tmp_path / "runs", made=more(results()), experiment=experiment)
    found = opened(keep(one, tmp_path / "results").folder, {"made/up": experiment}).results
    np.testing.assert_array_equal(sums(found), sums(one.results))
