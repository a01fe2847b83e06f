"""Figures: plots of an experiment in axes, on sheets of several below one legend or each for itself."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pliant.plots.base import GREY, HEIGHT, POINTS, WIDTHS, Look, Plot, colour, dashes, legend
from pliant.results import Results

STYLE = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": GREY,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "pliant",
}

LEAST = 1.9  # inches of a row of axes with its title and labels, below the legend
KINDS = {  # of files, with the metadata that keeps a date out
    "pdf": {"Creator": "pliant", "CreationDate": None},
    "svg": {"Creator": "pliant", "Date": None},
    "png": {"Software": "pliant"},
}


def sheets(plots: Sequence[Plot]) -> list[list[Plot]]:
    """Plots as figures: those of a kind that share a sheet, as long as they follow each other, and each other alone."""
    found: list[list[Plot]] = []
    for plot in plots:
        if plot.sheet and found and found[-1][0].sheet:
            found[-1].append(plot)
        else:
            found.append([plot])
    return found


def figure(
    title: str,
    plots: Sequence[Plot],
    results: Results | Sequence[Results],
    look: Look,
    columns: int = 3,
    inches: float | None = None,
) -> Figure:
    """One of `sheets` as a figure, with `columns` (1, 2 or 3) axes a row; `ValueError` for a metric that is not there.

    Args:
        title: of the file.
        plots: what is drawn.
        results: of which; one for each plot, or the same for all.
        look: of the arms.
        columns: of axes; 1 is for a phone.
        inches: the width, if not that of a page; text keeps its size.
    """
    each = [results] * len(plots) if isinstance(results, Results) else results
    if plots[0].sheet:
        return _sheet(title, plots, each, look, columns, inches)
    return _alone(title, plots[0], each[0], look, columns, inches)


def write(path: Path, title: str, plots: Sequence[Plot], results: Results, look: Look, inches: float = 6.75) -> None:
    """Writes one of `sheets` as PDF, SVG or PNG, as a paper takes it: text as text, of at least 7 pt, no date.

    Raises `ValueError` for another kind of file.

    Args:
        path: of the file; its ending is its kind.
        title: of the figure, in the file's metadata.
        plots: what is drawn.
        results: of which.
        look: of the arms.
        inches: the width.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise ValueError(f"expected a file that ends in .pdf, .svg or .png, got {path.name}")
    if not 1 <= inches <= 40:
        raise ValueError(f"expected a width of 1 to 40 inches, got {inches:g}: write --width 3.25in")
    made = figure(title, plots, results, look, 1 if inches < 4.5 else 2 if inches < 9 else 3, inches)
    out = io.BytesIO()
    as_text = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "pliant"}
    with style.context(["default", STYLE, as_text]):
        made.savefig(out, format=kind, metadata=KINDS[kind] | {"Title": title}, dpi=300)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())


def captions(plots: Sequence[Plot], results: Results, look: Look) -> str:
    """What a sheet shows, in words: each sentence once."""
    look = thinned(plots, [results] * len(plots), look)
    return " ".join(dict.fromkeys(said for plot in plots for said in plot.caption(results, look)))


def thinned(plots: Sequence[Plot], results: Sequence[Results], look: Look) -> Look:
    """The look with as many points a line as a sheet of these plots has room for, `POINTS` in all."""
    lengths = [n for plot, shown in zip(plots, results, strict=True) for n in plot.points(shown, look)]
    most = max(lengths, default=0)
    while most > 16 and sum(min(length, most) for length in lengths) > POINTS:
        most = int(0.9 * most)
    return replace(look, most=most)


def _sheet(
    title: str, plots: Sequence[Plot], results: Sequence[Results], look: Look, columns: int, inches: float | None
) -> Figure:
    columns = min(columns, len(plots))
    rows, look = -(-len(plots) // columns), thinned(plots, results, look)
    with _figure(title, WIDTHS[columns], HEIGHT * rows + 40, 2, inches, rows) as made:
        drawn = [made.add_subplot(rows, columns, at + 1) for at in range(len(plots))]
        for axes, plot, shown in zip(drawn, plots, results, strict=True):
            plot.draw([axes], shown, look)
        for axes, below in zip(drawn, drawn[columns:], strict=False):
            if axes.get_xlabel() == below.get_xlabel():
                axes.set_xlabel("")
        named = {arm for plot, shown in zip(plots, results, strict=True) for arm in _of(plot, shown)}
        _legend(made, look, [arm for arm in look.labels if arm in named])
    return made


def _of(plot: Plot, results: Results) -> list[str]:
    """The arms that a plot of a sheet draws: those that it names, or all."""
    return [arm for arm in results.arms if arm in (getattr(plot, "arms", ()) or results.arms)]


def _alone(title: str, plot: Plot, results: Results, look: Look, columns: int, inches: float | None) -> Figure:
    layout = plot.layout(results, look, columns)
    rows = -(-layout.panes // layout.columns)
    with _figure(title, layout.width, layout.height, layout.panes, inches, rows) as made:
        first = made.add_subplot(rows, layout.columns, 1)
        more = [made.add_subplot(rows, layout.columns, at + 1, sharey=first) for at in range(1, layout.panes)]
        plot.draw([first, *more], results, look)
    return made


@contextmanager
def _figure(title: str, width: int, height: int, panes: int, inches: float | None, rows: int) -> Iterator[Figure]:
    """An empty figure of a size in CSS pixels, or of another width in inches, in our style while it is drawn.

    Text keeps its size, so that a narrow one keeps its height. It becomes taller afterwards where its rows of axes have
    no room below a legend of many lines.
    """
    scale = 1.0 if inches is None else inches * 96 / width
    with style.context(["default", STYLE]):
        made = Figure(figsize=(scale * width / 96, max(scale, 1) * height / 96), layout="constrained")
        made.set_label(title)
        if panes > 1:  # what lies side by side stands apart
            made.get_layout_engine().set(w_pad=0.07, h_pad=0.05, wspace=0.02, hspace=0.03)  # type: ignore[union-attr]
        yield made
        if made.legends or inches is not None:
            legends = sum(each.get_window_extent().height / made.dpi for each in made.legends)
            made.set_figheight(max(made.get_figheight(), legends + LEAST * rows))


def svg(figure: Figure) -> str:
    """The figure as SVG, text as paths, without a date and with fixed ids: the same figure gives the same bytes."""
    out, metadata = io.StringIO(), {"Date": None, "Creator": "pliant", "Title": str(figure.get_label())}
    with style.context(["default", STYLE]):
        figure.savefig(out, format="svg", metadata=metadata)
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), out.getvalue())


def thumbnail(title: str, plot: Plot, results: Results, look: Look) -> bytes:
    """A picture as it is on a phone, without its legend, as a small PNG: the same results give the same bytes."""
    out = io.BytesIO()
    made = figure(title, [plot], results, look, columns=1)
    for each in list(made.legends):
        each.remove()
    with style.context(["default", STYLE]):
        made.savefig(out, format="png", metadata=KINDS["png"], dpi=72)
    return out.getvalue()


def _legend(made: Figure, look: Look, shown: Sequence[str]) -> None:
    """One legend on top, in as many columns as fit."""
    places, labels = [look.place(arm) for arm in shown], [look.labels[arm] for arm in shown]
    legend(made, [Line2D([], [], color=colour(at), ls=dashes(at), lw=2.2) for at in places], labels)
