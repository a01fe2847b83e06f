"""Runs what a Markdown file shows, block by block, in a new folder with a copy of `results/` in it.

Console blocks: every `pliant` command, at smoke tier and with two seeds. Python blocks: as they stand, in one session.

`pliant check` may exit with 1: at smoke tier claims are evaluated but need not hold. `make` targets, `pliant demo` and
`pliant data fetch` are left out: they are run on their own, or need minutes or the network.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def blocks(text: str) -> list[tuple[str, str]]:
    """All blocks of a kind that is run, in order.

    >>> blocks("```console\\n$ pliant list\\n```\\n\\n```python\\n1 + 1\\n```\\n```text\\n```")
    [('console', '$ pliant list\\n'), ('python', '1 + 1\\n')]
    """
    return re.findall(r"^```(console|python)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """The commands of a console block that are run here, without comments.

    >>> commands("$ pliant list   # all\\n$ make demo\\n$ pliant demo\\n")
    [['pliant', 'list']]
    """
    found = [shlex.split(line[2:], comments=True) for line in block.splitlines() if line.startswith("$ ")]
    found = [command for command in found if command[0] == "pliant"]
    return [command for command in found if command[1] != "demo" and command[1:3] != ["data", "fetch"]]


def smoke(command: list[str]) -> list[str]:
    """The command at smoke tier, with two seeds where it trains; on what is kept in `results` as it stands.

    >>> smoke(["pliant", "run", "x", "--tier", "laptop", "--seeds", "5"])
    ['pliant', 'run', 'x', '--tier', 'smoke', '--seeds', '2']
    >>> smoke(["pliant", "check", "results/x/laptop-1a2b3c4d"])
    ['pliant', 'check', 'results/x/laptop-1a2b3c4d']
    >>> smoke(["pliant", "check", "x", "--out", "results"])
    ['pliant', 'check', 'x', '--out', 'results']
    """
    of_results = any(Path(word).parts[:1] == ("results",) for word in command)
    if of_results or command[1] not in ("run", "check", "report", "figure", "pilot"):
        return command
    kept = list(command)
    for option in ("--tier", "--seeds"):
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return [*kept, "--tier", "smoke", *(["--seeds", "2"] if command[1] in ("run", "pilot") else [])]


def main(path: str) -> int:
    binaries, source = Path(sys.executable).parent, Path(path).resolve()
    shown = blocks(source.read_text())
    if not any(commands(block) for _, block in shown):
        print(f"{path} shows no pliant command")
        return 1
    names: dict[str, object] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source.parent / "results", Path(folder) / "results")
        os.chdir(folder)
        for kind, block in shown:
            if kind == "python":
                print(block, flush=True)
                exec(compile(block, path, "exec"), names)
                continue
            for command in map(smoke, commands(block)):
                code = subprocess.run([str(binaries / command[0]), *command[1:]]).returncode
                print(f"{shlex.join(command)}: exit code {code}", flush=True)
                if code not in ((0, 1) if command[1] == "check" else (0,)):
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
