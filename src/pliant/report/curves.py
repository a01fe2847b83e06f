"""What a figure draws, as numbers: for each panel and arm a mean over seeds with its 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.experiment import Panel, Setup
from pliant.functional.statistics import bands
from pliant.report.numbers import diverged
from pliant.results import Results
from pliant.words import unknown

SWITCHES = 30  # most tasks whose boundaries are drawn
POINTS = 3600  # drawn in all, which keeps an SVG below some 250 KB


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


def curves(setup: Setup, results: Results) -> list[list[Curve]]:
    """The lines of every panel, in the order of the setup's arms; `ValueError` for a metric that was not measured.

    Where all panels together have more than `POINTS` points, a long line keeps, of every window of its points, the one
    with the lowest and the one with the highest mean: measured values, so that a spike stays as high as it was.
    """
    shown = arms(setup, results)
    raw = [[_values(results, arm, panel) for arm in shown] for panel in setup.panels]
    lengths = [len(x) for lines in raw for x, _ in lines]
    most = max(lengths, default=0)
    while most > 16 and sum(min(length, most) for length in lengths) > POINTS:
        most = int(0.9 * most)
    return [
        [
            _curve(results, arm, panel, x, values, most)
            for arm, (x, values) in zip(arms(setup, results), lines, strict=True)
        ]
        for panel, lines in zip(setup.panels, raw, strict=True)
    ]


def arms(setup: Setup, results: Results) -> list[str]:
    """The arms that were run, in the order of the setup."""
    return [arm for arm in setup.arms if arm in results.arms]


def caption(setup: Setup, results: Results, lines: list[list[Curve]]) -> str:
    """What a figure of these curves shows, in words: lines, bands, marks, which seeds diverged, what was left out."""
    seeds, panels = len(results.seeds), list(zip(setup.panels, lines, strict=True))
    said = [f"Lines: means over {seeds} seeds; bands: 95 % intervals." if seeds > 1 else "One seed: no bands."]
    if any(panel.marks for panel in setup.panels):
        said.append("Dashed: what the paper reports.")
    if any(panel.over == "step" for panel in setup.panels) and 1 < setup.task.num_tasks <= SWITCHES:
        said.append("Vertical lines: a new task begins.")
    if any(panel.log and (line.mean <= 0).any() for panel, drawn in panels for line in drawn):
        said.append("A line that leaves a logarithmic axis at the bottom has reached 0.")
    gone = {arm: diverged(results, arm) for arm in arms(setup, results)}
    if any(gone.values()):
        each = "; ".join(f"{setup.arms[arm].label}: {when}" for arm, when in gone.items() if when)
        said.append(f"Crosses: a seed diverged ({each}); from there on the line is the mean of the others.")
    for panel, drawn in panels:
        longest = max(drawn, key=lambda line: line.measured)
        if len(longest.x) < longest.measured:
            said.append(
                f"“{panel.label}” was measured at {longest.measured:,} points; drawn are {len(longest.x):,} of them, "
                "the lowest and the highest of every stretch."
            )
    return " ".join(said)


def _values(results: Results, arm: str, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    if panel.column not in results.columns():
        raise ValueError(unknown("column of a panel", panel.column, results.columns()))
    if panel.over == "step":
        x, values = results.curve(arm, panel.column)
    else:
        values = results.ends(arm, panel.column)
        x = 1 + np.arange(values.shape[1])
    values = np.where(np.isfinite(values), values, np.nan)
    there = ~np.isnan(values).all(axis=0)
    return x[there], values[:, there]


def _curve(results: Results, arm: str, panel: Panel, x: np.ndarray, values: np.ndarray, most: int) -> Curve:
    mean = np.nanmean(values, axis=0)
    kept = thin(mean, most)
    band = bands(values[:, kept])
    gone = [seed for name, seed in results.diverged() if name == arm]
    last = [np.flatnonzero(~np.isnan(values[results.seeds.index(seed)])) for seed in gone]
    return Curve(
        arm,
        x[kept],
        mean[kept],
        band.low,
        band.high,
        _range(np.concatenate([values.ravel(), mean]), panel.log),
        len(x),
        tuple(float(x[at[-1] if len(at) else 0]) for at in last if len(x)),
    )


def _range(values: np.ndarray, log: bool) -> tuple[float, float]:
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    return (float(values.min()), float(values.max())) if len(values) else (float("nan"), float("nan"))


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
