"""The figure of an experiment: one set of axes a panel, one line an arm, bands over seeds."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from pliant.experiment import Areas, Experiment, HeatMap, Panel, Setup
from pliant.functional.statistics import interval
from pliant.report.curves import SWITCHES, Curve, arms, curves
from pliant.report.numbers import half, number
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito, legible to colour-blind readers; the first arm is the baseline, yellow comes last as it is faint on white
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
DASHES = ("-", "-.", ":")  # for a ninth arm and more
STEPS = (1, 2, 5, 10)  # between ticks
GREY = "#5f6670"
WIDTHS = {1: 370, 2: 740, 3: 1080}  # CSS pixels by columns; text is 12 px high in each
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


def colour(position: int) -> str:
    """The colour of the arm at this position of a setup, the same in every figure.

    >>> colour(0), colour(8) == colour(0)
    ('#000000', True)
    """
    return COLOURS[position % len(COLOURS)]


def dashes(position: int) -> str:
    """The line style of the arm at this position: colours repeat with another one."""
    return DASHES[position // len(COLOURS) % len(DASHES)]


def figure(experiment: Experiment, setup: Setup, results: Results, columns: int = 3) -> Figure:
    """One set of axes for each of the setup's panels, `columns` (1, 2 or 3) a row; `ValueError` for a metric not there.

    Lines are means over the seeds that are still finite, bands their 95 % intervals (none for one seed); a cross stands
    where a seed diverged. Axes follow the values of the seeds: a band much wider than these leaves the axes.
    `pliant.report.curves.caption` says all this in words.
    """
    if setup.heat_map is not None:
        return heat_map(experiment.title, setup.heat_map, results)
    if setup.areas is not None:
        return areas(experiment.title, setup, setup.areas, results)
    return draw(experiment.title, setup, arms(setup, results), curves(setup, results), columns)


def heat_map(title: str, about: HeatMap, results: Results) -> Figure:
    """A row of cells for each of the map's rows, by the first column, the best on top: means ± half of 95 %."""

    def last(arm: str | None) -> np.ndarray:
        there = arm is not None and arm in results.arms
        return results.ends(arm, about.column)[:, -1] if there else np.array([np.nan])  # type: ignore[arg-type]

    values = {label: [last(arm) for arm in of] for label, of in about.rows.items()}
    means = {label: [v.mean() for v in row] for label, row in values.items()}
    order = sorted(means, key=lambda label: (-np.nan_to_num(means[label][0], nan=-np.inf), label))
    grid = np.array([means[label] for label in order])
    with style.context(["default", STYLE, {"axes.grid": False}]):
        made = Figure(figsize=(560 / 96, (20 * len(order) + 70) / 96), layout="constrained")
        made.set_label(title)
        axes = made.add_subplot()
        low, high = about.limits
        image = axes.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        axes.set_xticks(range(len(about.headings)), about.headings)
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(order)), order)
        for y, label in enumerate(order):
            for x, seeds in enumerate(values[label]):
                if np.isfinite(means[label][x]):
                    spread = f" ± {number(half(interval(seeds)), 2)}" if len(seeds) > 1 else ""
                    dark = means[label][x] < (low + high) / 2
                    said = f"{means[label][x]:.2f}{spread}"
                    axes.text(x, y, said, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.spines[:].set_visible(False)
        bar = made.colorbar(image, ax=axes, shrink=0.5, aspect=30)
        bar.set_label(about.label)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return made


def areas(title: str, setup: Setup, about: Areas, results: Results) -> Figure:
    """A set of axes an arm, side by side: the parts over tasks, stacked from 0 up, and from 0 down where negative."""
    shown = [arm for arm in setup.arms if arm in results.arms]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    with style.context(["default", STYLE]):
        made = Figure(figsize=(WIDTHS[columns] / 96, (205 * rows + 60) / 96), layout="constrained")
        made.set_label(title)
        made.get_layout_engine().set(w_pad=0.07, h_pad=0.05, wspace=0.02, hspace=0.03)  # type: ignore[union-attr]
        first: Axes | None = None
        for at, arm in enumerate(shown):
            axes = made.add_subplot(rows, columns, at + 1, sharey=first)
            first = first or axes
            axes.set_title(setup.arms[arm].label)
            tops = {sign: np.zeros(1) for sign in (1, -1)}
            for part, column in enumerate(about.parts.values()):
                values = results.ends(arm, column)
                there = ~np.isnan(values).all(0)
                mean = np.nanmean(values[:, there], 0)
                tasks = np.arange(1, values.shape[1] + 1)[there]
                for sign in (1, -1):
                    height = np.clip(sign * mean, 0, None)
                    top = tops[sign] + sign * height
                    look = {"color": colour(part + 1), "alpha": 0.85, "linewidth": 0}
                    axes.fill_between(tasks, tops[sign] + 0 * top, top, **look)
                    tops[sign] = top
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True))
            if at + columns >= len(shown):
                axes.set_xlabel("task")
            if at % columns == 0:
                axes.set_ylabel(about.label)
        handles = [Line2D([], [], color=colour(part + 1), lw=6) for part in range(len(about.parts))]
        made.legend(handles, list(about.parts), loc="outside upper left", ncols=len(handles), handlelength=0.8)
    return made


def draw(title: str, setup: Setup, shown: Sequence[str], lines: list[list[Curve]], columns: int = 3) -> Figure:
    """Curves made before, a list of them for each of the setup's panels; `shown` are the arms of the legend."""
    columns = min(columns, len(setup.panels))
    rows = -(-len(setup.panels) // columns)
    with style.context(["default", STYLE]):
        made = Figure(figsize=(WIDTHS[columns] / 96, (205 * rows + 40) / 96), layout="constrained")
        made.set_label(title)
        made.get_layout_engine().set(w_pad=0.07, h_pad=0.05, wspace=0.02, hspace=0.03)  # type: ignore[union-attr]
        for at, (panel, drawn) in enumerate(zip(setup.panels, lines, strict=True)):
            axes = made.add_subplot(rows, columns, at + 1)
            _draw(axes, panel, setup, drawn)
            below = setup.panels[at + columns] if at + columns < len(setup.panels) else None
            if below is None or below.over != panel.over:
                axes.set_xlabel("task" if panel.over == "task" else "optimizer step")
        _legend(made, setup, shown)
    return made


def svg(figure: Figure) -> str:
    """The figure as SVG, text as paths, without a date and with fixed ids: the same figure gives the same bytes."""
    out, metadata = io.StringIO(), {"Date": None, "Creator": "pliant", "Title": str(figure.get_label())}
    with style.context(["default", STYLE]):
        figure.savefig(out, format="svg", metadata=metadata)
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), out.getvalue())


def _draw(axes: Axes, panel: Panel, setup: Setup, lines: list[Curve]) -> None:
    axes.set_title(panel.label)
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(_power)
    low, high = panel.limits or limits(panel, lines)
    axes.set_ylim(low, high)
    for line in lines:
        position = list(setup.arms).index(line.arm)
        look = {"color": colour(position), "zorder": 2 + position / 100}
        axes.plot(line.x, line.mean, dashes(position), marker=_marker(line), ms=3, **look)
        if np.isfinite(line.low).any():
            bottom = np.maximum(line.low, low / 10) if panel.log else line.low
            axes.fill_between(line.x, bottom, line.high, alpha=0.16, linewidth=0, **look)
        if line.left:
            where = np.clip(np.interp(line.left, line.x, line.mean), low, high)
            axes.plot(line.left, where, "x", ms=7, mew=1.8, clip_on=False, **look)
    for text, value in panel.marks.items():
        axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1.9)
        axes.annotate(
            text, (1, value), (0, 2), ("axes fraction", "data"), "offset points", ha="right", color=GREY, fontsize=8
        )
    if panel.log and high < 20 * low:  # too short for powers of ten alone
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 4 * low else MaxNLocator(5, steps=STEPS))
    axes.yaxis.set_minor_locator(NullLocator())
    tasks = setup.task.num_tasks
    if panel.over == "task":
        axes.set_xlim(1 - 0.02 * tasks, tasks * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True, min_n_ticks=1))
        return
    axes.set_xlim(0, setup.task.num_steps)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if tasks <= SWITCHES:
        for switch in range(1, tasks):
            axes.axvline(switch * setup.task.every, color="#dfe2e6", linewidth=0.8, zorder=0.5)


def _power(value: float, _: float) -> str:
    """A tick of a logarithmic axis."""
    if 0.01 <= value < 1e5:
        return f"{value:.6g}" if value < 1000 else f"{value:,.0f}"
    return f"$10^{{{np.log10(value):.0f}}}$"


def _marker(line: Curve) -> str:
    return "o" if len(line.x) <= 12 else ""


def limits(panel: Panel, lines: list[Curve]) -> tuple[float, float]:
    """Room for all seeds' values, for the bands as far as these are not far wider, and for the paper's values."""
    scale = np.log10 if panel.log else np.asarray
    shown = np.array(
        [value for line in lines for value in line.range] + [v for v in panel.marks.values() if v > 0 or not panel.log]
    )
    shown = scale(shown[np.isfinite(shown)])
    if not len(shown):
        return (0.1, 1.0) if panel.log else (0.0, 1.0)
    low, high = float(shown.min()), float(shown.max())
    size = high - low or 0.1 * abs(high) or 1.0
    ends = np.concatenate([end for line in lines for end in (line.low, line.high)])
    ends = scale(ends[np.isfinite(ends) & ((ends > 0) | (not panel.log))])
    low = min(low, max(low - size / 4, *([ends.min()] if len(ends) else [low])))
    high = max(high, min(high + size / 4, *([ends.max()] if len(ends) else [high])))
    low, high = low - 0.05 * size, high + 0.08 * size
    return (10**low, 10**high) if panel.log else (low, high)


def _legend(made: Figure, setup: Setup, shown: Sequence[str]) -> None:
    """One legend on top, in as many columns as fit."""
    places = [(at, arm) for at, arm in enumerate(setup.arms) if arm in shown]
    handles = [Line2D([], [], color=colour(at), ls=dashes(at), lw=2.2) for at, _ in places]
    labels = [setup.arms[arm].label for _, arm in places]
    for columns in range(len(labels), 0, -1):
        legend = made.legend(
            handles, labels, loc="outside upper left", ncols=columns, handlelength=1.6, columnspacing=1.6, borderpad=0.2
        )
        if columns == 1 or legend.get_window_extent().width <= 0.96 * made.bbox.width:
            return
        legend.remove()
