"""The frame that plots of labelled lines share: one set of axes, intervals over seeds, a legend above."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from pliant.plots.base import WIDTHS, Layout, Look, bands, colour, dashes, heading, legend
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Line(NamedTuple):
    """A line: where its points stand, and their values `(seeds, points)`; without points it is not drawn."""

    x: np.ndarray
    values: np.ndarray


class Framed(ABC):
    """A picture of its own: a column as lines over seeds, each with a label. Colours follow the place of the label."""

    sheet: ClassVar[bool] = False
    marker: ClassVar[Mapping[str, object]] = {}

    column: str
    title: str
    label: str
    log: bool

    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def points(self, results: Results, look: Look) -> list[int]:
        return []

    def layout(self, results: Results, look: Look, columns: int = 3) -> Layout:
        return Layout(1, 1, 560 if columns > 1 else WIDTHS[1], 330)

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        (on,) = axes
        for place, (label, line) in enumerate(self.lines(results).items()):
            if not len(line.x):
                continue
            ends = bands(line.values, self.log)
            how = {"color": colour(place), "zorder": 2 + place / 100}
            on.plot(line.x, ends.mean, dashes(place), label=label, **self.marker, **how)
            if np.isfinite(ends.low).any():
                on.fill_between(line.x, ends.low, ends.high, alpha=0.16, linewidth=0, **how)
        self.scale(on)
        on.set_xlabel(self.label)
        heading(on, self.title)
        legend(on.figure, *on.get_legend_handles_labels())  # type: ignore[arg-type]

    def caption(self, results: Results, look: Look) -> list[str]:
        seeds, mean = len(results.seeds), "geometric means" if self.log else "means"
        over = f"{mean} over {seeds} seeds; bands: 95 % intervals." if seeds > 1 else "one seed, no bands."
        return [f"{self.subject()}: {over}"]

    def subject(self) -> str:
        """What is drawn, in the caption."""
        return self.title

    @abstractmethod
    def lines(self, results: Results) -> dict[str, Line]:
        """The lines by their label."""

    @abstractmethod
    def scale(self, on: Axes) -> None:
        """Sets the scales of both axes, once the lines are drawn."""
