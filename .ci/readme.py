"""Runs every `pliant` command of a Markdown file's console blocks, at smoke tier and with two seeds, in a new folder.

`pliant check` may exit with 1: at smoke tier claims are evaluated but need not hold. `make` targets, `pliant demo` and
`pliant data fetch` are left out: they are run on their own, or need minutes or the network.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path


def commands(text: str) -> list[list[str]]:
    """The commands of all console blocks, without comments.

    >>> commands("```console\\n$ pliant list   # all\\n```")
    [['pliant', 'list']]
    """
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


def smoke(command: list[str]) -> list[str]:
    """The command at smoke tier, with two seeds where it trains.

    >>> smoke(["pliant", "run", "x", "--tier", "laptop", "--seeds", "5"])
    ['pliant', 'run', 'x', '--tier', 'smoke', '--seeds', '2']
    """
    if command[1] not in ("run", "check", "report", "figure", "pilot"):
        return command
    kept = list(command)
    for option in ("--tier", "--seeds"):
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return [*kept, "--tier", "smoke", *(["--seeds", "2"] if command[1] in ("run", "pilot") else [])]


def main(path: str) -> int:
    binaries = Path(sys.executable).parent
    wanted = [c for c in commands(Path(path).read_text()) if c[0] == "pliant"]
    wanted = [c for c in wanted if c[1] != "demo" and c[1:3] != ["data", "fetch"]]
    if not wanted:
        print(f"{path} shows no pliant command")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        for command in map(smoke, wanted):
            code = subprocess.run([str(binaries / command[0]), *command[1:]], cwd=folder).returncode
            print(f"{shlex.join(command)}: exit code {code}", flush=True)
            if code not in ((0, 1) if command[1] == "check" else (0,)):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
