"""Runs side by side: what each arm ends with, differences paired by seed, and one metric over the tasks."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from pliant.experiment import Column
from pliant.formats import Grid
from pliant.functional.statistics import Interval, interval
from pliant.numbers import MINUS, decimals, half, number
from pliant.report.stored import Stored, text
from pliant.report.tables import DAGGER, Cell, Closing, Row, cell, grid, note, print_rows
from pliant.run.names import BOOKKEEPING
from pliant.terminal import paragraph, print_grid
from pliant.words import unknown

NONE = "\N{EN DASH}"
EXPLAINED = (
    "Mean ± half of the 95 % interval over seeds, at the end of the last task.",
    "Mean of the differences, taken seed by seed, ± half of its 95 % interval; each interval stands for itself alone.",
)


class Difference(NamedTuple):
    """What one arm has more than another at the end of the last task, over the seeds that both have.

    `found` holds an interval a metric; it is of `pairs` seeds, less those that diverged.
    """

    arm: str
    label: str
    pairs: int
    found: list[Interval | None]
    diverged: list[int]


@dataclass(frozen=True)
class Comparison:
    """Some runs, by the letters A, B, ..., and what they have in common.

    Args:
        runs: in the order they were given; the first is what the others are compared with.
        columns: the metrics that are shown.
        about: facts and settings in which the runs may differ, one value a run.
        table: one row for each run and arm, those of an arm together.
        differences: of each arm to the arm of that name in the first run, or else to the first run's first arm; for a
            single run, of each arm to its first; those of an arm together.
    """

    runs: tuple[Stored, ...]
    columns: tuple[Column, ...]
    about: list[tuple[str, list[str]]]
    table: Closing
    differences: list[Difference]

    @property
    def letters(self) -> str:
        """One letter a run."""
        return string.ascii_uppercase[: len(self.runs)]


def compare(runs: Sequence[Stored], metrics: Sequence[str] = ()) -> Comparison:
    """Compares runs of one experiment or of several.

    Args:
        runs: 1 to 26 of them.
        metrics: names of metrics that all runs have; those of their closing tables where none is given.

    Raises:
        ValueError: for a metric that a run lacks, or where the runs have none in common.
    """
    if not 1 <= len(runs) <= 26:
        raise ValueError(f"expected 1 to 26 runs to compare, got {len(runs)}")
    columns = _columns(runs, metrics)
    each = _by_arm(runs)
    rows = [
        Row(arm, label_of(runs, at, arm), [cell(run.results, arm, c) for c in columns], note(run.results, arm))
        for arm, at, run in each
    ]
    table = Closing([column.heading for column in columns], rows)
    pairs = [(at, arm, _against(runs, at, arm)) for arm, at, _ in each]
    made = [_difference(runs, at, arm, other, columns) for at, arm, other in pairs if other is not None]
    return Comparison(tuple(runs), tuple(columns), _about(runs), table, made)


def differences(comparison: Comparison) -> Closing:
    """The paired differences as a table."""
    rows = []
    for one in comparison.differences:
        cells = [Cell(str(one.pairs))]
        for found, gone in zip(one.found, one.diverged, strict=True):
            if found is None:
                cells.append(Cell(NONE))
                continue
            digits = decimals(found)
            spread = f"± {number(half(found), digits)}" if np.isfinite(found.low) else ""
            cells.append(Cell(number(found.mean, digits) + DAGGER * bool(gone), spread))
        said = f"{DAGGER} without the seeds that diverged" if any(one.diverged) else ""
        rows.append(Row(one.arm, one.label, cells, said))
    return Closing(["seeds", *comparison.table.headings], rows)


def grids(comparison: Comparison) -> list[Grid]:
    """Facts, table and differences for Markdown and LaTeX."""
    notes = [f"{row.label}: {row.note}" for row in comparison.table.rows if row.note]
    about = [[name, *values] for name, values in comparison.about]
    made = [
        Grid(["", *comparison.letters], about, "l" + "p" * len(comparison.runs)),
        grid(comparison.table, "arm and run" if len(comparison.runs) > 1 else "arm", [EXPLAINED[0], *notes]),
    ]
    if comparison.differences:
        made.append(grid(differences(comparison), "difference", [EXPLAINED[1]]))
    return made


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Prints facts, table and differences."""
    print_grid(console, grids(comparison)[0])
    console.print()
    print_rows(console, comparison.table)
    paragraph(console, EXPLAINED[0], style="dim")
    for row in comparison.table.rows:
        if row.note:
            paragraph(console, f"{row.label}: {row.note}", style="yellow")
    if comparison.differences:
        console.print("")
        print_rows(console, differences(comparison))
        paragraph(console, EXPLAINED[1], style="dim")


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """The differences for programs, with facts about the runs; None where a number is not finite."""

    def plain(found: Interval | None) -> dict[str, float | None] | None:
        return found and {name: v if np.isfinite(v) else None for name, v in found._asdict().items()}

    names = [column.column for column in comparison.columns]
    return {
        "runs": {letter: str(run.folder) for letter, run in zip(comparison.letters, comparison.runs, strict=True)},
        "about": {name: values for name, values in comparison.about},
        "differences": [
            {"label": d.label, "seeds": d.pairs, **dict(zip(names, map(plain, d.found), strict=True))}
            for d in comparison.differences
        ],
    }


def _by_arm(runs: Sequence[Stored]) -> list[tuple[str, int, Stored]]:
    """Each arm of each run, with the run's place: the runs that have an arm follow each other."""
    arms = dict.fromkeys(arm for run in runs for arm in run.arms)
    return [(arm, at, run) for arm in arms for at, run in enumerate(runs) if arm in run.arms]


def _columns(runs: Sequence[Stored], metrics: Sequence[str]) -> list[Column]:
    """The metrics to show, with the digits of the first closing table that has them."""
    has = [run.results.columns() for run in runs]
    shared = [name for name in has[0] if name not in BOOKKEEPING and all(name in names for names in has)]
    for name in metrics:
        if name not in shared:
            raise ValueError(unknown("metric of all runs", name, [n for n in shared if "/" not in n]))
    digits = {column.column: column.digits for run in reversed(runs) for column in run.setup.table}
    closing = [column.column for run in runs for column in run.setup.table if column.column in shared]
    wanted = list(dict.fromkeys(metrics or closing or [n for n in ("accuracy", "loss") if n in shared]))
    if not wanted:
        raise ValueError("these runs have no metric in common")
    return [Column(n.replace("_", "\n"), n, digits=digits[n] if n in digits else _digits(runs, n)) for n in wanted]


def _digits(runs: Sequence[Stored], metric: str) -> int:
    """As many as the widest interval of an arm warrants."""
    ends = [run.results.last(arm, metric) for run in runs for arm in run.arms]
    left = [values[np.isfinite(values)] for values in ends]
    return min((decimals(interval(values)) for values in left if len(values)), default=2)


def _against(runs: Sequence[Stored], at: int, arm: str) -> str | None:
    """The arm of the first run that this one is compared with, None for what nothing is compared with."""
    first = runs[0].arms[0]
    if at == 0:
        return first if len(runs) == 1 and arm != first else None
    return arm if arm in runs[0].arms else first


def _difference(runs: Sequence[Stored], at: int, arm: str, other: str, columns: Sequence[Column]) -> Difference:
    """What an arm of a run has more than an arm of the first run."""
    one, first = runs[at], runs[0]
    seeds = [seed for seed in one.seeds if seed in first.seeds]
    found: list[Interval | None] = []
    gone = []
    for column in columns:
        values = _last(one, arm, column, seeds) - _last(first, other, column, seeds)
        left = values[np.isfinite(values)]
        found.append(interval(left) if len(left) else None)
        gone.append(len(values) - len(left))
    if at and arm == other:
        label = f"{name_of(one, arm)}: {string.ascii_uppercase[at]} {MINUS} A"
    else:
        label = f"{label_of(runs, at, arm)} {MINUS} {label_of(runs, 0, other)}"
    return Difference(arm, label, len(seeds), found, gone)


def _last(run: Stored, arm: str, column: Column, seeds: Sequence[int]) -> np.ndarray:
    """Values at the end of the last task, one for each of these seeds."""
    return run.results.last(arm, column.column)[[run.results.seeds.index(seed) for seed in seeds]]


def _about(runs: Sequence[Stored]) -> list[tuple[str, list[str]]]:
    """Facts in which runs may differ, then settings and versions in which these do."""
    settings = [asdict(run.settings) for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    rows = [
        ("experiment", [run.experiment.id for run in runs]),
        ("tier", [run.tier for run in runs]),
        ("data", [run.data for run in runs]),
        ("seeds", [str(len(run.seeds)) for run in runs]),
        ("commit", [", ".join(run.commits()) or NONE for run in runs]),
    ]
    more = [(n, [text(each[n]) if n in each else NONE for each in settings]) for n in names if n != "data"]
    versions = dict.fromkeys(name for run in runs for name in run.environment if name != "commit")
    more += [(n, [str(run.environment.get(n, NONE)) for run in runs]) for n in versions]
    return rows + [(name, values) for name, values in more if len(set(values)) > 1]


def name_of(run: Stored, arm: str) -> str:
    """An arm's label."""
    return run.shown.arms[arm].label


def label_of(runs: Sequence[Stored], at: int, arm: str) -> str:
    """An arm's label, after the letter of its run where there are several."""
    return f"{string.ascii_uppercase[at]} {name_of(runs[at], arm)}" if len(runs) > 1 else name_of(runs[at], arm)
