"""The index of a store: one HTML file with every run, its settings, how far it is and what became of its claims."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

from pliant.experiment import TIERS, Experiment, experiments
from pliant.numbers import with_interval
from pliant.plots import figures
from pliant.report.html import SIGNS, script, template
from pliant.report.listing import Listed, progress, runs
from pliant.report.stored import Stored, opened, reason, text

WORDS = {"holds": "hold", "fails": "fail", "inconclusive": "inconclusive"}


def index(
    root: Path, known: Mapping[str, Experiment] | None = None, pages: Path | None = None, above: Path | None = None
) -> str:
    """The index of all runs under `root` as HTML, to lie in `above`: the same store gives the same bytes.

    It loads nothing and names no folder of this machine. Its one script sorts tables; without it they stay as they are.

    Args:
        root: the store.
        known: experiments by id, of this package where it is not given.
        pages: the folder that the pages of its runs lie below, `root` where it is not given.
        above: the folder of the index, `pages` where it is not given; pages that are not below it are not linked.
    """
    pages = pages or root
    above = above or pages
    known = experiments() if known is None else known
    listed = sorted(runs(root), key=lambda run: (run.experiment, _tier(run.tier)))
    sections = []
    for id, group in groupby(listed, key=lambda run: run.experiment):
        rows = sorted((_row(root, run, known, pages, above) for run in group), key=lambda row: row["order"])
        title = known[id].title if id in known else "This version of pliant has no such experiment."
        sections.append(
            {"id": id, "title": title, "rows": rows, "headline": _headline(known[id]) if id in known else ""}
        )
    rows = [row for section in sections for row in section["rows"]]
    return template("index.html.jinja").render(
        sections=sections,
        count=len(rows),
        partial=sum(row["partial"] for row in rows),
        **script(),
        signs=SIGNS,
        words=WORDS,
    )


def write_index(root: Path, to: Path | None = None) -> Path:
    """Writes the index; returns where: `to`, else in the store, of kept runs, which are committed, below `runs`."""
    if not root.is_dir():
        raise ValueError(f"no store at {root}: choose its folder with --out")
    kept = any(run.kept for run in runs(root))
    pages = Path("runs") if kept else root
    path = to or pages / (f"{root.resolve().name}.html" if kept else "index.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(index(root, pages=pages, above=path.parent), encoding="utf-8")
    return path


def _row(root: Path, run: Listed, known: Mapping[str, Experiment], pages: Path, above: Path) -> dict[str, Any]:
    """What the index says of a run; `problem` where its claims cannot be checked."""
    name = PurePath(run.path).name
    row: dict[str, Any] = {
        "name": name,
        "link": _link(pages / run.path / "report.html", above),
        "changes": {},
        "data": text(run.settings.get("data", "")),
        "seeds": progress(run),
        "partial": run.complete_seeds < len(run.seeds),
        "share": f"{run.complete_seeds / max(1, len(run.seeds)):.3f}",
        "arms": ", ".join(run.arms),
        "tally": Counter(),
        "headline": "",
        "mean": "",
        "date": "",
        "problem": run.problem,
        "thumbnail": "",
    }
    try:
        if not run.problem and run.experiment not in known:
            raise ValueError("unknown experiment")
        if not run.problem:
            stored = opened(root / run.path, known)
            row |= {"changes": stored.changes(), "data": stored.data, "arms": _arms(stored)}
            if row["partial"]:
                raise ValueError("not complete yet")
            checked = stored.verdicts()
            row["tally"] = Counter(one.verdict for one in checked)
            row["date"], row["thumbnail"] = stored.date, _thumbnail(stored)
            first = next((one for one in checked if one.claim is stored.setup.claims[0]), None)
            if first and math.isfinite(first.effect.mean):
                row["headline"], row["mean"] = with_interval(first.effect), f"{first.effect.mean:.6g}"
    except Exception as error:  # a store may come from anybody
        row["problem"] = reason(error, root / run.path)
    total = sum(row["tally"].values())
    row["score"] = f"{row['tally']['holds'] / total - row['tally']['fails'] / total / 1000:.6f}" if total else "-1"
    row["order"] = (_tier(run.tier), len(row["changes"]), str(row["changes"]), run.path)
    return row


def _thumbnail(run: Stored) -> str:
    """A run's first picture, small, inside the page."""
    setup = run.shown
    png = figures.thumbnail(run.experiment.title, setup.plots[0], run.results, setup.look)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _link(page: Path, above: Path) -> str:
    """How a page is called from a folder; empty where it is not there, or not below."""
    there = page.exists() and page.resolve().is_relative_to(above.resolve())
    return page.resolve().relative_to(above.resolve()).as_posix() if there else ""


def _headline(experiment: Experiment) -> str:
    """The claim that an experiment begins with, whose number heads its runs."""
    claims = experiment.setup(next(iter(experiment.tiers.values()))).claims
    return claims[0].text if claims else ""


def _arms(stored: Stored) -> str:
    missing = [arm for arm in stored.setup.arms if arm not in stored.arms]
    return f"only {', '.join(stored.arms)}" if missing else f"all {len(stored.arms)}"


def _tier(tier: str) -> tuple[int, str]:
    """Largest first; tiers of an experiment's own last."""
    return (-TIERS.index(tier), tier) if tier in TIERS else (1, tier)
