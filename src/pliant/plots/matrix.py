"""Matrices: kernels and covariances as heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pliant.formats import Grid
from pliant.numbers import number
from pliant.plots.base import WIDTHS, Layout, Look, narrow
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Matrix:
    """Square arrays as heat maps, a row an arm, a column a moment; of the first seed, as means would blur patterns.

    Args:
        column: of arrays `(n, n)`.
        title: what the entries are, with units.
        arms: those that are drawn, by the label of their row.
        moments: which of the measurements are drawn, by their place: 0 is the first, -1 the last.
        limits: of the colours.
        clustered: whether rows and columns stand in the order of clusters of rows, which shows blocks, as in P1.

    >>> Matrix("ntk", "kernel / its largest entry", {"plain": "none"}).columns()
    ('ntk',)
    """

    sheet: ClassVar[bool] = False

    column: str
    title: str
    arms: Mapping[str, str]
    moments: tuple[int, ...] = (0, -1)
    limits: tuple[float, float] = (-1.0, 1.0)
    clustered: bool = False

    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def points(self, results: Results, look: Look) -> list[int]:
        return []

    def layout(self, results: Results, look: Look, columns: int = 3) -> Layout:
        rows, moments = max(1, len(self._values(results))), len(self.moments)
        if columns > 1:
            return Layout(rows * moments, moments, 90 + 220 * moments, 30 + 220 * rows)
        return Layout(rows * moments, moments, WIDTHS[1], 30 + (40 + (WIDTHS[1] - 70) // moments) * rows)

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        image = None
        at = iter(axes)
        for label, maps in self._values(results).items():
            for step, values in maps:
                on = next(at)
                on.grid(False)
                low, high = self.limits
                if self.clustered:
                    order = _order(values)
                    values = values[order][:, order]
                image = on.imshow(values, cmap="RdBu_r", vmin=low, vmax=high, interpolation="nearest")
                on.set_xticks([])
                on.set_yticks([])
                on.spines[:].set_visible(False)
                said = f"{label}, step {step:,}"
                on.set_title(fill(said, 15) if narrow(on) else said, fontsize=8)
        if image is not None:
            made: Figure = axes[0].figure  # type: ignore[assignment]
            bar = made.colorbar(image, ax=list(axes), shrink=0.6, aspect=30)
            bar.set_label(self.title)
            bar.outline.set_visible(False)  # type: ignore[operator]

    def caption(self, results: Results, look: Look) -> list[str]:
        return [f"{self.title}: of seed {results.seeds[0]}."]

    def grid(self, results: Results, look: Look) -> Grid:
        rows = []
        for label, maps in self._values(results).items():
            for step, values in maps:
                rest = values[~np.eye(len(values), dtype=bool)]
                told = (np.diag(values).mean(), rest.mean(), rest.std(), (rest < 0).mean())
                rows.append([label, f"{step:,}", *(number(float(one), 3) for one in told)])
        headings = ["", "step", "mean of the diagonal", "mean beside it", "deviation beside it", "share below 0"]
        return Grid(headings, rows, "lrrrrr", [self.title])

    def _values(self, results: Results) -> dict[str, list[tuple[int, np.ndarray]]]:
        """Step and matrix at each moment, of the arms that were run, by the label of their row."""
        found = {}
        for label, arm in self.arms.items():
            if arm in results.arms:
                steps, values = results.array(arm, self.column, results.seeds_of(arm)[0])
                found[label] = [(int(steps[moment]), values[moment]) for moment in self.moments]
        return found


def _order(matrix: np.ndarray) -> np.ndarray:
    """Rows by cluster; as they are where not all entries are finite."""
    import torch

    from pliant.functional.kernels import cluster_order

    if not np.isfinite(matrix).all():
        return np.arange(len(matrix))
    return cluster_order(torch.from_numpy(np.array(matrix, dtype=np.float64))).numpy()
