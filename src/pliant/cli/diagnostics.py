"""`pliant diagnostics`: every diagnostic there is, or all that is known of some."""

from __future__ import annotations

import argparse
from itertools import groupby

from rich.console import Console
from rich.text import Text

from pliant.cli.parsing import OK, Commands, as_document, chosen, command, document, print_whole
from pliant.terminal import paragraph


def add(commands: Commands) -> None:
    """Adds the command."""
    about = "every diagnostic: what it is, what it needs, what new nets read"
    listed = command(commands, "diagnostics", show, about, "pliant diagnostics", "pliant diagnostics LinearizedUnits")
    listed.add_argument("names", nargs="*", metavar="NAME", help="only these, with all that is known of them")
    as_document(listed)


def show(given: argparse.Namespace, console: Console) -> int:
    from pliant.diagnostics import registered
    from pliant.report.diagnostics import COSTS, entries, grid

    found = chosen("diagnostic", given.names, entries())
    table = grid(found)
    if (text := document(given, found, table)) is not None:
        print(text, end="")
        return OK
    if given.names:
        kinds = {kind.__name__: kind for kind in registered()}
        for one in found:
            facts = {"needs": ", ".join(one.needs), "cost": f"{one.cost}, {COSTS[one.cost]}"}
            print_whole(console, kinds[one.name], {**facts, "at the start": one.healthy, "paper": one.paper})
        return OK
    for cost, group in groupby(found, key=lambda entry: entry.cost):
        console.print(Text(f"{cost}: {COSTS[cost]}\n", "bold underline"), soft_wrap=True)
        for entry in group:
            console.print(Text.assemble((entry.name, "bold"), f"  {entry.paper}"), soft_wrap=True)
            paragraph(console, entry.about, "  ")
            paragraph(console, f"needs {', '.join(entry.needs)}", "  ", "dim")
            paragraph(console, f"at the start: {entry.healthy}", "  ", "dim")
            console.print()
    for note in table.notes:
        paragraph(console, note, style="dim")
    return OK
