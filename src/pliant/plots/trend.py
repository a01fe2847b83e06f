"""Trends: a metric against a number in which arms differ, such as a width or an offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pliant.formats import Grid
from pliant.functional.statistics import Interval, interval
from pliant.numbers import with_interval
from pliant.plots._framed import Framed, Line
from pliant.plots.base import STEPS, Look
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = Mapping[float, str]  # the arm of each number


@dataclass(frozen=True)
class Trend(Framed):
    """A metric at the end of a task against a number that arms have: a line a series, with intervals over seeds.

    Lines are means over the seeds that are finite, bars their 95 % intervals. Arms that were not run are left out.

    Args:
        column: the metric.
        title: what it is, with units.
        label: of the number, with units.
        series: the arms of each line by its label: from the number to the arm.
        task: at the end of the first or of the last task, or the change between the two; without tasks, of the first
            and the last value that was measured.
        log: logarithmic vertical axis, with geometric means.

    >>> Trend("error", "final error", "offset", {"plain": {0.0: "plain_0", 8.0: "plain_8"}}).columns()
    ('error',)
    """

    marker: ClassVar[Mapping[str, object]] = {"marker": "o", "ms": 4}

    column: str
    title: str
    label: str
    series: Mapping[str, Series]
    task: Literal["first", "last", "change"] = "last"
    log: bool = False

    def subject(self) -> str:
        return f"{self.title} against {self.label}"

    def scale(self, on: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        if self.log:
            on.set_yscale("log")
        else:
            on.set_ylim(bottom=min(0.0, on.get_ylim()[0]))
        on.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))

    def lines(self, results: Results) -> dict[str, Line]:
        found = {name: self._values(results, name) for name in self.series}
        return {
            name: Line(np.array(list(values)), np.stack(list(values.values()), 1) if values else np.empty((0, 0)))
            for name, values in found.items()
        }

    def grid(self, results: Results, look: Look) -> Grid:
        values = {name: self._values(results, name) for name in self.series}
        every = sorted({number for found in values.values() for number in found})
        rows = [
            [f"{number:g}", *(_said(found[number]) if number in found else "" for found in values.values())]
            for number in every
        ]
        return Grid([self.label, *values], rows, "r" * (1 + len(values)), [self.title])

    def _values(self, results: Results, name: str) -> dict[float, np.ndarray]:
        """Of the arms of a series that were run, by number, one value a seed, NaN where it is not finite."""

        def pick(arm: str, column: str) -> np.ndarray:
            first, last = results.first(arm, column), results.last(arm, column)
            return {"first": first, "last": last, "change": last - first}[self.task]

        runs = {number: arm for number, arm in sorted(self.series[name].items()) if arm in results.arms}
        found = {number: pick(arm, self.column) for number, arm in runs.items()}
        return {number: np.where(np.isfinite(values), values, np.nan) for number, values in found.items()}


def _said(values: np.ndarray) -> str:
    left = values[np.isfinite(values)]
    return with_interval(interval(left) if len(left) else Interval(np.nan, np.nan, np.nan))
