"""Scatters: one number of every run against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pliant.formats import Grid
from pliant.numbers import number
from pliant.plots.base import Layout, Look, colour, heading, legend
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Groups = Mapping[str, tuple[str, ...]]  # arms by what they have in common


@dataclass(frozen=True)
class Scatter:
    """A point a run: the change of a metric against the last value of others, a pane each, coloured by groups of arms.

    Args:
        column: of the vertical axis; its change from the first to the last value that was measured.
        title: what that is.
        against: the metric of each pane's horizontal axis, by its label.
        groups: of each pane, by the same label: the arms of each colour.

    >>> Scatter("probe_loss", "loss of plasticity", {"dead units": "dead"}, {"dead units": {"CNN": ("a",)}}).columns()
    ('probe_loss', 'dead')
    """

    sheet: ClassVar[bool] = False

    column: str
    title: str
    against: Mapping[str, str]
    groups: Mapping[str, Groups]

    def columns(self) -> tuple[str, ...]:
        return (self.column, *self.against.values())

    def points(self, results: Results, look: Look) -> list[int]:
        return []

    def layout(self, results: Results, look: Look, columns: int = 3) -> Layout:
        columns = min(2, len(self.against), columns)
        return Layout(len(self.against), columns, 370 * columns, 40 + 270 * -(-len(self.against) // columns))

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        places: dict[str, int] = {}
        handles = {}
        for on, label in zip(axes, self.against, strict=True):
            for group in self.groups[label]:
                x, y = self.values(results, label, group)
                place = places.setdefault(group, len(places))
                handles[group] = on.plot(x, y, ".", ms=6, alpha=0.7, color=colour(place + 1), label=group)[0]
            on.axhline(0, color="#dfe2e6", linewidth=0.8, zorder=0.5)
            on.set_xlabel(label)
        heading(axes[0], self.title)
        legend(axes[0].figure, list(handles.values()), list(handles))  # type: ignore[arg-type]

    def caption(self, results: Results, look: Look) -> list[str]:
        return [f"{self.title} of every run, against what was measured at its end: one point a seed of an arm."]

    def grid(self, results: Results, look: Look) -> Grid:
        rows = []
        for label in self.against:
            for group in self.groups[label]:
                x, y = self.values(results, label, group)
                rows.append([label, group, str(len(x)), number(rank_correlation(x, y), 2)])
        return Grid(["against", "runs", "how many", "rank correlation"], rows, "llrr", [self.title])

    def values(self, results: Results, label: str, group: str) -> tuple[np.ndarray, np.ndarray]:
        """Both numbers of all runs of a group that were run, without those that are not finite."""
        x, y = [np.empty(0)], [np.empty(0)]
        for arm in self.groups[label][group]:
            if arm in results.arms:
                x.append(results.last(arm, self.against[label]))
                y.append(results.last(arm, self.column) - results.first(arm, self.column))
        found = np.stack([np.concatenate(x), np.concatenate(y)])
        return tuple(found[:, np.isfinite(found).all(0)])  # type: ignore[return-value]


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation, NaN for fewer than three points, 0 where one of the two is constant.

    >>> float(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 9.0, 10.0])))
    1.0
    """
    from scipy.stats import rankdata

    if len(x) < 3:
        return float("nan")
    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 0 else 0.0
