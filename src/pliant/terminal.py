"""Text for people: tables whose words stay whole, in any encoding, through pipes that may be closed."""

from __future__ import annotations

import codecs
import io
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.text import Text

from pliant.formats import Grid

GAP = 2  # columns between two of a table
TWINS = str.maketrans({
    "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{HYPHEN}": "-", "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MULTIPLICATION SIGN}": "x", "\N{DAGGER}": "*", "\N{RIGHTWARDS ARROW}": "->", "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"', "\N{RIGHT DOUBLE QUOTATION MARK}": '"', "\N{MIDDLE DOT}": ".",
    "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=", "\N{BULLET}": "*", "\N{NO-BREAK SPACE}": " ", "\N{INFINITY}": "inf",
})  # fmt: skip


def plain(text: str) -> str:
    """Text in ASCII, as near as can be.

    >>> plain("−0.5 ± 0.1, naïve, 漢")
    '-0.5 +- 0.1, naive, ?'
    """
    spelled = unicodedata.normalize("NFKD", text.translate(TWINS))
    return "".join(c for c in spelled if not unicodedata.combining(c)).encode("ascii", "replace").decode()


def _twins(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return plain(error.object[error.start : error.end]), error.end


codecs.register_error("pliant", _twins)


class _Heard(io.FileIO):
    """A file that may lose its reader: what nobody reads is dropped, and the command goes on to its end."""

    gone = False

    def write(self, data: Any, /) -> int:
        if self.gone:
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            self.gone = True
            return len(data)
        except OSError:  # a full disk is told once
            self.gone = True
            raise


@contextmanager
def streams() -> Iterator[None]:
    """Within, standard output and error take any text in their encoding, and a reader that goes away ends nothing."""
    before = sys.stdout, sys.stderr
    made = [_opened(stream) for stream in before]
    sys.stdout, sys.stderr = made
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, old in zip(made, before, strict=True):
            if stream is not old:
                stream.flush()
                stream.detach()


def _opened(stream: Any) -> Any:
    """A stream of this process anew; what stands in for one, in a test or a notebook, as it is."""
    if stream not in (sys.__stdout__, sys.__stderr__) or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = _Heard(stream.fileno(), "w", closefd=False)
    buffer = raw if stream.line_buffering and stream is sys.__stderr__ else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer, stream.encoding, "pliant", line_buffering=stream.line_buffering, write_through=buffer is raw
    )


def print_grid(console: Console, grid: Grid, styles: Sequence[Sequence[str]] = ()) -> None:
    """Prints a table, then its notes; columns `l` and `r` stay on one line each, `p` wraps between words.

    Where that does not fit the lines are longer than the console: no name is broken or cut. In a pipe every row is one
    line, unless `COLUMNS` is set. `styles` has one a cell, where there are any.
    """
    widths = _widths(grid, console.width, piped(console))
    for at, row in enumerate([grid.headings, *grid.rows]):
        cells = [_lines(cell, w) for cell, w in zip(row, widths, strict=True)]
        marks = ["bold"] * len(row) if at == 0 else styles[at - 1] if styles else [""] * len(row)
        for parts in zip_longest(*cells, fillvalue=""):
            line = Text()
            for part, kind, wide, mark in zip(parts, grid.columns, widths, marks, strict=True):
                line.append(part.rjust(wide) if kind == "r" else part.ljust(wide), mark).append(" " * GAP)
            line.rstrip()
            console.print(line, soft_wrap=True)
    for note in grid.notes:
        paragraph(console, note, style="dim")


def _lines(cell: str, width: int) -> list[str]:
    return [line for part in cell.split("\n") for line in filled(part, width) or [""]]


def width(grid: Grid) -> int:
    """Columns that a table takes where nothing wraps.

    >>> width(Grid(["arm", "loss"], [["none", "2.3"]], "lr"))
    10
    """
    return sum(_widths(grid, 0, True)) + GAP * (len(grid.headings) - 1)


def _widths(grid: Grid, room: int, one_line: bool) -> list[int]:
    columns = list(zip(grid.headings, *grid.rows, strict=True))
    whole = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    least = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    wraps = [kind == "p" for kind in grid.columns]
    left = room - GAP * (len(columns) - 1) - sum(w for w, p in zip(whole, wraps, strict=True) if not p)
    wanted = sum(w for w, p in zip(whole, wraps, strict=True) if p)
    if one_line or wanted <= left:
        return whole
    return [max(few, left * w // wanted) if p else w for w, few, p in zip(whole, least, wraps, strict=True)]


def piped(console: Console) -> bool:
    """Whether nobody says how wide lines may be: a pipe or a file, without `COLUMNS` or a width of the console."""
    return not console.is_terminal and console._width is None


def paragraph(console: Console, text: str, indent: str = "", style: str = "") -> None:
    """Prints a text wrapped between words, and nowhere else."""
    for line in filled(text, console.width, indent):
        console.print(Text(line, style), soft_wrap=True)


def filled(text: str, width: int, indent: str = "") -> list[str]:
    """A text as lines of whole words.

    >>> filled("pliant/runs/long-name of a run", 12)
    ['pliant/runs/long-name', 'of a run']
    """
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def rewrapped(doc: str, width: int) -> list[str]:
    """A docstring in lines of whole words; examples, and lines that begin one below the other, stay as they are.

    >>> rewrapped("One two three.\\n\\nArgs:\\n    x: four five\\n        six.", 14)
    ['One two three.', '', 'Args:', '    x: four', '        five', '        six.']
    """
    found: list[str] = []
    for block in doc.split("\n\n"):
        items: list[tuple[int, str]] = []  # each with its indent
        for line in block.splitlines():
            text = line.strip()
            indent = len(line) - len(line.lstrip())
            before, said = items[-1] if items else (-1, "")
            goes_on = bool(items) and (indent > before or indent == before == 0) and not said.endswith((":", ">>>"))
            if goes_on and not text.startswith(("- ", ">>> ", "... ")):
                items[-1] = before, f"{said} {text}"
            else:
                items.append((indent, text))
        if ">>> " in block:
            found += block.splitlines()
        else:
            for indent, text in items:
                first, rest = " " * indent, " " * (indent + 4 * (indent > 0))
                found += textwrap.wrap(
                    text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False,
                    break_on_hyphens=False,
                )  # fmt: skip
        found.append("")
    return found[:-1]
