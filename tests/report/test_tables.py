"""Tables on a terminal of 80 columns, and the same for programs."""

import json
import subprocess
import sys
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from pliant.claims import Claim
from pliant.experiment import Column
from pliant.report.tables import claims_data, closing, print_claims, print_closing, tally
from pliant.results import Results
from tests.report.synthetic import SETUP, results


def printed(show, *arguments, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    show(console, *arguments)
    return console.file.getvalue()


def text(lines: str) -> str:
    return " ".join(lines.split())


def test_the_closing_table_has_means_with_intervals() -> None:
    table = closing(SETUP, results())
    assert table.headings == ["first\ntask", "accu-\nracy", "norm"]
    assert [row.label for row in table.rows] == ["no intervention", "L2 <b>&"]
    assert [str(cell) for cell in table.rows[1].cells] == ["0.80 ± 0.05", "0.72 ± 0.05", "3.0 ± 0.0"]


def test_one_seed_has_no_interval() -> None:
    assert next(str(cell) for cell in closing(SETUP, results(seeds=1)).rows[0].cells) == "0.49"
    assert "one seed" in printed(print_closing, SETUP, results(seeds=1))


def test_a_diverged_seed_is_said() -> None:
    made = results(diverged={("none", 1): 27} | {("l2", seed): 5 for seed in range(3)})
    none, l2 = closing(SETUP, made).rows
    assert not none.cells[0].value.endswith("†")
    assert none.cells[1].value.endswith("†")
    assert [str(cell) for cell in l2.cells] == ["diverged"] * 3
    shown = text(printed(print_closing, SETUP, made))
    assert "no intervention: seed 1 diverged at step 27 († means over the others)" in shown
    assert "seeds 0, 1, 2 diverged at step 5" in shown


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("columns", [1, 3, 6])
@pytest.mark.parametrize("heading", ["accu-\nracy", "last task", "norm ratio"])
def test_the_closing_table_fits_and_loses_no_number(heading: str, columns: int, width: int) -> None:
    setup = replace(SETUP, table=tuple(Column(heading, "accuracy") for _ in range(columns)))
    shown = printed(print_closing, setup, results(), width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert shown.count("0.72") == columns
    assert shown.count("± 0.05") == columns


def test_claims_fit_and_say_everything() -> None:
    checked = [claim.check(results()) for claim in SETUP.claims]
    shown = printed(print_claims, checked)
    assert max(map(len, shown.splitlines())) <= 80
    for part in (
        "holds L2 ends above nothing. ours 0.300 [0.275, 0.325]",
        "needs > 0; paper: 0.3",
        "fails Nothing ends above L2. ours \N{MINUS SIGN}0.300 [\N{MINUS SIGN}0.325",
        "needs > 0.99 (our threshold); paper: direction only",
        "precondition not met: nothing reaches 2",
        "1 of 3 claims hold, 1 fails, 1 inconclusive",
    ):
        assert part in text(shown), part


def test_square_brackets_are_no_markup() -> None:
    checked = [Claim("accuracy [bold] in [0, 1]", lambda r: np.array([1.0, 2.0, 3.0])).check(results())]
    assert "accuracy [bold] in [0, 1]" in printed(print_claims, checked)


@pytest.mark.parametrize("made", [results(), results(seeds=1), results(diverged={("l2", 0): 5})], ids=["3", "1", "nan"])
def test_claims_for_programs_are_json(made: Results) -> None:
    data = claims_data([claim.check(made) for claim in SETUP.claims])
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert {
        "text",
        "verdict",
        "effect",
        "threshold",
        "threshold_is_ours",
        "needs",
        "paper",
        "reason",
        "given",
        "p",
        "p_holm",
    } == set(data[0])
    assert data[2]["given"] == ["nothing reaches 2"]


def test_a_column_that_was_not_measured_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        closing(replace(SETUP, table=(Column("x", "acuracy"),)), results())


def test_a_column_that_other_arms_have_is_a_dash() -> None:
    made = results()
    for seed in made.seeds:
        del made.tables["l2", seed]["norm"]
    assert [str(row.cells[2]) for row in closing(SETUP, made).rows] == [
        str(closing(SETUP, results()).rows[0].cells[2]),
        "\N{EN DASH}",
    ]


def test_no_claims() -> None:
    assert tally([]) == "no claims"


def test_tables_need_neither_matplotlib_nor_torch() -> None:
    code = "import sys, pliant.report.tables; assert not {'matplotlib', 'torch', 'jinja2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
