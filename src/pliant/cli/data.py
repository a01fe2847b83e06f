"""`pliant data`: which data sets there are, and fetching them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console

from pliant.cli.parsing import OK, Commands, as_json, bare, command
from pliant.formats import Grid
from pliant.terminal import print_grid


def add(commands: Commands) -> None:
    """Adds the commands `data list` and `data fetch`."""
    both = commands.add_parser("data", help="data sets: list, fetch", description="data sets: list, fetch")
    both.examples = ("pliant data list", "pliant data fetch mnist cifar10")
    bare(both)
    two = both.add_subparsers(metavar="list|fetch")
    as_json(command(two, "list", show, "every data set, and whether it is here", "pliant data list"))
    fetched = command(two, "fetch", fetch, "fetch and verify data sets", "pliant data fetch mnist cifar10")
    fetched.add_argument("names", nargs="+", metavar="NAME", help="a data set, see `pliant data list`")


def show(given: argparse.Namespace, console: Console) -> int:
    from pliant.data import available

    infos = available()
    if given.json:
        print(json.dumps([asdict(info) for info in infos], indent=1, default=str))
        return OK
    rows = []
    for i in infos:
        shape = "x".join(map(str, i.train_shape[1:]))
        here = "yes" if i.cached else f"no: pliant data fetch {i.name}"
        rows.append([i.name, f"{i.train_shape[0]:,}", f"{i.test_shape[0]:,}", shape, i.licence, here])
    print_grid(console, Grid(["name", "train", "test", "shape", "licence", "here"], rows, "lrrrpl"))
    return OK


def fetch(given: argparse.Namespace, console: Console) -> int:
    from pliant.data import fetch

    for name in given.names:
        console.print(
            f"{name}: {fetch(name, progress=lambda line: console.print(line, soft_wrap=True))}", soft_wrap=True
        )
    return OK
