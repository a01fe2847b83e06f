"""Comparisons: values as hand-computed, pairs by seed, and the page."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pliant.functional.statistics import interval
from pliant.plots.figures import figure
from pliant.report.compare import compare, comparison_data, differences, grids, print_comparison
from pliant.report.compare_page import compare_page, overlay
from pliant.report.stored import Stored
from pliant.results import Results
from tests.report.stores import KNOWN, run
from tests.report.synthetic import SETUP, Settings, results, without_tasks
from tests.report.test_page import Reader

BUMPS = np.array([0.0, 0.1, 0.4])  # by which the second run's seeds end above the first's


def bumped() -> Results:
    """`results()` with each seed's accuracy raised by its bump."""
    tables = results().tables.items()
    return Results({key: {**table, "accuracy": table["accuracy"] + BUMPS[key[1]]} for key, table in tables})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Stored]:
    root = tmp_path_factory.mktemp("runs")
    return [run(root), run(root, Settings(l2=0.25), made=bumped())]


def test_differences_are_paired_by_seed(two: list[Stored]) -> None:
    made = compare(two, ["accuracy", "norm"])
    assert [d.label for d in made.differences] == [
        "no intervention: B \N{MINUS SIGN} A",
        "L2 <b>&: B \N{MINUS SIGN} A",
    ]
    for one in made.differences:
        assert one.pairs == 3
        np.testing.assert_allclose(one.found[0], interval(BUMPS))
        np.testing.assert_allclose(one.found[1], 0.0, atol=1e-12)


def test_the_table_has_every_arm_of_every_run_those_of_an_arm_together(two: list[Stored]) -> None:
    made = compare(two)
    assert made.table.headings == ["accuracy", "norm"]
    assert [row.label for row in made.table.rows] == [
        "A no intervention",
        "B no intervention",
        "A L2 <b>&",
        "B L2 <b>&",
    ]
    assert str(made.table.rows[2].cells[0]) == "0.72 ± 0.05"
    assert dict(made.about)["l2"] == ["0.5", "0.25"]
    assert "hidden" not in dict(made.about)


def test_runs_without_tasks_are_compared_by_what_was_measured_last(tmp_path: Path) -> None:
    made = [run(tmp_path, made=without_tasks(results()))]
    made += [run(tmp_path, Settings(l2=0.25), made=without_tasks(bumped()))]
    found = compare(made, ["accuracy"])
    for one in found.differences:
        np.testing.assert_allclose(one.found[0], interval(BUMPS))
    assert {plot.over for plot in overlay(found).plots} == {"step"}
    Reader(compare_page(found))


def test_plots_of_some_arms_are_compared_in_all(tmp_path: Path) -> None:
    some = replace(KNOWN["made/up"], setup=lambda s: replace(SETUP, plots=(replace(SETUP.plots[0], arms=("l2",)),)))
    drawn = overlay(compare([run(tmp_path, experiment=some), run(tmp_path, Settings(l2=0.25), experiment=some)]))
    assert [len(plot.curves(made, drawn.look)) for plot, made in zip(drawn.plots, drawn.results, strict=True)] == [2, 2]


def test_only_common_seeds_are_paired(tmp_path: Path) -> None:
    one = run(tmp_path, seeds=[0, 1, 2])
    other = run(tmp_path, Settings(l2=0.25), seeds=[2, 3], made=results(seeds=4))
    (first, *_) = compare([one, other], ["accuracy"]).differences
    assert first.pairs == 1
    assert np.isnan(first.found[0].low)
    apart = run(tmp_path, Settings(l2=0.125), seeds=[3], made=results(seeds=4))
    made = compare([one, apart], ["accuracy"])
    assert [(d.pairs, d.found) for d in made.differences] == [(0, [None])] * 2
    assert str(differences(made).rows[0].cells[1]) == "\N{EN DASH}"


def test_one_run_compares_its_arms_with_the_first(two: list[Stored]) -> None:
    (only,) = compare(two[:1], ["accuracy"]).differences
    assert only.label == "L2 <b>& \N{MINUS SIGN} no intervention"
    np.testing.assert_allclose(only.found[0], interval(np.array([0.29, 0.30, 0.31])))


def test_arms_without_a_counterpart_are_compared_with_the_first(tmp_path: Path, two: list[Stored]) -> None:
    other = replace(KNOWN["made/up"], id="made/else", setup=lambda s: replace(SETUP, arms={"both": SETUP.arms["l2"]}))
    tables = {("both", seed): table for (arm, seed), table in bumped().tables.items() if arm == "l2"}
    made = compare([two[0], run(tmp_path, arms=["both"], made=Results(tables), experiment=other)])
    (only,) = made.differences
    assert only.label == "B L2 <b>& \N{MINUS SIGN} A no intervention"
    drawn = overlay(made)
    assert drawn.results[0].arms == ["none", "l2", "both"] == list(drawn.look.labels)
    assert len(drawn.plots) == 1
    Reader(compare_page(made))


def test_diverged_seeds_are_left_out_and_said(tmp_path: Path, two: list[Stored]) -> None:
    gone = run(tmp_path, Settings(l2=0.25), made=results(diverged={("l2", 1): 27}))
    made = compare([two[0], gone], ["accuracy"])
    assert [d.diverged for d in made.differences] == [[0], [1]]
    np.testing.assert_allclose(made.differences[1].found[0], 0.0, atol=1e-12)
    assert "\N{DAGGER}" in str(differences(made).rows[1].cells[1])
    assert "seed 1 diverged at step 27" in compare_page(made)


def test_a_metric_that_not_all_have_is_refused(two: list[Stored], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown metric of all runs 'acuracy': did you mean 'accuracy'"):
        compare(two, ["acuracy"])
    bare = Results({k: {n: t[n] for n in ("step", "task", "end", "diverged_at")} for k, t in results().tables.items()})
    with pytest.raises(ValueError, match="no metric in common"):
        compare([two[0], run(tmp_path, made=bare)])
    with pytest.raises(ValueError, match="1 to 26 runs"):
        compare([])


@pytest.mark.parametrize("width", [80, 60])
def test_a_terminal_loses_no_number(two: list[Stored], width: int) -> None:
    console = Console(file=StringIO(), width=width)
    print_comparison(console, compare(two))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert shown.count("± 0.52") == 2


def test_for_programs_and_papers(two: list[Stored]) -> None:
    made = compare(two)
    data = comparison_data(made)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    np.testing.assert_allclose(data["differences"][0]["accuracy"]["mean"], BUMPS.mean())
    about, table, paired = [grid.text("md") for grid in grids(made)]
    assert "| l2         | 0.5     | 0.25    |" in about
    assert "| A no intervention |" in table
    assert "| no intervention: B \N{MINUS SIGN} A |     3 | 0.17 ± 0.52 |" in paired
    assert all(grid.text("latex").count(r"\toprule") == 1 for grid in grids(made))


def test_runs_that_share_arms_are_laid_over_each_other(two: list[Stored]) -> None:
    made = compare(two)
    plots, each, look = overlay(made, "norm")
    assert [plot.title for plot in plots] == ["no intervention", "L2 <b>&"]
    assert [results.arms for results in each] == [["A", "B"], ["A", "B"]]
    assert list(look.labels.values()) == ["A  l2=0.5", "B  l2=0.25"]
    assert plots[0].limits == plots[1].limits
    assert all(plot.log and plot.over == "task" for plot in plots)
    figure("norm", plots, each, look).draw_without_rendering()


def test_the_page_is_self_contained_and_repeatable(two: list[Stored]) -> None:
    text = compare_page(compare(two))
    assert compare_page(compare(two)) == text
    for tag, attributes in Reader(text).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        assert all(str(attributes[name]).startswith("data:") for name in ("src", "srcset") if name in attributes)
        assert (attributes.get("href") or "data:").startswith("data:") or tag == "a"
    assert str(two[0].folder.parent) not in text
    for part in (
        "2 runs side by side",
        '<th scope="rowgroup" colspan="3">L2 &lt;b&gt;&amp;</th></tr>\n<tr><th scope="row">A</th>',
        '<th scope="row">B \N{MINUS SIGN} A</th>',
        "0.17 <small>± 0.52</small>",
        "@inproceedings{lyle2023,",
    ):
        assert part in text
