"""The rows of a monitor as a figure, drawn like pliant's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pliant.plots import Lines, Look
from pliant.plots.base import GREY
from pliant.plots.figures import figure
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pliant.monitor.sinks import Row


def picture(rows: Sequence[Row], columns: Sequence[str]) -> Figure:
    """Columns over the steps, each in axes of its own; what fresh networks read is a dashed line.

    >>> len(picture([{"step": 0, "dead": 0.0}, {"step": 1, "dead": 0.5}], ["dead"]).axes)
    1
    """
    names = dict.fromkeys(name for row in rows for name in row)
    table = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    table["diverged_at"] = np.full(len(rows), -1)
    plots = [Lines(column, column, over="step") for column in columns]
    drawn = figure("monitor", plots, Results({("monitor", 0): table}), Look({"monitor": "this network"}))
    newest = {name: value for row in rows for name, value in row.items()}
    for column, axes in zip(columns, drawn.axes, strict=False):
        if (reference := newest.get(f"fresh/{column}")) is not None:
            low, high = axes.get_ylim()
            axes.axhline(reference, color=GREY, ls="--", lw=1)
            axes.set_ylim(min(low, reference), max(high, reference))
            axes.annotate(
                "fresh", (1, reference), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY,
                fontsize="small",
            )  # fmt: skip
    return drawn
