"""The Python of the README runs as it stands, one block after another, and what it says exists."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pliant.experiment import experiments

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_python_blocks_run_one_after_another(
    swiss_cheese: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(swiss_cheese, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 7
    assert {"arm", "seed", "step", "accuracy"} <= set(names["table"].column_names)
    assert names["keeper"].steps == 1
    assert [row["step"] for row in names["monitor"].rows] == [0, 100, 200]
    assert names["losses"].shape == (16,)
    assert names["losses"].isfinite().all()


def test_it_says_how_many_claims_run() -> None:
    """Counted in the ledger; where this fails, what it expected is the line to write."""
    ledger = (ROOT / "docs" / "claims.md").read_text("utf-8")
    (row,) = re.findall(r"^\| both +\|(.*)\|$", ledger, flags=re.MULTILINE)
    lines, hold, fail, undecided, waiting, without = map(int, row.split("|"))
    known = experiments().values()
    claims = sum(len(e.setup(e.tiers["laptop"]).claims) for e in known)
    expected = (
        f"**What runs:** {len(known)} experiments with {claims} claims that can fail. Of the {lines} lines that a "
        f"reproduction of both papers has to show, {hold} hold, {fail} fail in part, {undecided} are undecided in "
        f"part, {waiting} wait for a run and {without} for an experiment ([docs/claims.md](docs/claims.md))."
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
