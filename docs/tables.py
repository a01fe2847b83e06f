"""Writes the tables of pages in this folder, each between what prints it and `end`: `make tables`."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import when

from pliant.cli import main

FOLDER = Path(__file__).parent


def written(page: str) -> str:
    """The page with the tables of today."""
    return re.sub(r"(<!-- ((?:pliant|docs/)[^>]*) -->\n).*?(?=<!-- end -->)", _table, page, flags=re.DOTALL)


def _table(found: re.Match[str]) -> str:
    if found[2] == "docs/when.py":
        return found[1] + when.listed()
    with redirect_stdout(StringIO()) as out:
        code = main(found[2].split()[1:])
    assert code == 0, found[2]
    return found[1] + out.getvalue()


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(written(path.read_text()))
