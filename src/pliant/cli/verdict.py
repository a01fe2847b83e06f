"""The verdict of `pliant diagnose`, and the causes of what was lost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from pliant.cli.described import table

if TYPE_CHECKING:
    from pliant.causes import Causes


def print_causes(console: Console, causes: Causes) -> None:
    """The verdict, and a table of the repairs where something was lost."""
    style = {"lost": "bold red", "healthy": "bold green"}.get(causes.verdict, "bold yellow")
    console.print(Text(f"\n{causes.conclusion}", style))
    if causes.verdict != "lost":
        return
    shown = table(("repair", "left"), *((n, "right") for n in ("share", "95 %", "alone", "moved")), ("evidence", ""))
    order = sorted(range(len(causes.repairs)), key=lambda i: -causes.shares[causes.repairs[i].name].mean)
    for i in order:
        name, alone = causes.repairs[i].name, causes.alone(i)
        moved, recovers = f"{causes.changed[name]:.2f}", "" if alone is None else f"{alone:+.3f}"
        shown.add_row(name, *_share(causes, name), recovers, moved, causes.told(name))
    shown.add_row("unexplained", *_share(causes, "unexplained"), "", "", "")
    console.print()
    console.print(shown)
    if causes.idle:
        console.print(Text(f"nothing to repair: {', '.join(causes.idle)}", "dim"))
    unit = causes.probed.unit
    console.print(Text(f"alone: what one repair recovers, in {unit}; moved: how far it moves the outputs", "dim"))
    if order and causes.shares[causes.repairs[order[0]].name].mean > 0:
        top = causes.repairs[order[0]]
        console.print(Text(f"\ntreat {top.mechanism} with: {top.cure}"))


def _share(causes: Causes, name: str) -> tuple[str, str]:
    share = causes.shares[name]
    if not math.isfinite(share.low):
        return f"{100 * share.mean:.0f} %", "-"
    return f"{100 * share.mean:.0f} %", f"{100 * share.low:.0f} to {100 * share.high:.0f} %"
