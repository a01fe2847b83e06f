"""Every figure of every experiment, drawn from `results/`, with the line that makes it: a page of the site."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from pliant.cli.listing import _cost, _described
from pliant.experiment import Experiment, experiments
from pliant.plots.figures import captions, figure, sheets, svg
from pliant.report.stored import Stored, opened

RESULTS = Path(__file__).parents[1] / "results"
PARTS = {"lyle2023": "Lyle et al. 2023 (P1)", "lyle2024": "Lyle et al. 2024 (P2)", "toolbox": "Ours"}


def gallery(folder: Path, results: Path = RESULTS) -> str:
    """The page; its pictures are written into `folder / "gallery"`, for phones and for wide pages.

    Args:
        folder: of the page.
        results: where the kept runs are.
    """
    (folder / "gallery").mkdir(exist_ok=True)
    told = [
        "# Gallery",
        "Every figure of every experiment, drawn from the runs that are kept in `results/`, and below each the line "
        "that makes it again, as PDF, SVG or PNG: type it in a checkout. Bands are 95 % intervals over seeds.",
    ]
    for part, some in groupby(experiments().values(), key=lambda each: each.id.partition("/")[0]):
        listed = list(some)
        told.append(f"## {PARTS[part]}")
        told.append(" · ".join(f"[{each.id.partition('/')[2]}](#{anchor(each.id)})" for each in listed))
        for experiment in listed:
            told += [f"({anchor(experiment.id)})=", f"### {experiment.id}"]
            title = experiment.title.removesuffix("?")
            told.append(f"{plain(title)}. Reproduces {plain(experiment.figure)}.")
            runs = sorted((results / experiment.id).glob("*/run.json"))
            told += [text for run in runs for text in _run(opened(run.parent), folder)] or _absent(experiment)
    return "\n\n".join(told) + "\n"


def anchor(id: str) -> str:
    """Where an experiment is on the page.

    >>> anchor("lyle2023/fig1")
    'gallery-lyle2023-fig1'
    """
    return f"gallery-{id.replace('/', '-')}"


def plain(text: str) -> str:
    r"""Text without a meaning in Markdown.

    >>> plain("lost/<name> * 2")
    'lost/\\<name> \\* 2'
    """
    return re.sub(r"([*_<\[`$])", r"\\\1", text)


def _run(run: Stored, folder: Path) -> list[str]:
    """A run's figures, each in one width for a phone and one for a wide page."""
    told, setup, results = [], run.shown, run.results
    where = "/".join(run.folder.parts[-4:])
    if changes := run.changes():
        told.append(f"**With {', '.join(f'`{name}={value}`' for name, value in changes.items())}**")
    for at, plots in enumerate(sheets(setup.plots), 1):
        name = f"{run.experiment.id.replace('/', '-')}-{run.folder.name}-{at}"
        titles = ", ".join(plot.title for plot in plots)  # an option, which is no Markdown
        for columns, kind in ((1, "narrow"), (2, "wide")):
            drawn = figure(run.experiment.title, plots, results, setup.look, columns)
            (folder / "gallery" / f"{name}-{kind}.svg").write_text(svg(drawn))
            told.append(f"```{{image}} gallery/{name}-{kind}.svg\n:class: {kind}\n:alt: {titles}\n```")
        told.append(plain(captions(plots, results, setup.look)))
        told.append(f"```console\n$ pliant figure {where} --plot {at} --to figure.pdf\n```")
    return told


def _absent(experiment: Experiment) -> list[str]:
    """What would be drawn, and the lines that run it."""
    setup = experiment.setup(experiment.tiers["laptop"])
    titles = "; ".join(", ".join(plain(plot.title) for plot in plots) for plots in sheets(setup.plots))
    cost = _cost("laptop", **_described(experiment)["tiers"]["laptop"])
    return [
        f"No run is kept yet ({cost}). It would show: {titles}.",
        f"```console\n$ pliant run {experiment.id} --tier laptop --seeds 5\n"
        f"$ pliant figure {experiment.id} --plot 1 --to figure.pdf\n```",
    ]
