"""`pliant pilot`: how many seeds an experiment's claims need, from a few that are not reported."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from pliant.cli.parsing import OK, Commands, as_document, command, document, out, selects
from pliant.cli.train import call, prepared, trained
from pliant.formats import Grid
from pliant.numbers import number, with_interval

if TYPE_CHECKING:
    from pliant.claims import Claim
    from pliant.results import Results

FIRST = 100  # seed; those below are reported
QUICK = 30.0  # seconds a seed takes of all arms, below which ten seeds are cheap


def add(commands: Commands) -> None:
    """Adds the command."""
    about = "train a few seeds that are not reported; say how many each claim needs"
    made = command(commands, "pilot", run, about, "pliant pilot lyle2024/swiss_cheese --tier laptop")
    selects(made, "laptop", "an experiment, see `pliant list`, or a file with one")
    made.add_argument("--seeds", type=int, default=5, metavar="N", help=f"seeds {FIRST} .. {FIRST}+N-1; default: 5")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    out(made)
    as_document(made)


def run(given: argparse.Namespace, console: Console) -> int:
    if given.seeds < 2:
        raise ValueError(f"expected --seeds to be at least 2, for a spread, got {given.seeds}")
    given = call(given, given.ids, out=given.out / "pilot")  # apart from runs that are reported
    for store, setup, arms in [prepared(given, id) for id in given.ids]:
        code = trained(store, setup, arms, given, FIRST)
        if code != OK:
            return code
        seeds = list(range(FIRST, FIRST + given.seeds))
        cells = [store.complete(arm, seeds) for arm in arms]
        took = sum(float(facts["total_seconds"]) / len(facts["pack"]) for found in cells for facts in (found or [])[:1])
        made = grid(setup.claims, store.results(arms, seeds), least=10 if 0 < took < QUICK else 5)
        console.print(document(given, [], made) or made.text("md"), end="", soft_wrap=True, markup=False)
    return OK


def grid(claims: tuple[Claim, ...], results: Results, least: int) -> Grid:
    """A row a claim: what the pilot found, the effect that is counted on, and the number of seeds for it."""
    from pliant.claims import Exists, seeds_needed

    rows, counts = [], []
    for claim in claims:
        found = claim.check(results)
        values = np.asarray([] if found.missing else claim.effect(results), np.float64)
        if isinstance(claim, Exists) or values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            rows.append([claim.text, with_interval(found.effect), "", "cannot be told"])
            continue
        effect = found.effect.mean if claim.expected is None else claim.expected
        needed = seeds_needed(values, effect, claim.threshold, least)
        counts.append(needed or 0)
        source = "the pilot's own" if claim.expected is None else "the paper's"
        rows.append(
            [claim.text, with_interval(found.effect), f"{number(effect, 3)} ({source})", str(needed or "> 1000")]
        )
    notes = [
        "Seeds for which half of the 95 % interval is a third of the expected effect's distance from the threshold, at "
        f"least {least}.",
        f"All claims that can be: {max(counts, default=least)} seeds.",
    ]
    return Grid(["claim", "pilot", "expected effect", "seeds"], rows, "prrr", notes)
