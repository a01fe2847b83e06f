"""A map of cells as a table of the page: its text can be read on a phone, selected, printed and sorted."""

from __future__ import annotations

from typing import Any

import numpy as np

from pliant.numbers import plain
from pliant.plots import Cells
from pliant.plots.cells import cell
from pliant.results import Results

STOPS = 9  # of the scale's colours


def heat_map(cells: Cells, results: Results) -> dict[str, Any]:
    """What `heat_map.html.jinja` shows: groups of rows, each cell with its colours; empty where nothing was run."""
    blocks, values = cells.blocks(results)
    low, high = cells.limits
    groups = []
    for name, labels in blocks.items():
        rows = []
        for label in labels:
            theirs = cells.paper.get(label, (None,) * len(cells.headings))
            rows.append(
                {"label": label, "cells": [_cell(cells, *one) for one in zip(values[label], theirs, strict=True)]}
            )
        groups.append({"name": name, "rows": rows})
    return {
        "headings": [heading.replace("\n", " ") for heading in cells.headings],
        "groups": groups,
        "title": cells.title,
        "ends": (plain(low), plain(high)),
        "stops": ", ".join(_colour(at / (STOPS - 1)) for at in range(STOPS)),
    }


def _cell(cells: Cells, values: np.ndarray, paper: str | None) -> dict[str, str]:
    mean, (low, high) = float(values.mean()), cells.limits
    if not np.isfinite(mean):
        return {"mean": "", "spread": "", "paper": paper or "", "colour": "", "ink": "", "value": ""}
    said, _, spread = cell(values).partition(" ")
    return {
        "mean": said,
        "spread": spread,
        "paper": paper or "",
        "colour": _colour((mean - low) / (high - low)),
        "ink": "#fff" if mean < (low + high) / 2 else "#000",
        "value": f"{mean:.6g}",
    }


def _colour(share: float) -> str:
    """The colour of a share of the scale, as `Cells` draws it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["cividis"](min(1.0, max(0.0, share))))
