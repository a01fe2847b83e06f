"""Cells: a table of arms, coloured by a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pliant.formats import Grid
from pliant.functional.statistics import interval
from pliant.numbers import half, number
from pliant.plots.base import LETTER, WIDTHS, Layout, Look, narrow
from pliant.results import Missing, Results

Cell = str | Callable[[Results], np.ndarray] | None

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cells:
    """A cell an arm, coloured by a metric: mean over seeds ± half of the 95 % interval, and the paper's value.

    Args:
        column: the metric.
        title: what it is, with units.
        headings: of the columns.
        rows: the arms of each row by its label, None where there is no such arm; drawn in the order of the first, the
            largest on top. In place of an arm, a function of the results gives the numbers, one a seed.
        limits: of the colours.
        of: the metric at the end of the first task or of the last, or its change between the two; without tasks, of the
            first and the last that was measured.
        paper: the paper's values of the cells, as text, by the label of their row; None where it has none.
        ordered: whether the rows stay in the order in which they are given.
        groups: the group of each row by its label, in the order in which the groups are drawn, each below its name;
            without a name its rows stand on top.

    >>> Cells("accuracy", "accuracy", ("alone", "with layer norm"), {"L2": ("l2", "ln+l2")}).limits
    (0.0, 1.0)
    """

    sheet: ClassVar[bool] = False

    column: str
    title: str
    headings: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    limits: tuple[float, float] = (0.0, 1.0)
    of: Literal["first", "last", "change"] = "last"
    paper: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    ordered: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)

    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def points(self, results: Results, look: Look) -> list[int]:
        return []

    def layout(self, results: Results, look: Look, columns: int = 3) -> Layout:
        if columns > 1:
            height = 34 if self.paper else 20
            lines = max(2, *(1 + heading.count("\n") for heading in self.headings))
            height = height * len(self.rows) + 20 * len(self._names)
            cells = 95 * len(self.headings)
            width = min(max(560, 170 + cells, round(self._beside + cells)), WIDTHS[columns])
            return Layout(1, 1, width, height + 40 + 15 * lines)
        height = 20 if not self._crowded else 48 if self.paper else 34
        above = 7 * max(map(len, self._headings(True))) if self._crowded else 30
        return Layout(1, 1, WIDTHS[1], height * (len(self.rows) + len(self._names)) + 75 + above)

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        (on,) = axes
        blocks, values = self.blocks(results)
        order = [line for name, labels in blocks.items() for line in ([name] if name else []) + labels]
        empty = [np.array([np.nan])] * len(self.headings)
        means = [[v.mean() for v in values.get(label, empty)] for label in order]
        paper = {label: self.paper.get(label, (None,) * len(self.headings)) for label in order}
        low, high = self.limits
        small = narrow(on)
        crowded = small and self._crowded
        made: Figure = on.figure  # type: ignore[assignment]
        room = (96 * made.get_figwidth() - self._beside) / len(self.headings)  # of a cell, in CSS pixels
        points = 8.0 if crowded else min(8.0, 0.1 * room)  # "-0.19 ± 0.02" of 8 points fills 80 pixels
        on.grid(False)
        image = on.imshow(np.array(means), cmap="cividis", vmin=low, vmax=high, aspect="auto")
        on.set_xticks(range(len(self.headings)), self._headings(crowded), rotation=90 * crowded)
        on.xaxis.tick_top()
        on.set_yticks(range(len(order)), [fill(label, 16) for label in order] if crowded else order)
        for tick, label in zip(on.get_yticklabels(), order, strict=True):
            if label not in self.rows:
                tick.set_fontweight("bold")
        for y, label in enumerate(order):
            for x, mean in enumerate(means[y]):
                if np.isfinite(mean):
                    dark = mean < (low + high) / 2
                    theirs = f"\n{'' if crowded else 'paper '}{paper[label][x]}" if paper[label][x] else ""
                    look_of = {"fontsize": points, "color": "white" if dark else "black"}
                    ours = cell(values[label][x])
                    said = ours.replace(" ±", "\n±") if crowded else ours
                    on.text(x, y, said + theirs, ha="center", va="center", **look_of)
        on.spines[:].set_visible(False)
        where = {"location": "bottom", "shrink": 0.9, "pad": 0.12 / made.get_figheight()} if small else {"shrink": 0.5}
        bar = made.colorbar(image, ax=on, aspect=30, **where)  # type: ignore[arg-type]
        long = 40 if small else max(12, self.layout(results, look).height // 10)
        bar.set_label(fill(self.title, long, break_on_hyphens=False))
        bar.outline.set_visible(False)  # type: ignore[operator]

    def caption(self, results: Results, look: Look) -> list[str]:
        seeds = len(results.seeds)
        over = f"over {seeds} seeds ± half of the 95 % interval" if seeds > 1 else "of one seed"
        order = "" if self.ordered else ", the best of each group on top" if self.groups else ", the best on top"
        theirs = " Below: the paper's values." if any(v for row in self.paper.values() for v in row) else ""
        empty = "An empty cell: it was not run, a seed diverged, or there is none."
        return [f"{self.title}: means {over}{order}.{theirs} {empty}"]

    def grid(self, results: Results, look: Look) -> Grid:
        blocks, values = self.blocks(results)
        rows = []
        for label in (label for labels in blocks.values() for label in labels):
            theirs = self.paper.get(label, (None,) * len(self.headings))
            cells = [cell(v) if np.isfinite(v.mean()) else "" for v in values[label]]
            rows.append([label, *(f"{c} (paper {t})" if t else c for c, t in zip(cells, theirs, strict=True))])
        return Grid(
            ["", *(h.replace("\n", " ") for h in self.headings)], rows, "l" + "r" * len(self.headings), [self.title]
        )

    @property
    def _crowded(self) -> bool:
        """Whether a phone has no room for a cell's mean and interval beside each other."""
        return len(self.headings) > 2

    @property
    def _beside(self) -> float:
        """CSS pixels of the labels, and of the bar of colours."""
        return 110 + LETTER * max(map(len, self.rows), default=0)

    def _headings(self, upright: bool) -> list[str]:
        return [heading.replace("\n", " ") if upright else heading for heading in self.headings]

    @property
    def _names(self) -> list[str]:
        """Of the groups that have one."""
        return [name for name in dict.fromkeys(self.groups.get(label, "") for label in self.rows) if name]

    def blocks(self, results: Results) -> tuple[dict[str, list[str]], dict[str, list[np.ndarray]]]:
        """The rows' labels by group, all in the order in which they are drawn, and the values of each over seeds."""

        def value(arm: Cell) -> np.ndarray:
            if callable(arm):
                try:
                    return np.asarray(arm(results), dtype=np.float64)
                except Missing:
                    return np.array([np.nan])
            if arm is None or arm not in results.arms:
                return np.array([np.nan])
            ends = {"first": results.first, "last": results.last}
            if self.of == "change":
                return results.last(arm, self.column) - results.first(arm, self.column)
            return ends[self.of](arm, self.column)

        values = {label: [value(arm) for arm in arms] for label, arms in self.rows.items()}
        firsts = {label: np.nan_to_num(row[0].mean(), nan=-np.inf) for label, row in values.items()}
        order = list(values) if self.ordered else sorted(values, key=lambda label: (-firsts[label], label))
        names = dict.fromkeys(self.groups.get(label, "") for label in [*self.groups, *order])
        return {name: [label for label in order if self.groups.get(label, "") == name] for name in names}, values


def cell(values: np.ndarray) -> str:
    spread = f" ± {number(half(interval(values)), 2)}" if len(values) > 1 else ""
    return f"{number(values.mean(), 2)}{spread}"
