"""The numbers of `pliant diagnose` as tables: tensors, units, and what is said of the whole network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console

from pliant.formats import Grid
from pliant.terminal import paragraph, print_grid

if TYPE_CHECKING:
    from pliant.cli.measuring import Numbers, Range

MOST = 12  # departures that are shown
SAYS = "`pliant diagnostics` says what each is"
SITES = ("dead", "dormant", "linearized", "saturated", "one_sided", "active")  # columns of the table of units


def print_departures(console: Console, now: Numbers, fresh: dict[str, Range], networks: int) -> None:
    """The whole network's numbers that lie outside what fresh networks read, those that are furthest out first."""
    far = {n: d for n, value in now.items() if n in fresh and (d := fresh[n].distance(value)) > 1}
    shown = sorted((n for n in far if "/" not in n and not n.endswith("_count")), key=lambda n: -far[n])[:MOST]
    rows = [[n, *map(_number, (now[n], fresh[n].mean)), " to ".join(map(_number, fresh[n][::2]))] for n in shown]
    those = f"{networks} fresh networks on this batch"
    console.print()
    if not rows:
        paragraph(console, f"No number departs from those of {those}; --all shows them.")
        return
    note = (
        f"Furthest from {those}, of {len(far)} numbers that depart, with those of sites and tensors. --all shows all; "
    )
    print_grid(console, Grid(["departs", "here", "fresh", "range"], rows, "lrrr", [note + SAYS]))


def print_weights(console: Console, weights: dict[str, Numbers]) -> None:
    """The norms and ranks of tensors."""
    against = any("norm_ratio" in found for found in weights.values())
    ranks = ("srank", "effective_rank", "stable_rank")
    names = ("norm", *(("fresh",) if against else ()), "top s.v.", "srank", "effective", "stable", "of")
    rows = []
    for name, found in weights.items():
        numbers = [found["norm"], *((found.get("norm_ratio"),) if against else ()), found.get("spectral_norm")]
        cells = [_number(value) for value in (*numbers, *(found.get(rank) for rank in ranks), found.get("full_rank"))]
        if against and cells[1]:
            cells[1] = f"{cells[1]}x"
        rows.append([name, "x".join(map(str, found["shape"])), *cells])
    ratio = "fresh: the norm over that of a fresh draw; " if against else ""
    note = f"{ratio}s.v.: singular value; srank, effective and stable: ranks, of so many"
    console.print()
    print_grid(console, Grid(["tensor", "shape", *names], rows, "ll" + "r" * len(names), [note]))


def print_units(console: Console, now: Numbers, fresh: dict[str, Range]) -> None:
    """What became of hidden units, by site."""
    columns = [name for name in SITES if name in now]
    sites = [key.partition("/")[2] for key in now if columns and key.startswith(f"{columns[0]}/")]
    if not sites:
        return
    rows = [[site, *(_percent(now.get(f"{name}/{site}")) for name in columns)] for site in sites]
    rows.append(["all", *(_percent(now.get(name)) for name in columns)])
    rows.append(["in fresh networks", *(_percent(fresh[name].mean if name in fresh else None) for name in columns)])
    styles = [[""] * (1 + len(columns))] * len(sites) + [["bold"] * (1 + len(columns)), ["dim"] * (1 + len(columns))]
    console.print()
    headings = ["units at", *(name.replace("_", " ") for name in columns)]
    print_grid(console, Grid(headings, rows, "l" + "r" * len(columns)), styles)


def print_numbers(console: Console, now: Numbers, fresh: dict[str, Range]) -> None:
    """What is said of the whole network; units have a table of their own."""
    rows = [
        [name, _number(value), _number(fresh[name].mean if name in fresh else None)]
        for name, value in now.items()
        if "/" not in name and not name.endswith("_count") and name not in SITES
    ]
    console.print()
    print_grid(console, Grid(["number", "here", "fresh"], rows, "lrr", [SAYS]))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    if 1e3 <= size < 1e5:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size == 0 or 1e-3 <= size < 1e3 else f"{value:.1e}"


def _percent(share: float | None) -> str:
    return "" if share is None or not math.isfinite(share) else f"{100 * share:.3g} %"
