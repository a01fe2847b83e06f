"""The committed results: their numbers as they were made, and what the documents show of them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from pliant.cli import main
from pliant.plots import figures
from pliant.report.ledger import ledger
from pliant.report.page import pictures
from pliant.report.stored import opened

ROOT = Path(__file__).parents[2]
MADE = {  # of the numbers of all arms and seeds, as they were when each had a file of its own
    "lyle2023/fig1/laptop-66f4ad8b": "fd9d8b8e4e4e5ae1",
    "lyle2023/fig1/laptop-8e9d11e0": "2bf7617a12e60379",
    "lyle2024/swiss_cheese/laptop-bf1d8a45": "7fe6481bb853780a",
    "lyle2024/swiss_cheese/laptop-f638ba68": "171a117b69c1d355",
    "toolbox/causes/laptop-29db99b4": "bff4daedf7fac260",
    "toolbox/cures/laptop-9f758c09": "14a3df483aaf15dd",
    "toolbox/planted/laptop-abbddc7d": "fdde45abc5d78043",
}


@pytest.mark.parametrize("name", MADE)
def test_numbers_are_those_that_were_made(name: str) -> None:
    found = hashlib.sha256()
    for (arm, seed), table in opened(ROOT / "results" / name).results.tables.items():
        for column in sorted(table):
            found.update(f"{arm} {seed} {column} {table[column].dtype}".encode() + table[column].tobytes())
    assert found.hexdigest().startswith(MADE[name])


def test_a_run_of_before_has_a_page_though_columns_are_new(tmp_path: Path) -> None:
    run = ROOT / "results/toolbox/planted/laptop-abbddc7d"
    assert main(["report", str(run), "--to", str(tmp_path / "page.html")]) == 0
    assert "norm growth" in (tmp_path / "page.html").read_text("utf-8")


def test_agents_in_games_are_on_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ROOT / "results/lyle2024/dmc/laptop-050b1c01"
    assert main(["check", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "lyle2024/dmc  laptop tier, 5 seeds"
    assert main(["report", str(run), "--to", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert ", over 5 seeds" in page
    assert "on , over" not in page
    assert "mean of its returns: <b>met</b>" in page
    assert "5 seeds, tasks=cartpole_swingup" in (ROOT / "docs/claims.md").read_text("utf-8")


def test_every_run_is_one_parquet_file_and_one_json_file() -> None:
    files: dict[Path, set[str]] = {}
    for path in (ROOT / "results").rglob("*"):
        if path.is_file():
            files.setdefault(path.parent, set()).add(path.name)
    assert {str(folder.relative_to(ROOT / "results")) for folder in files} >= set(MADE)
    assert all(there == {"metrics.parquet", "run.json"} for there in files.values())


def test_the_line_of_the_readme_opens_them() -> None:
    folder = ROOT / "results" / "lyle2024" / "swiss_cheese"
    table = ds.dataset(folder, partitioning="hive", exclude_invalid_files=True).to_table()
    runs = [opened(path.parent) for path in sorted(folder.glob("*/run.json"))]
    assert table.num_rows == sum(len(cell["step"]) for run in runs for cell in run.results.tables.values())
    some = table.to_pandas().query("arm == 'both' and seed == 3 and end")["accuracy"].to_numpy()
    np.testing.assert_array_equal(
        some, np.concatenate([run.results.ends("both", "accuracy")[3] for run in runs if "both" in run.results.arms])
    )


SHOWN = {
    "causes.svg": "toolbox/causes/laptop-29db99b4",
    "cures.svg": "toolbox/cures/laptop-9f758c09",
    "swiss_cheese.svg": "lyle2024/swiss_cheese/laptop-f638ba68",
}


def test_the_documents_show_them() -> None:
    assert ledger(ROOT / "results") == (ROOT / "docs" / "claims.md").read_text("utf-8")
    assert {path.name for path in (ROOT / "docs").glob("*.svg")} == set(SHOWN)
    for name, path in SHOWN.items():
        run = opened(ROOT / "results" / path)
        drawn = [
            base64.b64decode(one["uri"].partition(",")[2])
            for plots in figures.sheets(run.shown.plots)
            for one in pictures(run.experiment.title, plots, run.results, run.shown.look)
        ]
        assert (ROOT / "docs" / name).read_bytes() in drawn, name
