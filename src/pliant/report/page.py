"""The report of a run: one HTML file that needs nothing else, for a screen of any size and for paper."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from markupsafe import escape

from pliant import cite
from pliant.claims import Checked, Claim
from pliant.experiment import Column, Setup
from pliant.numbers import plain
from pliant.plots import Cells, Look, Plot, figures
from pliant.plots.base import colour
from pliant.report import tables
from pliant.report.heat_map import heat_map
from pliant.report.html import SIGNS, script, template, uri
from pliant.report.stored import Gone, Stored, readable, text
from pliant.results import Results
from pliant.run.identity import Definition
from pliant.run.store import Store

PAPERS = {"P1": "lyle2023", "P2": "lyle2024"}  # as figures and deviations call them
BREAKPOINTS = {1: 560, 2: 860}  # widest page, in CSS pixels, that has so many panels a row


def page(run: Stored, checked: list[Checked]) -> str:
    """The report as HTML: the same stored run gives the same bytes.

    It loads nothing and names no folder of this machine. A script is there only where a map can be sorted.

    Args:
        run: what is shown, of all arms, or of some.
        checked: its claims, empty where arms are missing.
    """
    experiment, setup, store, results = run.experiment, run.shown, run.store, run.results
    said = " ".join([experiment.figure, *setup.deviations])
    cited = [*cite.references_used(experiment, run.setup), *(key for name, key in PAPERS.items() if name in said)]
    used = list(dict.fromkeys(cited))
    run_command, report_command = _commands(store, setup, results, run.environment)
    made = template("page.html.jinja").render(
        experiment=experiment,
        setup=setup,
        tier=store.tier,
        seeds=results.seeds,
        figures=[
            _shown(experiment.title, plots, results, setup.look)
            | {"command": report_command.replace("pliant report", "pliant figure", 1) + f" --plot {at} --to figure.pdf"}
            for at, plots in enumerate(figures.sheets(setup.plots), 1)
        ],
        arms=_arms(run),
        missing=[arm.label for name, arm in run.setup.arms.items() if name not in results.arms],
        closing=tables.closing(replace(setup, table=_there(setup, results)), results),
        claims=[_claim(one, run.comparable(results)) for one in checked],
        tally=tables.tally(checked),
        settings=_settings(store),
        trial=_fields(run)[0],
        environment={**run.environment, "commit": ", ".join(run.commits())},
        date=run.date,
        kept=f"{experiment.id}/{run.folder.name}" if run.run.get("kept") else "",
        packs=_packs(run),
        csv=uri("text/csv", _csv(setup, results)),
        tasks=any("end" in table for table in results.tables.values()),
        name=f"{experiment.id.replace('/', '-')}-{store.tier}",
        commands=(run_command, report_command),
        papers={name: key for name, key in PAPERS.items() if re.search(rf"\b{name}\b", said)},
        references=[cite.entry(key) for key in used],
        bibtex=cite.bibtex(used),
        **script(),
    )
    return _without_folders(made, store, setup)


def pictures(
    title: str, plots: Sequence[Plot], results: Results | Sequence[Results], look: Look
) -> list[dict[str, Any]]:
    """A figure for narrow, middling and wide pages, the widest last; each number of axes a row once."""
    first = results if isinstance(results, Results) else results[0]
    found, layouts = {}, []
    for columns in (1, 2, 3):
        layout = min(columns, len(plots)) if plots[0].sheet else plots[0].layout(first, look, columns)
        if layout not in layouts:
            drawn = figures.figure(title, plots, results, look, columns)
            size = [round(96 * inches) for inches in drawn.get_size_inches()]
            found[columns] = {"uri": uri("image/svg+xml", figures.svg(drawn)), "width": size[0], "height": size[1]}
            layouts.append(layout)
    *narrow, wide = found
    return [{**found[c], "until": BREAKPOINTS[c]} for c in narrow] + [{**found[wide], "until": None}]


def _shown(title: str, plots: Sequence[Plot], results: Results, look: Look) -> dict[str, Any]:
    """A figure with its caption, and its summary for those who cannot see it; a map of cells is a table."""
    titles = ", ".join(plot.title for plot in plots)
    cells = plots[0] if isinstance(plots[0], Cells) else None
    return {
        "map": heat_map(cells, results) if cells else None,
        "pictures": [] if cells else pictures(title, plots, results, look),
        "caption": figures.captions(plots, results, look),
        "summary": f"{len(plots)} panels: {titles}." if len(plots) > 1 else f"{titles}.",
    }


def _arms(run: Stored) -> list[dict[str, Any]]:
    own = _fields(run)[1]
    return [
        {
            "label": arm.label,
            "colour": colour(at),
            "sentence": run.sentences.get(name, ""),
            "fields": own.get(name, []),
        }
        for at, (name, arm) in enumerate(run.shown.arms.items())
        if name in run.results.arms
    ]


def _fields(run: Stored) -> tuple[list[tuple[str, str]], dict[str, list[tuple[str, str]]]]:
    """The parts of the recorded definitions: those that all arms share, and for each arm the others."""
    found = {arm: _parts(made) for arm, made in run.definitions.items()}
    first = next(iter(found.values()), {})
    shared = {name for name, value in first.items() if all(each.get(name) == value for each in found.values())}
    own = {arm: [(n, v) for n, v in each.items() if n not in shared] for arm, each in found.items()}
    for arm, told in run.changed.items():
        own[arm].append(("differs from this version", told))
    return [(name, value) for name, value in first.items() if name in shared], own


def _parts(made: Definition | None) -> dict[str, str]:
    if made is None:
        return {"definition": "not recorded"}
    return {name: readable(value) for name, value in made.items()}


def _claim(one: Checked, results: Results) -> dict[str, Any]:
    return {
        "text": one.claim.text,
        "verdict": one.verdict,
        "sign": SIGNS[one.verdict],
        "reason": one.reason,
        "effect": tables.effect(one),
        "threshold": tables.threshold(one),
        "bare_threshold": plain(one.claim.threshold),
        "paper": one.claim.paper,
        "strip": _strip(one),
        "given": [_given(claim, results) for claim in one.claim.given],
    }


def _given(claim: Claim, results: Results) -> dict[str, str]:
    found = claim.check(results)
    met = {"holds": "met", "fails": "not met"}.get(found.verdict, f"not shown: {found.reason}")
    return {
        "text": claim.text.removesuffix("."),
        "met": met,
        "effect": tables.effect(found),
        "threshold": tables.threshold(found),
    }


def _strip(one: Checked) -> dict[str, str] | None:
    """Where interval, mean and threshold lie on a line, in percent of its length; None without an interval."""
    if not all(map(math.isfinite, one.effect)):
        return None
    points = {"mean": one.effect.mean, "low": one.effect.low, "high": one.effect.high, "threshold": one.claim.threshold}
    low, high = min(points.values()), max(points.values())
    size = high - low or 1.0
    return {name: f"{8 + 84 * (value - low) / size:.2f}%" for name, value in points.items()}


def _settings(store: Store) -> list[dict[str, str]]:
    """Settings, and what the tier has where they depart from it."""
    default = asdict(store.experiment.tiers[store.tier])
    return [
        {"name": name, "value": _text(value), "default": "" if value == default[name] else _text(default[name])}
        for name, value in asdict(store.settings).items()
    ]


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _packs(run: Stored) -> list[dict[str, Any]]:
    """How each population was trained, as its cells say."""
    made = {
        (arm, *facts["pack"]): {"label": run.shown.arms[arm].label, **facts} for (arm, _), facts in run.cells.items()
    }
    return list(made.values())


def _there(setup: Setup, results: Results) -> tuple[Column, ...]:
    """The columns of the closing table that were measured: runs of before lack those that are new."""
    return tuple(column for column in setup.table if column.column in results.columns())


def _csv(setup: Setup, results: Results) -> str:
    """What figure and table draw on, scalars that is: at the end of every task, or, of trials without tasks, wherever
    the table's columns were measured."""
    wanted = dict.fromkeys(["accuracy", "loss", *setup.columns()])
    scalars = {name for table in results.tables.values() for name in wanted if name in table and table[name].ndim == 1}
    columns = [name for name in wanted if name in scalars]
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["arm", "seed", "task", "step", *columns])
    for (arm, seed), table in results.tables.items():
        closing = [table[column.column] for column in setup.table if column.column in scalars & set(table)]
        ends = table["end"].astype(bool) if "end" in table else np.any(np.isfinite([*closing]), axis=0)
        for at in np.flatnonzero(ends):
            there = [table[name][at] if name in table else math.nan for name in columns]
            values = [f"{value:.6g}" if math.isfinite(value) else "" for value in there]
            task = int(table["task"][at]) + 1 if "task" in table else ""
            rows.writerow([arm, seed, task, int(table["step"][at]), *values])
    return out.getvalue()


def _commands(store: Store, setup: Setup, results: Results, environment: Mapping[str, Any]) -> tuple[str, str]:
    """What makes the run and this page again, in the default folder."""
    written = {name: value for name, value in asdict(store.settings).items() if isinstance(value, str)}
    settings = replace(store.settings, **{name: text(value) for name, value in written.items()})
    made = replace(store, root=Path("runs"), settings=settings)
    some = [arm for arm in results.arms if not isinstance(setup.arms[arm].trial, Gone)]
    device = environment.get("device", "cpu")
    run = made.command(some, len(results.seeds), *([] if device == "cpu" else ["--device", device]))
    report = re.sub(
        r"^pliant run| --seeds \d+", lambda found: "pliant report" * (not found.start()), made.command([], 1)
    )
    return run.replace(" --out runs", "", 1), report.replace(" --out runs", "", 1)


def _without_folders(page: str, store: Store, setup: Setup) -> str:
    """The text with absolute paths among data and settings cut to their last part."""
    for value in {setup.data, *(v for v in asdict(store.settings).values() if isinstance(v, str))}:
        if PurePath(value).is_absolute():
            page = page.replace(str(escape(value)), str(escape(PurePath(value).name)))
    return page
