"""`pliant data`: which data sets there are, fetching them, and measuring one whose entry is being written."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console

from pliant.cli.parsing import OK, Commands, as_json, bare, command
from pliant.formats import Grid
from pliant.terminal import print_grid


def add(commands: Commands) -> None:
    """Adds the commands `data list`, `data fetch` and `data measure`."""
    about = "data sets: list, fetch, measure"
    group = commands.add_parser("data", help=about, description=about)
    group.examples = ("pliant data list", "pliant data fetch mnist cifar10")
    bare(group)
    three = group.add_subparsers(metavar="list|fetch|measure")
    as_json(command(three, "list", show, "every data set, and whether it is here", "pliant data list"))
    fetched = command(three, "fetch", fetch, "fetch and verify data sets", "pliant data fetch mnist cifar10")
    fetched.add_argument("names", nargs="+", metavar="NAME", help="a data set, see `pliant data list`")
    about = "sizes, moments and hashes of a data set, for its entry in the catalogue; nothing is kept"
    measured = command(three, "measure", measure, about, "pliant data measure cifar10")
    measured.add_argument("name", metavar="NAME", help="a data set of the catalogue")


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
        train, test = (f"{n:,}" if n else "?" for n in (i.train_shape[0], i.test_shape[0]))
        rows.append([i.name, train, test, shape, i.licence, here])
    print_grid(console, Grid(["name", "train", "test", "shape", "licence", "here"], rows, "lrrrpl"))
    return OK


def fetch(given: argparse.Namespace, console: Console) -> int:
    from pliant.data import fetch

    for name in given.names:
        console.print(
            f"{name}: {fetch(name, progress=lambda line: console.print(line, soft_wrap=True))}", soft_wrap=True
        )
    return OK


def measure(given: argparse.Namespace, console: Console) -> int:
    from pliant.data import measure

    told = Console(stderr=True, highlight=False)
    for field, value in measure(given.name, progress=lambda line: told.print(line, soft_wrap=True)).items():
        print(f"    {field}={value!r},")
    return OK
