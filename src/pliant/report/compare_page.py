"""A comparison as one HTML page, with one metric over the tasks of all its runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from pliant import cite
from pliant.experiment import Panel, Setup
from pliant.report.compare import EXPLAINED, Comparison, differences, label_of, name_of
from pliant.report.curves import Curve, curves
from pliant.report.figures import limits
from pliant.report.html import template
from pliant.report.page import pictures
from pliant.report.stored import cited


def compare_page(comparison: Comparison, metric: str | None = None) -> str:
    """The page: the same stored runs give the same bytes; it loads nothing and names no folder of this machine.

    Args:
        comparison: what is shown.
        metric: what the figure shows, the comparison's first metric if not given.
    """
    setup, lines = overlay(comparison, metric)
    runs = comparison.runs
    panels = setup.panels
    what = panels[0].column.replace("_", " ")
    keys = list(dict.fromkeys(key for run in runs for key in cited(run)))
    return template("compare.html.jinja").render(
        comparison=comparison,
        titles=list(dict.fromkeys((run.experiment.id, run.experiment.title) for run in runs)),
        differences=differences(comparison),
        explained=EXPLAINED,
        what=what,
        pictures=pictures(f"{what} of {len(runs)} runs", setup, list(setup.arms), lines),
        caption=_caption(comparison, lines, len(panels)),
        references=[cite.entry(key) for key in keys],
        bibtex=cite.bibtex(keys),
        breaks=list(accumulate(len(run.arms) for run in runs)),
    )


def overlay(comparison: Comparison, metric: str | None = None) -> tuple[Setup, list[list[Curve]]]:
    """One metric at the end of every task, for `figures.draw`: a setup whose arms are the lines' names, and the lines.

    Where runs share an arm, one set of axes an arm with one line a run; otherwise one set of axes for all arms.
    """
    runs, letters = comparison.runs, comparison.letters
    metric = comparison.columns[0].column if metric is None else metric
    known = [panel for run in runs for panel in run.setup.panels if panel.column == metric]
    panel = replace(known[0] if known else Panel(metric, metric), over="task")
    lines = [curves(replace(run.setup, panels=(panel,)), run.results)[0] for run in runs]
    every = [(at, line) for at, drawn in enumerate(lines) for line in drawn]
    names = list(dict.fromkeys(line.arm for _, line in every))
    if len(names) < len(every):
        panel = replace(panel, limits=panel.limits or limits(panel, [line for _, line in every]))
        labels = {letter: f"{letter}  {_short(comparison, at)}".strip() for at, letter in enumerate(letters)}
        panels = [replace(panel, label=next(name_of(r, name) for r in runs if name in r.arms)) for name in names]
        shown = [[replace(line, arm=letters[at]) for at, line in every if line.arm == name] for name in names]
    else:
        labels = {line.arm: label_of(runs, at, line.arm) for at, line in every}
        panels, shown = [panel], [[line for _, line in every]]
    longest = max((run.setup for run in runs), key=lambda setup: setup.task.num_tasks)
    some = next(iter(longest.arms.values()))
    arms = {name: replace(some, label=label) for name, label in labels.items()}
    return replace(longest, arms=arms, panels=tuple(panels)), shown


def _caption(comparison: Comparison, lines: list[list[Curve]], panels: int) -> str:
    seeds = {len(run.seeds) for run in comparison.runs}
    said = ["Lines: means over seeds; bands: 95 % intervals." if seeds != {1} else "One seed: no bands."]
    if panels > 1:
        said.append("One set of axes an arm, one line a run.")
    if any(line.left for drawn in lines for line in drawn):
        said.append("Crosses: a seed diverged; from there on the line is the mean of the others.")
    return " ".join(said)


def _short(comparison: Comparison, at: int) -> str:
    """By what a run differs from the others, if that is short."""
    facts = ("experiment", "seeds", "commit", *comparison.runs[0].environment)
    said = [f"{n}={values[at]}" for n, values in comparison.about if n not in facts and len(set(values)) > 1]
    return ", ".join(said) if len(", ".join(said)) <= 40 else ""
