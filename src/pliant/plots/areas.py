"""Areas over tasks: the parts of a quantity on top of each other, axes an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pliant.formats import Grid
from pliant.functional.statistics import interval
from pliant.numbers import with_interval
from pliant.plots.base import GREY, HEIGHT, STEPS, WIDTHS, Layout, Look, columns_of, heading, legend, mechanism
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Areas:
    """Axes an arm: what mechanisms add to a quantity, means over seeds, stacked from 0 up, and down where negative.

    Args:
        title: what they are parts of, with units.
        parts: columns by the name of the mechanism; empty where they were not measured.

    >>> Areas("loss of plasticity [nats]", {"units": "lost/units"}).columns()
    ('lost/units',)
    """

    sheet: ClassVar[bool] = False

    title: str
    parts: Mapping[str, str]

    def columns(self) -> tuple[str, ...]:
        return tuple(self.parts.values())

    def points(self, results: Results, look: Look) -> list[int]:
        return []

    def layout(self, results: Results, look: Look, columns: int = 3) -> Layout:
        panes = len(look.shown(results))
        columns = min(2, panes, columns)
        return Layout(panes, columns, WIDTHS[columns], HEIGHT * -(-panes // columns) + 60)

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        columns = columns_of(axes)
        for at, (on, arm) in enumerate(zip(axes, look.shown(results), strict=True)):
            heading(on, look.labels[arm])
            tops = {sign: np.zeros(1) for sign in (1, -1)}
            for part, column in self._measured(results, arm).items():
                values = results.ends(arm, column)
                there = ~np.isnan(values).all(0)
                mean = np.nanmean(values[:, there], 0)
                tasks = np.arange(1, values.shape[1] + 1)[there]
                if len(tasks) == 1:  # a bar
                    tasks, mean = tasks + np.array([-0.4, 0.4]), mean.repeat(2)
                for sign in (1, -1):
                    height = np.clip(sign * mean, 0, None)
                    top = tops[sign] + sign * height
                    how = {"color": mechanism(part), "linewidth": 0}
                    on.fill_between(tasks, tops[sign] + 0 * top, top, **how)
                    tops[sign] = top
            on.axhline(0, color=GREY, linewidth=0.8)
            on.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True, min_n_ticks=1))
            if at + columns >= len(axes):
                on.set_xlabel("task")
            if at % columns == 0:
                on.set_ylabel(fill(self.title, 26))
        drawn = [
            part for part in self.parts if any(part in self._measured(results, arm) for arm in look.shown(results))
        ]
        handles = [Line2D([], [], color=mechanism(part), lw=6) for part in drawn]
        legend(axes[0].figure, handles, drawn)  # type: ignore[arg-type]

    def _measured(self, results: Results, arm: str) -> dict[str, str]:
        """The parts that an arm has: runs of before lack those that are new."""
        return {part: column for part, column in self.parts.items() if results.has(arm, column)}

    def caption(self, results: Results, look: Look) -> list[str]:
        over = f"means over {len(results.seeds)} seeds" if len(results.seeds) > 1 else "one seed"
        return [f"{self.title}: {over}. Parts lie on top of each other; what is negative lies below 0."]

    def grid(self, results: Results, look: Look) -> Grid:
        rows = []
        for arm in look.shown(results):
            values = {part: results.ends(arm, column) for part, column in self._measured(results, arm).items()}
            for task in np.flatnonzero(np.any([~np.isnan(part).all(0) for part in values.values()], axis=0)):
                cells = (_cell(values[part][:, task]) if part in values else "" for part in self.parts)
                rows.append([look.labels[arm], str(task + 1), *cells])
        return Grid(["arm", "task", *self.parts], rows, "lr" + "r" * len(self.parts), [self.title])


def _cell(values: np.ndarray) -> str:
    left = values[np.isfinite(values)]
    return with_interval(interval(left)) if len(left) else ""
