"""Lines over tasks or steps: a mean over seeds an arm, with its 95 % interval as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pliant.formats import Grid
from pliant.functional.statistics import bands, interval
from pliant.numbers import diverged, with_interval
from pliant.plots.base import GREY, HEIGHT, STEPS, WIDTHS, Layout, Look, colour, dashes, heading
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SWITCHES = 30  # most tasks whose boundaries are drawn


@dataclass(frozen=True)
class Curve:
    """One line. `low` and `high` are NaN where fewer than two seeds are finite, `mean` where none is.

    Args:
        arm: name of the arm.
        x: task numbers from 1, or optimizer steps.
        mean: over the seeds that are finite there.
        low: lower end of the 95 % interval over these seeds.
        high: upper end.
        range: smallest and largest value of a single seed, of those above 0 if the axis is logarithmic.
        measured: how many points were measured; `x` holds fewer where there were too many to draw.
        left: x of the last value of each seed that diverged.
    """

    arm: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    range: tuple[float, float]
    measured: int
    left: tuple[float, ...]


@dataclass(frozen=True)
class Lines:
    """A metric over tasks or steps: a line an arm, bands over seeds.

    Lines are means over the seeds that are still finite, bands their 95 % intervals (none for one seed); a cross stands
    where a seed diverged. Axes follow the values of the seeds: a band much wider than these leaves the axes. Where
    there are too many points, a line keeps, of every window of its points, the one with the lowest and the one with the
    highest mean: measured values, so that a spike stays as high as it was.

    Args:
        column: the metric.
        title: what it is, with units.
        over: `"task"` draws values at task ends, `"step"` all that was measured.
        log: logarithmic vertical axis.
        limits: of the vertical axis.
        marks: values the paper reports, by text.
        arms: those that are drawn; all, where empty.
        window: the first and the last step that are drawn, where it is not all of them.
        unit: of the horizontal axis over steps: how many of them it is, and its name.
        against: an arm whose values are subtracted, seed by seed, and which is not drawn; nothing is, where it was not
            run.

    >>> Lines("dead", "dead units (share)", limits=(0, 1)).over
    'task'
    """

    sheet: ClassVar[bool] = True

    column: str
    title: str
    over: Literal["task", "step"] = "task"
    log: bool = False
    limits: tuple[float, float] | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    window: tuple[int, int] | None = None
    unit: tuple[int, str] = (1, "optimizer step")
    against: str = ""

    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def layout(self, results: Results, look: Look, columns: int = 3) -> Layout:
        return Layout(1, 1, WIDTHS[1], HEIGHT + 40)

    def points(self, results: Results, look: Look) -> list[int]:
        return [len(self._values(results, arm)[0]) for arm in self._shown(results, look)]

    def curves(self, results: Results, look: Look) -> list[Curve]:
        """The lines, in the order of the arms; `ValueError` for a metric that was not measured."""
        return [self._curve(results, arm, look.most) for arm in self._shown(results, look)]

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

        (on,) = axes
        lines = self.curves(results, look)
        heading(on, self.title)
        if self.log:
            on.set_yscale("log")
            on.yaxis.set_major_locator(LogLocator(numticks=6))
            on.yaxis.set_major_formatter(_power)
        low, high = self.limits or self.room(lines)
        on.set_ylim(low, high)
        for line in lines:
            position = look.place(line.arm)
            how = {"color": colour(position), "zorder": 2 + position / 100}
            on.plot(line.x, line.mean, dashes(position), marker="o" if len(line.x) <= 12 else "", ms=3, **how)
            if np.isfinite(line.low).any():
                bottom = np.maximum(line.low, low / 10) if self.log else line.low
                on.fill_between(line.x, bottom, line.high, alpha=0.16, linewidth=0, **how)
            if line.left:
                where = np.clip(np.interp(line.left, line.x, line.mean), low, high)
                on.plot(line.left, where, "x", ms=7, mew=1.8, clip_on=False, **how)
        for text, value in self.marks.items():
            on.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1.9)
            on.annotate(
                text, (1, value), (0, 2), ("axes fraction", "data"), "offset points", ha="right", color=GREY, fontsize=8
            )
        if self.log and high < 20 * low:  # too short for powers of ten alone
            on.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 4 * low else MaxNLocator(5, steps=STEPS))
        on.yaxis.set_minor_locator(NullLocator())
        on.set_xlabel("task" if self.over == "task" else self.unit[1])
        ends = results.task_ends(*self._shown(results, look))
        if self.over == "task":
            on.set_xlim(1 - 0.02 * len(ends), len(ends) * 1.02)
            on.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True, min_n_ticks=1))
            return
        on.set_xlim(*(self.window or (0, results.num_steps(*self._shown(results, look)))))
        on.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        on.xaxis.set_major_formatter(lambda step, _: EngFormatter(sep="").format_eng(step / self.unit[0]))
        if len(ends) <= SWITCHES:
            for end in ends[:-1]:
                if self.window is not None and not self.window[0] <= end <= self.window[1]:
                    continue
                on.axvline(end, color="#dfe2e6", linewidth=0.8, zorder=0.5)

    def room(self, lines: Sequence[Curve]) -> tuple[float, float]:
        """Limits for all seeds' values, for the bands as far as these are not far wider, and for the paper's values."""
        scale = np.log10 if self.log else np.asarray
        marks = [value for value in self.marks.values() if value > 0 or not self.log]
        shown = np.array([value for line in lines for value in line.range] + marks)
        shown = scale(shown[np.isfinite(shown)])
        if not len(shown):
            return (0.1, 1.0) if self.log else (0.0, 1.0)
        low, high = float(shown.min()), float(shown.max())
        size = high - low or 0.1 * abs(high) or 1.0
        ends = np.concatenate([end for line in lines for end in (line.low, line.high)])
        ends = scale(ends[np.isfinite(ends) & ((ends > 0) | (not self.log))])
        low = min(low, max(low - size / 4, *([ends.min()] if len(ends) else [low])))
        high = max(high, min(high + size / 4, *([ends.max()] if len(ends) else [high])))
        low, high = low - 0.05 * size, high + 0.08 * size
        return (10**low, 10**high) if self.log else (low, high)

    def caption(self, results: Results, look: Look) -> list[str]:
        shown, seeds = self._shown(results, look), len(results.seeds)
        lines, tasks = self.curves(results, look), len(results.task_ends(*shown))
        said = [f"Lines: means over {seeds} seeds; bands: 95 % intervals." if seeds > 1 else "One seed: no bands."]
        if self.against:
            said.append(f"Differences from {look.labels[self.against]}, seed by seed.")
        if self.marks:
            said.append("Dashed: what the paper reports.")
        if self.over == "step" and 1 < tasks <= SWITCHES:
            said.append("Vertical lines: a new task begins.")
        if self.log and any((line.mean <= 0).any() for line in lines):
            said.append("A line that leaves a logarithmic axis at the bottom has reached 0.")
        gone = [f"{look.labels[arm]}: {when}" for arm in shown if (when := diverged(results, arm))]
        if gone:
            said.append(
                f"Crosses: a seed diverged ({'; '.join(gone)}); from there on the line is the mean of the others."
            )
        longest = max(lines, key=lambda line: line.measured, default=None)
        if longest is not None and len(longest.x) < longest.measured:
            points = f"{longest.measured:,} points"
            said.append(f"Of lines measured at {points}, the lowest and the highest of every stretch are drawn.")
        return said

    def grid(self, results: Results, look: Look) -> Grid:
        shown = self._shown(results, look)
        values = {arm: self._values(results, arm) for arm in shown}
        every = sorted({float(at) for x, _ in values.values() for at in x})
        rows = []
        for at in every:
            cells = []
            for x, found in values.values():
                here = found[:, x == at]
                left = here[np.isfinite(here)]
                cells.append(with_interval(interval(left)) if len(left) else "")
            rows.append([f"{at / (self.unit[0] if self.over == 'step' else 1):.10g}", *cells])
        along = self.over if self.unit[0] == 1 else self.unit[1]
        return Grid([along, *(look.labels[arm] for arm in shown)], rows, "r" * (1 + len(shown)), [self.title])

    def _shown(self, results: Results, look: Look) -> list[str]:
        if self.against and self.against not in results.arms:
            return []
        shown = [arm for arm in look.shown(results) if not self.arms or arm in self.arms]
        return [arm for arm in shown if arm != self.against]

    def _values(self, results: Results, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """Where it was measured, and the values `(seeds, points)`, NaN where they are not finite."""
        x, values = self._measured(results, arm)
        if self.against:
            less = dict(zip(results.seeds_of(self.against), self._measured(results, self.against)[1], strict=True))
            none = np.full(values.shape[1], np.nan)
            values = values - np.stack([less.get(seed, none) for seed in results.seeds_of(arm)])
        values = np.where(np.isfinite(values), values, np.nan)
        there = ~np.isnan(values).all(axis=0)
        if self.window is not None:
            there &= (x >= self.window[0]) & (x <= self.window[1])
        return x[there], values[:, there]

    def _measured(self, results: Results, arm: str) -> tuple[np.ndarray, np.ndarray]:
        if self.over == "step":
            x, values = results.curve(arm, self.column)
        else:
            values = results.ends(arm, self.column)
            x = 1 + np.arange(values.shape[1])
        return x, values

    def _curve(self, results: Results, arm: str, most: int) -> Curve:
        x, values = self._values(results, arm)
        mean = np.nanmean(values, axis=0)
        kept = thin(mean, most)
        band = bands(values[:, kept])
        seeds = results.seeds_of(arm)
        gone = [seed for name, seed in results.diverged() if name == arm]
        last = [np.flatnonzero(~np.isnan(values[seeds.index(seed)])) for seed in gone]
        every = np.concatenate([values.ravel(), mean])
        every = every[np.isfinite(every) & ((every > 0) | (not self.log))]
        return Curve(
            arm,
            x[kept],
            mean[kept],
            band.low,
            band.high,
            (float(every.min()), float(every.max())) if len(every) else (float("nan"), float("nan")),
            len(x),
            tuple(float(x[at[-1] if len(at) else 0]) for at in last if len(x)),
        )


def thin(mean: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` points: the ends, and the lowest and the highest of every window.

    >>> thin(np.array([0.0, 1.0, 0.0, 9.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5]), 6)
    array([0, 2, 3, 5, 6, 9])
    """
    if len(mean) <= most:
        return np.arange(len(mean))
    windows = np.array_split(np.arange(1, len(mean) - 1), max(1, most // 2 - 1))
    extremes = [w[at] for w in windows for at in (mean[w].argmin(), mean[w].argmax())]
    return np.unique([0, *extremes, len(mean) - 1])


def _power(value: float, _: float) -> str:
    """A tick of a logarithmic axis; evenly spaced ones may begin at 0, out of sight."""
    if value <= 0:
        return ""
    if 0.01 <= value < 1e5:
        return f"{value:.6g}" if value < 1000 else f"{value:,.0f}"
    return f"$10^{{{np.log10(value):.0f}}}$"
