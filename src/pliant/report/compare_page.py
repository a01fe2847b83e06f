"""A comparison as one HTML page, with one metric over the tasks of all its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from pliant import cite
from pliant.plots import Lines, Look
from pliant.report.compare import EXPLAINED, Comparison, differences, label_of, name_of
from pliant.report.html import template
from pliant.report.page import pictures
from pliant.report.stored import cited
from pliant.report.tables import Row
from pliant.results import Results


def compare_page(comparison: Comparison, metric: str | None = None) -> str:
    """The page: the same stored runs give the same bytes; it loads nothing and names no folder of this machine.

    Args:
        comparison: what is shown.
        metric: what the figure shows, the comparison's first metric if not given.
    """
    drawn = overlay(comparison, metric)
    runs = comparison.runs
    what = drawn.plots[0].column.replace("_", " ")
    keys = list(dict.fromkeys(key for run in runs for key in cited(run)))
    return template("compare.html.jinja").render(
        comparison=comparison,
        titles=list(dict.fromkeys((run.experiment.id, run.experiment.title) for run in runs)),
        differences=differences(comparison),
        groups=_groups(comparison, comparison.table.rows),
        differing=_groups(comparison, differences(comparison).rows),
        explained=EXPLAINED,
        what=what,
        pictures=pictures(f"{what} of {len(runs)} runs", *drawn),
        caption=_caption(comparison, drawn),
        references=[cite.entry(key) for key in keys],
        bibtex=cite.bibtex(keys),
    )


def _groups(comparison: Comparison, rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, Row]]]]:
    """The rows of each arm below its label, each called by its run alone; without a label where there is one run."""
    runs, found = comparison.runs, []
    if len(runs) == 1:
        return [("", [(row.label, row) for row in rows])]
    for arm, group in groupby(rows, key=lambda row: row.arm):
        label = next(name_of(run, arm) for run in runs if arm in run.arms)
        found.append((label, [(_within(row.label, label), row) for row in group]))
    return found


def _within(said: str, label: str) -> str:
    """What a row is called below the label of its arm."""
    return said.removesuffix(f" {label}") if said.endswith(f" {label}") else said.removeprefix(f"{label}: ")


class Overlay(NamedTuple):
    """One metric of several runs: plots, the results that each draws, and how their lines look."""

    plots: list[Lines]
    results: list[Results]
    look: Look


def overlay(comparison: Comparison, metric: str | None = None) -> Overlay:
    """One metric at the end of every task, or over steps where trials have no tasks.

    Where runs share an arm, one set of axes an arm with one line a run; otherwise one set of axes for all arms.
    """
    runs, letters = comparison.runs, comparison.letters
    metric = comparison.columns[0].column if metric is None else metric
    shown = [run.setup.look.shown(run.results) for run in runs]
    known = [p for run in runs for p in run.setup.plots if isinstance(p, Lines) and p.column == metric]
    tasks = all("end" in table for run in runs for table in run.results.tables.values())
    plot = replace(known[0] if known else Lines(metric, metric), over="task" if tasks else "step", arms=())
    arms = {(at, arm): run.results.only(arm) for at, run in enumerate(runs) for arm in shown[at]}
    names = list(dict.fromkeys(arm for _, arm in arms))
    if len(names) == len(arms):
        look = Look({arm: label_of(runs, at, arm) for at, arm in arms})
        return Overlay([plot], [Results({k: t for only in arms.values() for k, t in only.tables.items()})], look)
    look = Look({letter: f"{letter}  {_short(comparison, at)}".strip() for at, letter in enumerate(letters)})
    each = []
    for name in names:
        of = [(letters[at], only) for (at, arm), only in arms.items() if arm == name]
        each.append(Results({(letter, seed): t for letter, only in of for (_, seed), t in only.tables.items()}))
    curves = [curve for results in each for curve in plot.curves(results, look)]
    plot = replace(plot, limits=plot.limits or plot.room(curves))
    titles = [next(name_of(run, name) for run in runs if name in run.arms) for name in names]
    return Overlay([replace(plot, title=title) for title in titles], each, look)


def _caption(comparison: Comparison, drawn: Overlay) -> str:
    seeds = {len(run.seeds) for run in comparison.runs}
    said = ["Lines: means over seeds; bands: 95 % intervals." if seeds != {1} else "One seed: no bands."]
    if len(drawn.plots) > 1:
        said.append("One set of axes an arm, one line a run.")
    if any(results.diverged() for results in drawn.results):
        said.append("Crosses: a seed diverged; from there on the line is the mean of the others.")
    return " ".join(said)


def _short(comparison: Comparison, at: int) -> str:
    """By what a run differs from the others, if that is short."""
    facts = ("experiment", "seeds", "commit", *comparison.runs[0].environment)
    said = [f"{n}={values[at]}" for n, values in comparison.about if n not in facts and len(set(values)) > 1]
    return ", ".join(said) if len(", ".join(said)) <= 40 else ""
