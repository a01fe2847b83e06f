"""Folders that cannot be written, and clocks that jump back: right numbers, or one line that says what is wrong."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pliant.cli import main
from pliant.experiment import find
from pliant.run.store import Store, latest

RESULTS = Path(__file__).parents[1] / "results"
ID = "lyle2024/swiss_cheese"
KEPT = sorted(path.name for path in (RESULTS / ID).iterdir())
TWICE = """
import sys
from pliant.cli import main
for call in sys.argv[1:]:
    try:
        code = main(call.split())
    except SystemExit as exited:
        code = exited.code
    sys.stdout.flush()
    print(f"-- {code}", file=sys.stderr, flush=True)
"""


def unprivileged() -> None:
    """Root may write where nobody may; its children without this capability may not."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def called(*calls: str) -> list[tuple[int, str]]:
    """The exit code and stderr of each call, in a process to which permissions mean something."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE, *calls], preexec_fn=unprivileged, capture_output=True, text=True, timeout=300
    )
    *said, rest = done.stderr.split("-- ")
    assert done.returncode == 0, done.stderr
    codes = [part.partition("\n") for part in [*said, rest][1:]]
    errors = [said[0], *(after for _, _, after in codes[:-1])]
    return [(int(code), error) for (code, _, _), error in zip(codes, errors, strict=True)]


@pytest.fixture
def readonly(tmp_path: Path) -> Iterator[Path]:
    """A store with one whole run, in which nothing can be written."""
    root = tmp_path / "runs"
    shutil.copytree(RESULTS / ID / KEPT[0], root / ID / KEPT[0])
    inside = [root, *root.rglob("*")]
    for path in inside:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    yield root
    for path in inside:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_a_read_only_store_can_be_read_and_what_would_write_says_so(
    readonly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the index of kept runs lies below runs
    out = f"--out {readonly}"
    reading = ["list runs", f"check {ID}", f"compare {ID}", f"ledger --to {tmp_path / 'claims.md'}"]
    found = called(*(f"{call} {out}" for call in reading))
    assert [error for _, error in found] == [""] * len(reading)
    assert [code for code, _ in found] == [0, main(["check", ID, "--out", str(readonly)]), 0, 0]
    page = readonly / ID / KEPT[0] / "report.html"
    writing = {
        f"report {ID} --to {page}": (1, f"pliant: Permission denied: {page}\n"),
        "report --index": (1, "pliant: Permission denied: runs/runs.html\n"),
        f"keep {ID} --to {readonly / 'kept'}": (1, f"pliant: Permission denied: {readonly / 'kept'}\n"),
        f"run {ID} --tier smoke": (2, "Permission denied: choose another folder with --out\n"),
    }
    for (code, error), (expected, said) in zip(called(*(f"{w} {out}" for w in writing)), writing.values(), strict=True):
        assert code == expected
        assert error.endswith(said)
        assert error.count("\n") == 1


def test_an_arm_that_cannot_be_written_fails_and_the_others_go_on(tmp_path: Path) -> None:
    experiment = find("lyle2023/fig1")
    store = Store(tmp_path, experiment, "smoke", experiment.tiers["smoke"])
    (locked := store.cell("default", 0).parent).mkdir(parents=True)
    locked.chmod(0o555)
    ((code, error),) = called(f"run lyle2023/fig1 --tier smoke --seeds 1 --out {tmp_path}")
    assert code == 1
    assert "failed default seeds (0,): PermissionError" in error
    assert "1 of 2 packs failed" in error
    assert store.complete("tuned", [0]) is not None
    locked.chmod(0o755)
    assert main(["run", "lyle2023/fig1", "--tier", "smoke", "--seeds", "1", "--out", str(tmp_path)]) == 0


def test_a_clock_that_jumps_back_changes_no_number(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "real, calls = time.time, itertools.count()\n"
        "time.time = lambda: real() - 3600 * next(calls)\n"
        "time.time_ns = lambda: int(1e9 * time.time())\n"
    )
    call = ["run", "lyle2023/fig1", "--tier", "smoke", "--seeds", "1", "--arms", "tuned"]
    code = "import sys, time; assert time.time() > time.time(); from pliant.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])}
    jumping = [sys.executable, "-c", code, *call, "--out", str(tmp_path / "jumping")]
    subprocess.run(jumping, env=environment, check=True, timeout=300)
    assert main([*call, "--out", str(tmp_path / "steady")]) == 0
    tables = {}
    for name in ("jumping", "steady"):
        (path,) = (tmp_path / name).glob("**/metrics.parquet")
        tables[name] = pq.ParquetFile(path).read()
        seconds = tables[name]["elapsed_seconds"].to_numpy()
        assert (seconds[1:] > seconds[:-1]).all()
    assert tables["jumping"].drop_columns("elapsed_seconds") == tables["steady"].drop_columns("elapsed_seconds")


def test_the_newest_run_is_counted_not_dated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = find(ID)
    stores = [Store(tmp_path, experiment, "smoke", replace(experiment.tiers["smoke"], lr=lr)) for lr in (0.1, 0.2)]
    for position, store in enumerate([stores[0], stores[1], stores[0], stores[1]]):
        store.prepare()
        store.begin(["none"], [0], "cpu")
        os.utime(store.folder / "run.json", (1e9 - position, 1e9 - position))  # each older than the one before it
        assert latest(tmp_path, experiment, None) == store.folder
        assert latest(tmp_path, experiment, "smoke") == store.folder
    (stores[0].folder / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json is damaged: delete it and run again"):
        latest(tmp_path, experiment, None)


def test_where_nothing_tells_which_run_is_the_newest_it_has_to_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(RESULTS / ID, tmp_path / ID)
    assert main(["check", ID, "--out", str(tmp_path), "--json"]) in (0, 1)
    preset = Store(tmp_path, find(ID), "laptop", find(ID).tiers["laptop"]).folder.name  # has the tier's own settings
    assert preset in KEPT
    assert str(tmp_path / ID / preset) in capsys.readouterr().out
    shutil.rmtree(tmp_path / ID / preset)
    others = [name for name in KEPT if name != preset]
    assert main(["check", ID, "--out", str(tmp_path)]) == 2
    message = f"{tmp_path / ID} has {len(others)} runs of which none is known as the newest: name one"
    assert capsys.readouterr().err == f"pliant: {message} ({', '.join(others)})\n"
    for name in others:
        for named in (name, str(tmp_path / ID / name)):
            assert main(["check", named, "--out", str(tmp_path), "--json"]) in (0, 1)
            assert str(tmp_path / ID / name) in capsys.readouterr().out
    assert main(["check", others[0], "--out", str(tmp_path), "--tier", "laptop"]) == 2
    assert "--tier is of no use with a run's folder" in capsys.readouterr().err
