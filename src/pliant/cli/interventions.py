"""`pliant interventions`: every intervention there is."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pliant.cli.parsing import OK, Commands, as_document, command, document


def add(commands: Commands) -> None:
    """Adds the command."""
    about = "every intervention: when it acts, on what, its cost, its paper"
    listed = command(commands, "interventions", show, about, "pliant interventions", "pliant interventions ReDo")
    listed.add_argument("names", nargs="*", metavar="NAME", help="only these, with all that is known of them")
    as_document(listed)


def show(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.cookbook import entries, grid

    table = grid()
    if (text := document(given, entries(), table)) is not None:
        print(text, end="")
        return OK
    shown = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for heading, kind in zip(table.headings, table.columns, strict=True):
        shown.add_column(heading, justify="right" if kind == "r" else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    for note in table.notes:
        console.print(Text(note, "dim"))
    return OK
