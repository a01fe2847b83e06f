"""What all commands share: exit codes, a parser whose errors are one line, and the options that many have."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from pliant.terminal import filled, paragraph, piped, rewrapped
from pliant.words import unknown

OK, FAILED, BAD_CALL, INTERRUPTED = 0, 1, 2, 130

Commands = Any  # what argparse's `add_subparsers` returns; it has no public name


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest match, and whose help ends with examples."""

    examples: Sequence[str] = ()

    def format_help(self) -> str:
        said = super().format_help()
        if not self.examples:
            return said
        heading = "examples:" if self.examples[1:] else "example:"
        return "\n".join([said, heading, *(f"  {example}" for example in self.examples), ""])

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            options = [o for action in self._actions for o in action.option_strings]
            got = message.removeprefix("unrecognized arguments: ").split() or [""]
            message = unknown("argument", got[0], options)
        elif "invalid choice: " in message:
            got = message.split("invalid choice: ", 1)[1].split(" (", 1)[0].strip("'")
            choices = [c for a in self._actions if isinstance(a.choices, (dict, list)) for c in a.choices]
            message = unknown("command" if self._subparsers else "choice", got, choices)
        self.exit(BAD_CALL, f"{self.prog}: {message}\n")


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace, Console], int], help: str, *examples: str
) -> argparse.ArgumentParser:
    """Adds a command, which `run` carries out and gives an exit code for; `examples` are whole lines that work."""
    made = commands.add_parser(name, help=help, description=help)
    made.examples = examples
    made.set_defaults(run=run, parser=made)
    return made


def bare(parser: argparse.ArgumentParser) -> None:
    """Lets a parser that waits for a command print its help where none is given."""

    def helped(given: argparse.Namespace, console: Console) -> int:
        parser.print_help()
        return BAD_CALL

    parser.set_defaults(run=helped, parser=parser)


def selects(made: argparse.ArgumentParser, tier: str | None, ids: str, nargs: str = "+") -> None:
    """Options that say which experiments, or which of their runs."""
    made.add_argument("ids", nargs=nargs, metavar="ID", help=ids)
    made.add_argument("--tier", default=tier, help="smoke, laptop or paper")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting (repeatable)")


def out(made: argparse.ArgumentParser) -> None:
    """The option that says where runs are kept."""
    made.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept")


def as_json(made: argparse.ArgumentParser) -> None:
    """The option for output that programs read."""
    made.add_argument("--json", action="store_true", help="for programs")


def as_document(made: argparse.ArgumentParser) -> None:
    """The options for a list that documents and programs read; `document` is what they ask for."""
    made.add_argument("--format", choices=["md", "latex"], help="a table for a document")
    as_json(made)


def chosen(what: str, names: Sequence[str], entries: Sequence[Any]) -> list[Any]:
    """The entries of these names, in the order asked for; all of them without names."""
    known = {entry.name: entry for entry in entries}
    for name in names:
        if name not in known:
            raise ValueError(unknown(what, name, list(known)))
    return [known[name] for name in names] or list(entries)


def print_whole(console: Console, kind: type, facts: Mapping[str, str]) -> None:
    """All that is known of an intervention or a diagnostic: how it is imported and called, facts, its docstring."""
    public = [place for place in ("pliant", *_packages(kind)) if hasattr(import_module(place), kind.__name__)]
    console.print(Text(kind.__name__, "bold"))
    print(f"  from {public[0]} import {kind.__name__}")
    call = f"{kind.__name__}({', '.join(map(_told, inspect.signature(kind).parameters.values()))})"
    print("\n".join(filled(call, sys.maxsize if piped(console) else console.width, "  ")))
    for name, fact in facts.items():
        paragraph(console, f"{name}: {fact}", "  ", "dim")
    told = inspect.getdoc(kind) or ""
    print("", *(told.splitlines() if piped(console) else rewrapped(told, console.width)), "", sep="\n")


def _told(parameter: inspect.Parameter) -> str:
    """A parameter with its annotation, without the quotes of one that is text."""
    kind = parameter.annotation
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{parameter.name}: {kind if isinstance(kind, str) else kind.__name__}{default}"


def _packages(kind: type) -> list[str]:
    """The packages that a class lies in, outermost first."""
    parts = kind.__module__.split(".")
    return [".".join(parts[:n]) for n in range(2, len(parts) + 1)]


def document(given: argparse.Namespace, entries: Sequence[Any], table: Any) -> str | None:
    """A list (of named tuples) as JSON, or its table as a document; None where it is for the terminal."""
    if given.json:
        return json.dumps([entry._asdict() for entry in entries], indent=1) + "\n"
    return table.text(given.format) if given.format else None
