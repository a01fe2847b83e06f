"""Waterfalls: what leads from the loss of fresh networks to that of each arm, a bar a mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pliant.formats import Grid
from pliant.functional.statistics import interval
from pliant.numbers import MINUS, with_interval
from pliant.plots.base import GREY, STEPS, WIDTHS, Layout, Look, columns_of, heading, mechanism
from pliant.results import Results
from pliant.waterfall import FRESH, NOW, Bar, Waterfall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 21  # CSS pixels of a bar


@dataclass(frozen=True)
class Waterfalls:
    """Axes an arm: from fresh networks' loss to the arm's at its last task, means over seeds.

    Args:
        title: the loss, with units.
        unit: of all of it.
        parts: columns of what each mechanism adds, by its name.
        fresh: column of the loss of fresh networks; bars begin at 0 where it was not measured.

    >>> Waterfalls("probe loss [nats]", "nats", {"units": "lost/units"}).columns()
    ('lost/units',)
    """

    sheet: ClassVar[bool] = False

    title: str
    unit: str
    parts: Mapping[str, str]
    fresh: str = "probe_fresh"

    def columns(self) -> tuple[str, ...]:
        return tuple(self.parts.values())

    def points(self, results: Results, look: Look) -> list[int]:
        return []

    def layout(self, results: Results, look: Look, columns: int = 3) -> Layout:
        panes = len(look.shown(results))
        columns = min(2, panes, columns)
        return Layout(panes, columns, WIDTHS[columns], -(-panes // columns) * ((len(self.parts) + 2) * ROW + 44) + 20)

    def of(self, results: Results, arm: str) -> Waterfall:
        """The way from fresh networks to an arm, means over seeds."""
        begun = results.last(arm, self.fresh).mean() if self.fresh in results.columns() else 0.0
        parts = {name: interval(results.last(arm, column)) for name, column in self.parts.items()}
        return Waterfall(float(begun), parts, self.unit)

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        falls = {arm: self.of(results, arm) for arm in look.shown(results)}
        ends = [end for fall in falls.values() for bar in fall.bars for end in bar[1:3] if math.isfinite(end)]
        most = max(ends, default=1.0)
        columns = columns_of(axes)
        for at, (on, (arm, fall)) in enumerate(zip(axes, falls.items(), strict=True)):
            heading(on, look.labels[arm])
            if at + columns >= len(axes):
                on.set_xlabel(self.title)
            if not math.isfinite(fall.now):
                on.text(0.5, 0.5, "not measured with every seed", transform=on.transAxes, ha="center", color=GREY)
                continue
            draw(on, fall, fall.along(self.parts), most)

    def caption(self, results: Results, look: Look) -> list[str]:
        over = f"means over {len(results.seeds)} seeds" if len(results.seeds) > 1 else "one seed"
        return [
            f"{self.title}, at the last task, {over}: what each mechanism adds, from fresh networks to the "
            "arm's. A bar to the left serves the network well. Per cent: of all that adds."
        ]

    def grid(self, results: Results, look: Look) -> Grid:
        rows = []
        for arm in look.shown(results):
            fall = self.of(results, arm)
            parts = [with_interval(fall.parts[name]) for name in self.parts]
            rows.append([look.labels[arm], f"{fall.fresh:.3f}", *parts, f"{fall.now:.3f}"])
        return Grid(["arm", FRESH, *self.parts, NOW], rows, "l" + "r" * (len(self.parts) + 2), [self.title])


def draw(on: Axes, fall: Waterfall, bars: Sequence[Bar], most: float) -> None:
    """Draws a waterfall into axes from 0 to `most`, its first line on top; thin lines are intervals."""
    from matplotlib.ticker import MaxNLocator

    last, percent = len(bars) + 1, fall.percent
    low, high = min(0.0, *(bar.end for bar in bars), 0.0), most * 1.42
    for row, value in ((0, fall.fresh), (last, fall.now)):
        on.barh(row, value, 0.62, color=GREY, linewidth=0)
        on.text(max(value, 0) + 0.012 * high, row, f"{value:.{fall.digits}f}", va="center", fontsize=8)
    for row, bar in enumerate(bars, 1):
        on.barh(row, bar.end - bar.start, 0.62, left=bar.start, color=mechanism(bar.name), linewidth=0)
        on.plot([bar.end, bar.end], [row - 0.31, row + 1.31], color=GREY, linewidth=0.7)
        share = f" ({percent[bar.name]} %)" if bar.name in percent else ""
        said = fall.said(bar.part).split(" ")[0].replace("-", MINUS) + share
        on.text(max(bar.start, bar.end) + 0.012 * high, row, said, va="center", fontsize=8)
    on.plot([fall.fresh, fall.fresh], [-0.31, 1.31], color=GREY, linewidth=0.7)
    on.axvline(0, color=GREY, linewidth=0.8)
    on.grid(False)
    on.set_yticks(range(last + 1), [FRESH, *(bar.name for bar in bars), NOW])
    on.set_ylim(last + 0.6, -0.6)
    on.set_xlim(low, high)
    on.spines["left"].set_visible(False)
    on.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
