"""`pliant interventions`: every intervention there is, or all that is known of some."""

from __future__ import annotations

import argparse

from rich.console import Console

from pliant.cli.parsing import OK, Commands, as_document, chosen, command, document, print_whole
from pliant.terminal import print_grid


def add(commands: Commands) -> None:
    """Adds the command."""
    about = "every intervention: when it acts, on what, its cost, its paper"
    listed = command(commands, "interventions", show, about, "pliant interventions", "pliant interventions ReDo")
    listed.add_argument("names", nargs="*", metavar="NAME", help="only these, with all that is known of them")
    as_document(listed)


def show(given: argparse.Namespace, console: Console) -> int:
    from pliant.interventions import registered
    from pliant.report.cookbook import entries, grid

    found = chosen("intervention", given.names, entries())
    table = grid(found)
    if (text := document(given, found, table)) is not None:
        print(text, end="")
    elif given.names:
        kinds = {kind.__name__: kind for kind in registered()}
        for entry, row in zip(found, table.rows, strict=True):
            facts = dict(zip(table.headings[1:], row[1:], strict=True))
            print_whole(console, kinds[entry.name], facts)
    else:
        print_grid(console, table)
    return OK
