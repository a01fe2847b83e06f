"""The numbers of `pliant diagnose` as tables: tensors, units, and what is said of the whole network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pliant.cli.measuring import Numbers

SITES = ("dead", "dormant", "linearized", "saturated", "one_sided", "active")  # columns of the table of units


def print_weights(console: Console, weights: dict[str, Numbers]) -> None:
    """The norms and ranks of tensors."""
    against = any("norm_ratio" in found for found in weights.values())
    ranks = ("srank", "effective_rank", "stable_rank")
    names = ("norm", *(("fresh",) if against else ()), "top s.v.", "srank", "effective", "stable", "of")
    shown = table(("tensor", "left"), ("shape", "left"), *((name, "right") for name in names))
    for name, found in weights.items():
        numbers = [found["norm"], *((found.get("norm_ratio"),) if against else ()), found.get("spectral_norm")]
        cells = [_number(value) for value in (*numbers, *(found.get(rank) for rank in ranks), found.get("full_rank"))]
        if against and cells[1]:
            cells[1] = f"{cells[1]}x"
        shown.add_row(name, "x".join(map(str, found["shape"])), *cells)
    console.print(shown)
    ratio = "fresh: the norm over that of a fresh draw; " if against else ""
    console.print(Text(f"{ratio}s.v.: singular value; srank, effective and stable: ranks, of so many", "dim"))


def print_units(console: Console, now: Numbers, fresh: Numbers) -> None:
    """What became of hidden units, by site."""
    columns = [name for name in SITES if name in now]
    sites = [key.partition("/")[2] for key in now if columns and key.startswith(f"{columns[0]}/")]
    if not sites:
        return
    shown = table(("units at", "left"), *((name.replace("_", " "), "right") for name in columns))
    for site in sites:
        shown.add_row(site, *(_percent(now.get(f"{name}/{site}")) for name in columns))
    shown.add_section()
    shown.add_row("all", *(_percent(now.get(name)) for name in columns), style="bold")
    shown.add_row("in a fresh network", *(_percent(fresh.get(name)) for name in columns), style="dim")
    console.print()
    console.print(shown)


def print_numbers(console: Console, now: Numbers, fresh: Numbers) -> None:
    """What is said of the whole network; units have a table of their own."""
    shown = table(("number", "left"), ("here", "right"), ("fresh", "right"))
    for name, value in now.items():
        if "/" not in name and not name.endswith("_count") and name not in SITES:
            shown.add_row(name, _number(value), _number(fresh.get(name)))
    console.print()
    console.print(shown)
    console.print(Text("`pliant diagnostics` says what each is", "dim"))


def table(*columns: tuple[str, Any]) -> Table:
    """An empty table; each column has a heading, and how it is justified ("" for text that is folded)."""
    made = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for at, (heading, justify) in enumerate(columns):
        made.add_column(heading, justify=justify or "left", overflow="fold", no_wrap=at > 0 and justify != "")
    return made


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
