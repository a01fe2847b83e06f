"""`python -m tests.extras.zoo [NETWORK ...]` runs the zoo and writes docs/zoo.md: what was found, by network and check.

The page is written after every network, and says what was found already: a run that was interrupted goes on where it
was. Networks that are named are run anew; remove the page to run them all.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

from tests.extras.zoo.checks import CHECKS
from tests.extras.zoo.networks import FAMILIES, NETWORKS, REFUSED

PAGE = Path(__file__).parents[3] / "docs" / "zoo.md"
PACKAGES = ("torch", "timm", "transformers", "stable-baselines3", "sb3-contrib", "torch_geometric")
HEAD = """# The zoo

Does pliant work on *your* network? These are {count} networks as people have them, built from public packages with
random weights, narrow and shallow so that all of them take minutes. Each goes through {checks} checks. A check finds
the answer a second time without pliant, and compares: it counts the kernels that torch runs, silences units by hand,
trains once more without the monitor. `make test-zoo` runs them all as tests; `python -m tests.extras.zoo` runs what is
missing here and writes this page.

Libraries: {versions}.

## What the columns say

{columns}

A network that pliant cannot handle is refused with one line that says why; what is refused is listed at the end.
Nothing else was left out.
"""
COLUMNS = {
    "function": """
        `Network(model)` is the model: outputs bitwise, gradients to 1e-6, and nothing of the model changes. The cell
        counts the parameters whose gradients were compared.
    """,
    "sites": """
        a trace holds each call of a nonlinear kernel once, in order, with the numbers that went in and out.
    """,
    "units": """
        the unit map, which weights feed and read each hidden unit: changing by hand what feeds half of the units moves
        these and no others; a silent unit may be cut off without a change; where the map says *exact*, a unit that
        nothing reads may be drawn anew without a change of any output, in training and in evaluation. *Sites without*
        are nonlinearities whose units no weights feed and read one by one (a warning names them).
    """,
    "monitor": """
        training with the monitor is bitwise the training without, its rows are finite, and where half of the units
        were silenced by hand it says so.
    """,
    "build": """
        `LayerNorm().build`: a copy with layer norms in it, each of which is called; names are kept, and it trains.
    """,
    "attach": """
        L2 and ReDo attached to the user's own loop: the penalty is the sum by hand, and no hook is left behind.
    """,
    "redo": """
        units that were silenced by hand are drawn anew, and the outputs in training stay as they are. Units that
        something reads which cannot be set to 0 (a residual stream, a gate) are left alone.
    """,
    "plasticity": """
        `pliant.plasticity`: refits of fresh targets, against networks that were never trained.
    """,
    "disentangle": """
        `pliant.disentangle`: refits after every set of repairs; the shares add up to one.
    """,
}


def run(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """What each check found at a network, and what was refused, by check."""
    found, refused = {}, {}
    for check, of in CHECKS.items():
        try:
            found[check] = of(NETWORKS[name])
        except ValueError as error:
            if (name, check) not in REFUSED:
                raise
            found[check], refused[check] = "refused", str(error)
    return found, refused


def read(page: str) -> tuple[dict[str, dict[str, str]], dict[tuple[str, str], str]]:
    """The cells and the refusals that a page holds."""
    rows, refused = {}, {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] in NETWORKS and len(cells) == 1 + len(CHECKS):
            rows[cells[0]] = dict(zip(CHECKS, cells[1:], strict=True))
        name, _, rest = line.removeprefix("- **").partition("**, ")
        check, _, why = rest.partition(": ")
        if (name, check) in REFUSED:
            refused[name, check] = why
    return rows, refused


def written(rows: dict[str, dict[str, str]], refused: dict[tuple[str, str], str]) -> str:
    """The page."""
    versions = ", ".join(f"{package} {version(package).partition('+')[0]}" for package in PACKAGES)
    columns = "\n".join(f"- **{check}**: {' '.join(COLUMNS[check].split())}" for check in CHECKS)
    page = HEAD.format(count=len(NETWORKS), checks=len(CHECKS), versions=versions, columns=columns)
    for family, names in FAMILIES.items():
        page += f"\n## {family}\n\n| network | {' | '.join(CHECKS)} |\n|{':--|' * (1 + len(CHECKS))}\n"
        page += "".join(f"| {n} | {' | '.join(rows[n][check] for check in CHECKS)} |\n" for n in names if n in rows)
    page += "\n## Refused\n\n"
    return page + "".join(f"- **{name}**, {check}: {refused[name, check]}\n" for name, check in REFUSED if name in rows)


def main(names: list[str]) -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rows, refused = read(PAGE.read_text()) if PAGE.exists() else ({}, {})
    for name in names or [name for name in NETWORKS if name not in rows]:
        began = time.process_time()
        rows[name], why = run(name)
        refused |= {(name, check): text for check, text in why.items()}
        PAGE.write_text(written(rows, refused))
        print(f"{name}: {time.process_time() - began:.1f} s of processor time", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
