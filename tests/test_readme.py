"""What the README says exists; that its commands and its Python run is for `.ci/readme.py`."""

from __future__ import annotations

import re
from pathlib import Path

from pliant.experiment import experiments

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_it_says_how_many_claims_run() -> None:
    """Counted in the ledger; where this fails, what it expected is the line to write."""
    ledger = (ROOT / "docs" / "claims.md").read_text("utf-8")
    (row,) = re.findall(r"^\| both +\|(.*)\|$", ledger, flags=re.MULTILINE)
    lines, hold, fail, undecided, waiting, beyond, without = map(int, row.split("|"))
    known = experiments().values()
    claims = sum(len(e.setup(e.tiers["laptop"]).claims) for e in known)
    expected = (
        f"**What runs:** {len(known)} experiments with {claims} claims that can fail. Of the {lines} lines that a "
        f"reproduction of both papers has to show, {hold} hold, {fail} fail in part, {undecided} are undecided in "
        f"part, {waiting} wait for a run, {beyond} for one larger than ours and {without} for an experiment "
        "([docs/claims.md](docs/claims.md))."
    )
    assert expected in " ".join(README.split()), expected


def test_every_experiment_is_in_the_table() -> None:
    for id in experiments():
        row = f"| `{id}` |"
        assert row in README, f"write in the table of the README: {row} what it reproduces | not run yet at this tier |"


def test_links_within_the_repository_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_kept_runs_that_it_names_are_there() -> None:
    named = set(re.findall(r"results/\S+/laptop-\w{8}", README))
    assert named
    for run in named:
        assert (ROOT / run / "run.json").exists(), run
