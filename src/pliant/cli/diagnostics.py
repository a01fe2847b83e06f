"""`pliant diagnostics`: every diagnostic there is."""

from __future__ import annotations

import argparse
import textwrap
from itertools import groupby

from rich.console import Console
from rich.text import Text

from pliant.cli.parsing import OK, Commands, as_document, command, document


def add(commands: Commands) -> None:
    """Adds the command."""
    about = "every diagnostic: what it is, what it needs, what new nets read"
    listed = command(commands, "diagnostics", show, about, "pliant diagnostics", "pliant diagnostics LinearizedUnits")
    listed.add_argument("names", nargs="*", metavar="NAME", help="only these, with all that is known of them")
    as_document(listed)


def show(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.diagnostics import COSTS, entries, grid

    table = grid()
    if (text := document(given, entries(), table)) is not None:
        print(text, end="")
        return OK
    for cost, group in groupby(entries(), key=lambda entry: entry.cost):
        console.print(Text(f"{cost}: {COSTS[cost]}\n", "bold underline"))
        for entry in group:
            console.print(Text.assemble((entry.name, "bold"), f"  {entry.paper}"))
            console.print(Text(_indented(entry.about, console.width)))
            console.print(Text(_indented(f"needs {', '.join(entry.needs)}", console.width), "dim"))
            console.print(Text(_indented(f"at the start: {entry.healthy}", console.width) + "\n", "dim"))
    for note in table.notes:
        console.print(Text(note, "dim"))
    return OK


def _indented(text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ")
