"""The command line: `pliant list | diagnose | diagnostics | interventions | run | check | report | compare | ...`.

One module a group of commands: it adds its commands with their options, and what is slow (torch, scipy, matplotlib) it
imports only in the command that needs it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from rich.console import Console

import pliant
from pliant.cli import data, demo, diagnose, diagnostics, interventions, listing, pilot, results, train
from pliant.cli.parsing import BAD_CALL, FAILED, INTERRUPTED, Parser, bare
from pliant.terminal import streams

EXAMPLES = (
    "pliant demo                                # watch a network lose plasticity, and keep it; offline",
    "pliant list                                # what can be reproduced",
    "pliant interventions                       # what can be done about it",
    "pliant diagnose --checkpoint model.pt --model package.module:build --data batch.npz --fresh",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 failed, 2 a bad call, 3 cannot tell, 130 after Ctrl-C."""
    with streams():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    given, rest = _parser().parse_known_args(arguments)
    if rest:
        given.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"pliant: warning: {message}", file=sys.stderr)
            code = given.run(given, Console(highlight=False, emoji=False))
            sys.stdout.flush()
            return code
    except ValueError as error:
        print(f"pliant: {error}", file=sys.stderr)
        return BAD_CALL
    except OSError as error:
        print(f"pliant: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("pliant: stopped", file=sys.stderr)
        return INTERRUPTED


def _parser() -> Parser:
    parser = Parser(prog="pliant", description="Find out why your network stopped learning, and fix it.")
    parser.add_argument("--version", action="version", version=f"pliant {pliant.__version__}")
    parser.examples = EXAMPLES
    bare(parser)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    for group in (listing, diagnose, diagnostics, interventions, train, pilot, results, demo, data):
        group.add(commands)
    return parser
