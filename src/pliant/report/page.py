"""The report of a run: one HTML file that needs nothing else, for a screen of any size and for paper."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

from markupsafe import escape

from pliant import cite
from pliant.claims import Checked, Claim
from pliant.experiment import Experiment, Setup
from pliant.report import figures, tables
from pliant.report.curves import caption, curves
from pliant.report.html import SIGNS, template, uri
from pliant.report.numbers import plain
from pliant.results import Results
from pliant.run.store import Store, read_json

PAPERS = {"P1": "lyle2023", "P2": "lyle2024"}  # as figures and deviations call them
BREAKPOINTS = {1: 560, 2: 860}  # widest page, in CSS pixels, that has so many panels a row


def page(
    experiment: Experiment, setup: Setup, store: Store, results: Results, checked: list[Checked], run: dict[str, Any]
) -> str:
    """The report as HTML: the same stored run gives the same bytes.

    It loads nothing, runs no script, and names no folder of this machine.

    Args:
        experiment: what was run.
        setup: of the store's settings.
        store: where the run lies; how long each pack took is read from it.
        results: of all arms, or of some.
        checked: the claims, empty where arms are missing.
        run: content of run.json.
    """
    lines = curves(setup, results)
    said = " ".join([experiment.figure, *setup.deviations])
    used = list(dict.fromkeys([*cite.references_used(experiment, setup), *(k for p, k in PAPERS.items() if p in said)]))
    run_command, report_command = _commands(store, setup, results, run)
    made = template("page.html.jinja").render(
        experiment=experiment,
        setup=setup,
        tier=store.tier,
        seeds=results.seeds,
        pictures=_pictures(experiment.title, setup, results, lines),
        caption=_caption(setup, results, lines),
        summary=_summary(setup),
        arms=_arms(experiment, setup, results),
        missing=[arm.label for name, arm in setup.arms.items() if name not in results.arms],
        closing=tables.closing(setup, results),
        claims=[_claim(one, results) for one in checked],
        tally=tables.tally(checked),
        settings=_settings(store),
        environment=run["environment"],
        packs=_packs(store, setup, results),
        csv=uri("text/csv", _csv(setup, results)),
        name=f"{experiment.id.replace('/', '-')}-{store.tier}",
        commands=(run_command, report_command),
        papers={name: key for name, key in PAPERS.items() if re.search(rf"\b{name}\b", said)},
        references=[cite.entry(key) for key in used],
        bibtex=cite.bibtex(used),
    )
    return _without_folders(made, store, setup)


def pictures(title: str, setup: Setup, shown: Sequence[str], lines: list) -> list[dict[str, Any]]:
    """The figure for narrow, middling and wide pages, the widest last; each panel count once."""
    found = {}
    for columns in (1, 2, 3):
        if min(columns, len(setup.panels)) not in found:
            drawn = figures.draw(title, setup, shown, lines, columns)
            size = [round(96 * inches) for inches in drawn.get_size_inches()]
            found[columns] = {"uri": uri("image/svg+xml", figures.svg(drawn)), "width": size[0], "height": size[1]}
    *narrow, wide = found
    return [{**found[c], "until": BREAKPOINTS[c]} for c in narrow] + [{**found[wide], "until": None}]


def _pictures(title: str, setup: Setup, results: Results, lines: list) -> list[dict[str, Any]]:
    if setup.heat_map is not None:
        drawn = figures.heat_map(title, setup.heat_map, results)
    elif setup.areas is not None:
        drawn = figures.areas(title, setup, setup.areas, results)
    else:
        return pictures(title, setup, list(results.arms), lines)
    width, height = (round(96 * inches) for inches in drawn.get_size_inches())
    made = {"uri": uri("image/svg+xml", figures.svg(drawn)), "width": width, "height": height}
    return [{**made, "until": None}]


def _caption(setup: Setup, results: Results, lines: list) -> str:
    if setup.areas is not None:
        over = f"means over {len(results.seeds)} seeds" if len(results.seeds) > 1 else "one seed"
        return f"{setup.areas.label}: {over}. Parts lie on top of each other; what is negative lies below 0."
    if setup.heat_map is None:
        return caption(setup, results, lines)
    over = f"over {len(results.seeds)} seeds ± half of the 95 % interval" if len(results.seeds) > 1 else "of one seed"
    return f"{setup.heat_map.label}: means {over}, the best on top. An empty cell: there is no such combination."


def _arms(experiment: Experiment, setup: Setup, results: Results) -> list[dict[str, Any]]:
    sentences = experiment.sentences(results) if experiment.sentences and set(results.arms) >= set(setup.arms) else {}
    return [
        {
            "label": arm.label,
            "colour": figures.colour(at),
            "sentence": sentences.get(name, ""),
            "optimizer": repr(arm.optimizer),
            "interventions": ", ".join(map(repr, arm.chain)) or "none",
        }
        for at, (name, arm) in enumerate(setup.arms.items())
        if name in results.arms
    ]


def _summary(setup: Setup) -> str:
    """What the picture holds, for those who cannot see it."""
    if setup.heat_map is not None:
        return f"A heat map of {setup.heat_map.label}. Its numbers are in the table and the CSV file below."
    if setup.areas is not None:
        parts = ", ".join(setup.areas.parts)
        return f"{setup.areas.label} in parts ({parts}), one set of axes an arm. The numbers are in the CSV file below."
    panels = ", ".join(panel.label for panel in setup.panels)
    return f"{len(setup.panels)} panels: {panels}. Their numbers at the end of every task are in the CSV file below."


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
    return {"text": claim.text, "met": met, "effect": tables.effect(found), "threshold": tables.threshold(found)}


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


def _packs(store: Store, setup: Setup, results: Results) -> list[dict[str, Any]]:
    """How each population was trained, as its cells say."""
    found = {}
    for arm in results.arms:
        for seed in results.seeds:
            cell = read_json(store.cell(arm, seed) / "cell.json")
            if cell is not None:
                found[arm, *cell["pack"]] = {"label": setup.arms[arm].label, **cell}
    return list(found.values())


def _csv(setup: Setup, results: Results) -> str:
    """What figure and table draw on, at the end of every task."""
    wanted = ["accuracy", "loss", *(p.column for p in setup.panels), *(c.column for c in setup.columns)]
    wanted += setup.areas.parts.values() if setup.areas is not None else []
    columns = [name for name in dict.fromkeys(wanted) if name in results.columns()]
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["arm", "seed", "task", "step", *columns])
    for (arm, seed), table in results.tables.items():
        for at in table["end"].astype(bool).nonzero()[0]:
            values = [f"{table[name][at]:.6g}" if math.isfinite(table[name][at]) else "" for name in columns]
            rows.writerow([arm, seed, int(table["task"][at]) + 1, int(table["step"][at]), *values])
    return out.getvalue()


def _commands(store: Store, setup: Setup, results: Results, run: dict[str, Any]) -> tuple[str, str]:
    """What makes the run and this page again, in the default folder."""
    base = replace(store, root=Path("runs")).command(results.arms, len(results.seeds)).removesuffix(" --out runs")
    some = f" --arms {','.join(results.arms)}" if set(results.arms) < set(setup.arms) else ""
    device = run["environment"]["device"]
    on = "" if device == "cpu" else f" --device {device}"
    return base + some + on, re.sub(r" --seeds \d+", "", base).replace("pliant run", "pliant report", 1)


def _without_folders(text: str, store: Store, setup: Setup) -> str:
    """The text with absolute paths among data and settings cut to their last part."""
    for value in {setup.data, *(v for v in asdict(store.settings).values() if isinstance(v, str))}:
        if PurePath(value).is_absolute():
            text = text.replace(str(escape(value)), str(escape(PurePath(value).name)))
    return text
