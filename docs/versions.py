"""Which versions what ran with: `python docs/versions.py "make test"` writes a row of `versions.json`, after it passed.

Only CI calls it (`.ci/run`), with the interpreter of the environment in which something has just passed.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

FILE = Path(__file__).with_name("versions.json")
ALWAYS = ("numpy", "scipy", "matplotlib", "pyarrow")


def here() -> dict[str, str]:
    """The versions of Python, torch and what pliant and its extras ask for, where this environment has it."""
    wanted = [line for line in metadata.requires("pliant") or () if not line.endswith("extra == 'dev'")]
    named = {re.match(r"[\w.-]+", line)[0] for line in wanted} - {"torch", *ALWAYS}  # type: ignore[index]
    found = {"Python": platform.python_version()}
    for name in ("torch", *ALWAYS, *sorted(named, key=str.lower)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def table(ran: dict[str, dict[str, str]]) -> str:
    """What ran, as a table in Markdown: a column a run, a row a package.

    >>> print(table({"tests": {"Python": "3.11.7"}, "site": {"Python": "3.11.7", "furo": "2025.12"}}))
    | | tests | site |
    | --- | --- | --- |
    | Python | 3.11.7 | 3.11.7 |
    | furo |  | 2025.12 |
    """
    packages = dict.fromkeys(name for versions in ran.values() for name in versions)
    rows = [[name, *(versions.get(name, "") for versions in ran.values())] for name in packages]
    lines = [["", *ran], ["---"] * (1 + len(ran)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |", 1) for cells in lines)


def read() -> dict[str, dict[str, str]]:
    """What CI ran."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


if __name__ == "__main__":
    FILE.write_text(json.dumps(read() | {sys.argv[1]: here()}, indent=1) + "\n")
