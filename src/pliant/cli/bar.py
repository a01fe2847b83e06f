"""A progress bar on a terminal that no other line breaks: what processes write on standard error goes above it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text

DRAINED = b"\0\n"  # a line that only `_Aside` writes


class _Aside(threading.Thread):
    """Takes the lines of a pipe, which workers may hold for as long as they live, and shows each once.

    torch says in every process that there is no CUDA runtime, where only a compiler for it is installed.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.reading, self.writing = os.pipe()
        self.console: Console | None = None
        self.drained = threading.Event()
        self.said: set[bytes] = set()
        self.start()

    def run(self) -> None:
        with open(self.reading, "rb") as lines:
            for line in lines:
                if line == DRAINED:
                    self.drained.set()
                elif line not in self.said and self.console is not None:
                    self.said.add(line)
                    shown = Text.from_ansi(line.decode(errors="replace").rstrip())
                    self.console.print(shown, soft_wrap=True)

    def drain(self) -> None:
        """Waits until all that was written is shown."""
        self.drained.clear()
        os.write(self.writing, DRAINED)
        self.drained.wait(1.0)


@cache
def _aside() -> _Aside:
    return _Aside()


@contextmanager
def live(*columns: ProgressColumn) -> Iterator[Progress | None]:
    """A bar of some columns while standard error is a terminal; None in pipes."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield None
        return
    aside, error = _aside(), sys.stderr.fileno()
    with open(os.dup(error), "w", encoding=sys.stderr.encoding, errors="pliant") as terminal:
        console = Console(file=terminal, highlight=False, emoji=False)
        with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
            aside.console = console
            sys.stderr.flush()
            os.dup2(aside.writing, error)
            try:
                yield bar
            finally:
                sys.stderr.flush()
                os.dup2(terminal.fileno(), error)
                aside.drain()
                aside.console = None


def span(seconds: float) -> str:
    """A time in the unit that a person would name.

    >>> span(4), span(80), span(600), span(9000)
    ('4 s', '80 s', '10 min', '2 h 30 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
