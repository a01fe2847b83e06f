"""Profiles: arrays as lines, such as singular values by their number or a histogram by its bins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pliant.formats import Grid
from pliant.numbers import number
from pliant.plots._framed import Framed, Line
from pliant.plots.base import Look
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUNDING = 1e-7  # of the largest value of a line, as numbers come from float32


@dataclass(frozen=True)
class Profile(Framed):
    """The entries of an array, a line an arm, with intervals over seeds: where it was measured last, or several times.

    Args:
        column: of arrays of one axis.
        title: what the entries are, with units.
        label: of the horizontal axis, with units.
        arms: those that are drawn, by the label of their line.
        at: where each entry stands on the horizontal axis; 1, 2, 3, ... if None.
        log: both axes are logarithmic; lines are geometric means, and end where rounding begins.
        moments: which of the measurements are drawn, by their place; -1 is the last. Of several, lines name the step.

    >>> Profile("spectrum", "singular value", "number", {"plain": "plain_0"}).columns()
    ('spectrum',)
    """

    column: str
    title: str
    label: str
    arms: Mapping[str, str]
    at: tuple[float, ...] | None = None
    log: bool = False
    moments: tuple[int, ...] = (-1,)

    def scale(self, on: Axes) -> None:
        if self.log:
            on.set_xscale("log")
            on.set_yscale("log")
            means = np.concatenate([np.empty(0), *(line.get_ydata() for line in on.lines)])
            if len(means := means[np.isfinite(means)]):  # the band of a few seeds may be wider than any picture
                on.set_ylim(means.min() / 3, means.max() * 3)

    def lines(self, results: Results) -> dict[str, Line]:
        found = {}
        for label, values in self._values(results).items():
            if self.log:  # what lies below is rounding, whose exponents are anything
                values = np.where((values > ROUNDING * values.max()).all(0), values, np.nan)
            found[label] = Line(self._places(values.shape[1]), values)
        return found

    def grid(self, results: Results, look: Look) -> Grid:
        values = self._values(results)
        places = self._places(max((found.shape[1] for found in values.values()), default=0))
        rows = [
            [
                f"{at:g}",
                *(number(float(found[:, i].mean()), 3) if i < found.shape[1] else "" for found in values.values()),
            ]
            for i, at in enumerate(places)
        ]
        return Grid([self.label, *values], rows, "r" * (1 + len(values)), [self.title])

    def _places(self, size: int) -> np.ndarray:
        return np.arange(1.0, size + 1) if self.at is None else np.array(self.at)

    def _values(self, results: Results) -> dict[str, np.ndarray]:
        """The arrays `(seeds, entries)` of the arms that were run, by the label of their line."""
        found = {}
        for label, arm in self.arms.items():
            if arm not in results.arms:
                continue
            steps, each = results.array(arm, self.column, results.seeds_of(arm)[0])[0], results.seeds_of(arm)
            for moment in self.moments:
                named = label if len(self.moments) == 1 else f"{label}, step {steps[moment]:,}"
                found[named] = np.stack([results.array(arm, self.column, seed)[1][moment] for seed in each])
        return found
