"""Cells: a table of arms, coloured by a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pliant.formats import Grid
from pliant.functional.statistics import interval
from pliant.numbers import half, number
from pliant.plots.base import Layout, Look
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cells:
    """A cell an arm, coloured by a metric at the end of the last task: mean over seeds ± half of the 95 % interval.

    Args:
        column: the metric.
        title: what it is, with units.
        headings: of the columns.
        rows: the arms of each row by its label, None where there is no such arm; drawn in the order of the first, the
            largest on top.
        limits: of the colours.

    >>> Cells("accuracy", "accuracy", ("alone", "with layer norm"), {"L2": ("l2", "ln+l2")}).limits
    (0.0, 1.0)
    """

    sheet: ClassVar[bool] = False

    column: str
    title: str
    headings: tuple[str, ...]
    rows: Mapping[str, tuple[str | None, ...]]
    limits: tuple[float, float] = (0.0, 1.0)

    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def points(self, results: Results, look: Look) -> list[int]:
        return []

    def layout(self, results: Results, look: Look) -> Layout:
        return Layout(1, 1, 560, 20 * len(self.rows) + 70)

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        (on,) = axes
        order, values = self._values(results)
        means = [[v.mean() for v in values[label]] for label in order]
        low, high = self.limits
        on.grid(False)
        image = on.imshow(np.array(means), cmap="cividis", vmin=low, vmax=high, aspect="auto")
        on.set_xticks(range(len(self.headings)), self.headings)
        on.xaxis.tick_top()
        on.set_yticks(range(len(order)), order)
        for y, label in enumerate(order):
            for x, mean in enumerate(means[y]):
                if np.isfinite(mean):
                    dark = mean < (low + high) / 2
                    said, look_of = _cell(values[label][x]), {"fontsize": 8, "color": "white" if dark else "black"}
                    on.text(x, y, said, ha="center", va="center", **look_of)
        on.spines[:].set_visible(False)
        made: Figure = on.figure  # type: ignore[assignment]
        bar = made.colorbar(image, ax=on, shrink=0.5, aspect=30)
        bar.set_label(self.title)
        bar.outline.set_visible(False)  # type: ignore[operator]

    def caption(self, results: Results, look: Look) -> list[str]:
        seeds = len(results.seeds)
        over = f"over {seeds} seeds ± half of the 95 % interval" if seeds > 1 else "of one seed"
        return [f"{self.title}: means {over}, the best on top. An empty cell: there is no such combination."]

    def grid(self, results: Results, look: Look) -> Grid:
        order, values = self._values(results)
        rows = [[label, *(_cell(v) if np.isfinite(v.mean()) else "" for v in values[label])] for label in order]
        return Grid(["", *self.headings], rows, "l" + "r" * len(self.headings), [self.title])

    def _values(self, results: Results) -> tuple[list[str], dict[str, list[np.ndarray]]]:
        """The rows' labels in the order in which they are drawn, and the values of each over seeds."""

        def last(arm: str | None) -> np.ndarray:
            there = arm is not None and arm in results.arms
            return results.ends(arm, self.column)[:, -1] if there else np.array([np.nan])  # type: ignore[arg-type]

        values = {label: [last(arm) for arm in arms] for label, arms in self.rows.items()}
        firsts = {label: np.nan_to_num(row[0].mean(), nan=-np.inf) for label, row in values.items()}
        return sorted(values, key=lambda label: (-firsts[label], label)), values


def _cell(values: np.ndarray) -> str:
    spread = f" ± {number(half(interval(values)), 2)}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"
