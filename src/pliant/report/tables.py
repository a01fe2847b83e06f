"""What each arm ends with, and what became of each claim: on a terminal, for programs, as Markdown and LaTeX."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from pliant.claims import Checked, Verdict
from pliant.experiment import Column, Setup
from pliant.formats import Grid
from pliant.functional.statistics import interval
from pliant.numbers import diverged, half, number, with_interval
from pliant.results import Results
from pliant.terminal import GAP, filled, paragraph, piped, print_grid, width

COLOURS = {"holds": "green", "fails": "red", "inconclusive": "yellow"}
DAGGER = "\N{DAGGER}"


class Cell(NamedTuple):
    """A value such as `0.98` and half of its 95 % interval such as `± 0.01`, empty for one seed."""

    value: str
    spread: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.spread}".strip()


class Row(NamedTuple):
    """One arm: its name, its label, a cell for each column, and what happened to its seeds ("" if nothing)."""

    arm: str
    label: str
    cells: list[Cell]
    note: str


class Closing(NamedTuple):
    """The closing table; headings may hold line breaks, after a hyphen where they split a word."""

    headings: list[str]
    rows: list[Row]


def closing(setup: Setup, results: Results) -> Closing:
    """What each arm has at the end of its first or last task, over seeds; `ValueError` for a metric not measured.

    A cell with a dagger is the mean over the seeds that have not diverged by then; it says so where none is left.
    """
    rows = [
        Row(name, arm.label, [cell(results, name, column) for column in setup.table], note(results, name))
        for name, arm in setup.arms.items()
        if name in results.arms
    ]
    return Closing([column.heading for column in setup.table], rows)


def print_closing(console: Console, setup: Setup, results: Results) -> None:
    """Prints the closing table and what its numbers are."""
    table = closing(setup, results)
    print_rows(console, table)
    paragraph(console, explained(results), style="dim")
    for row in table.rows:
        if row.note:
            paragraph(console, f"{row.label}: {row.note}", style="yellow")


def print_rows(console: Console, table: Closing) -> None:
    """Prints a table of cells; where the console is too narrow, intervals go under their values, then headings wrap."""
    columns = "l" + "r" * len(table.headings)
    flat = Grid(["", *table.headings], [[row.label, *map(str, row.cells)] for row in table.rows], columns)
    if piped(console) or width(flat) <= console.width:
        print_grid(console, flat)
        return
    rows = [[row.label, *(f"{c.value}\n{c.spread}".rstrip() for c in row.cells)] for row in table.rows]
    under = Grid(["", *table.headings], rows, "p" + columns[1:])
    wrapped = under._replace(headings=[heading.replace(" ", "\n") for heading in under.headings])
    print_grid(console, under if width(under) <= console.width else wrapped)


def closing_grid(setup: Setup, results: Results) -> Grid:
    """The closing table for Markdown and LaTeX."""
    table = closing(setup, results)
    notes = [explained(results), *(f"{row.label}: {row.note}" for row in table.rows if row.note)]
    return grid(table, "arm", notes)


def grid(table: Closing, first: str, notes: Sequence[str] = ()) -> Grid:
    """A table of cells for Markdown and LaTeX; `first` heads the labels."""
    headings = [first, *(h.replace("-\n", "").replace("\n", " ") for h in table.headings)]
    rows = [[row.label, *map(str, row.cells)] for row in table.rows]
    return Grid(headings, rows, "l" + "r" * len(table.headings), notes)


def claims_grid(checked: list[Checked]) -> Grid:
    """The claims for Markdown and LaTeX."""
    rows = [
        [
            one.claim.text,
            one.verdict + (f" ({one.reason})" if one.reason else ""),
            effect(one),
            threshold(one),
            one.claim.paper,
        ]
        for one in checked
    ]
    return Grid(["claim", "verdict", "ours", "needs", "paper"], rows, "ppllp", [tally(checked)])


def print_claims(console: Console, checked: list[Checked]) -> None:
    """Prints each claim with its verdict, our number and the paper's, and how many hold."""
    first = max((len(one.verdict) for one in checked), default=0) + GAP
    for one in checked:
        colour = COLOURS[one.verdict]
        detail = f"ours {effect(one)}, needs {threshold(one)}{p_values(one)}; paper: {one.claim.paper}"
        text, *more = filled(one.claim.text, max(30, console.width - first))
        console.print(Text.assemble((f"{one.verdict:<{first}}", f"bold {colour}"), text), soft_wrap=True)
        for line in more:
            console.print(Text(" " * first + line), soft_wrap=True)
        paragraph(console, detail, " " * first, "dim")
        paragraph(console, one.reason, " " * first, colour)
    paragraph(console, tally(checked))


def claims_data(checked: list[Checked]) -> list[dict[str, Any]]:
    """Claims, verdicts and numbers, ready for JSON; None where a number is not finite."""
    return [
        {
            "text": one.claim.text,
            "verdict": one.verdict,
            "reason": one.reason,
            "effect": {name: value if math.isfinite(value) else None for name, value in one.effect._asdict().items()},
            "threshold": one.claim.threshold,
            "needs": one.claim.needs,
            "threshold_is_ours": one.claim.ours,
            "p": one.p if math.isfinite(one.p) else None,
            "p_holm": one.adjusted if math.isfinite(one.adjusted) else None,
            "paper": one.claim.paper,
            "given": [given.text for given in one.claim.given],
        }
        for one in checked
    ]


def effect(one: Checked) -> str:
    """Our number with its interval."""
    return with_interval(one.effect) if math.isfinite(one.effect.mean) else "no number"


def threshold(one: Checked) -> str:
    """What the effect is held against, and whose choice that is where it is ours."""
    return one.claim.needs + (" (our threshold)" if one.claim.ours else "")


def p_values(one: Checked) -> str:
    """The one-sided p value and Holm's beside it; empty for a claim that could not be tested."""
    if not math.isfinite(one.adjusted):
        return ""
    return "; p " + ", Holm ".join("< 0.0001" if p < 1e-4 else f"{p:.2g}" for p in (one.p, one.adjusted))


def tally(checked: list[Checked]) -> str:
    """How many claims hold, fail and are inconclusive.

    >>> tally([])
    'no claims'
    """
    counts = Counter(one.verdict for one in checked)
    said = [
        f"{counts['holds']} of {len(checked)} claims hold" if len(checked) > 1 else "the claim holds" * counts["holds"]
    ]
    said += [f"{counts['fails']} {'fail' if counts['fails'] > 1 else 'fails'}"] if counts["fails"] else []
    said += [f"{counts['inconclusive']} inconclusive"] if counts["inconclusive"] else []
    return ", ".join(s for s in said if s) if checked else "no claims"


def counted(verdicts: Sequence[Verdict]) -> str:
    """How often each verdict comes, "" for none.

    >>> counted(["holds", "fails", "holds", "inconclusive"])
    '2 hold, 1 fails, 1 inconclusive'
    """
    plural = {"holds": "hold", "fails": "fail", "inconclusive": "inconclusive"}
    counts = Counter[str](verdicts)
    return ", ".join(f"{counts[v]} {v if counts[v] == 1 else word}" for v, word in plural.items() if counts[v])


def explained(results: Results) -> str:
    """What the numbers of a closing table are."""
    seeds = len(results.seeds)
    return f"mean ± half of the 95 % interval over {seeds} seeds" if seeds > 1 else "one seed"


def cell(results: Results, arm: str, column: Column) -> Cell:
    """What an arm has in one column; a dash where only other arms were measured so."""
    if not results.has(arm, column.column) and column.column in results.columns():
        return Cell(number(float("nan"), 0))
    values = results.first(arm, column.column) if column.task == "first" else results.last(arm, column.column)
    left = values[np.isfinite(values)]
    gone = any(name == arm for name, _ in results.diverged())
    if not len(left):
        return Cell("diverged" if gone else number(float("nan"), 0))
    found = interval(left)
    spread = f"± {number(half(found), column.digits)}" if len(left) > 1 else ""
    return Cell(number(found.mean, column.digits) + (DAGGER if len(left) < len(values) else ""), spread)


def note(results: Results, arm: str) -> str:
    """What happened to the seeds of an arm."""
    said = diverged(results, arm)
    if not said or sum(name == arm for name, _ in results.diverged()) == len(results.seeds):
        return said
    return f"{said} ({DAGGER} means over the others)"
