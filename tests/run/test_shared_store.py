"""A store under its users: other seeds, other code, missing files, signals, and stores from somebody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pliant.experiment import experiments
from pliant.report.listing import runs
from pliant.report.stored import opened
from pliant.run import store as store_module
from pliant.run.checkpoint import Pace
from pliant.run.files import read_bytes, read_json, write_json
from pliant.run.store import Store, commit
from pliant.run.sweep import sweep
from tests.run.test_run import EXPERIMENT, Settings, setup, store

KNOWN = {EXPERIMENT.id: EXPERIMENT}


def content(kept: Store, seeds: list[int]) -> dict[int, bytes]:
    return {seed: (kept.cell("plain", seed) / "metrics.parquet").read_bytes() for seed in seeds}


def test_fewer_seeds_are_read_more_are_added_and_nothing_is_overwritten(tmp_path: Path) -> None:
    kept, made = store(tmp_path), setup(Settings())
    sweep(kept, made, ["plain"], 3)
    before = content(kept, [0, 1, 2])
    assert sweep(kept, made, ["plain"], 2).kept == 1
    assert opened(kept.folder, KNOWN).seeds == (0, 1)
    assert sweep(kept, made, ["plain"], 4).finished == 1
    assert content(kept, [0, 1, 2]) == before
    packs = [(read_json(kept.cell("plain", seed) / "cell.json") or {})["pack"] for seed in range(4)]
    assert packs == [[0, 1, 2]] * 3 + [[0, 1, 2, 3]]
    assert kept.results(["plain"], range(4)).seeds == [0, 1, 2, 3]


def test_metrics_that_were_deleted_are_trained_again_to_the_same_numbers(tmp_path: Path) -> None:
    kept, made = store(tmp_path), setup(Settings())
    sweep(kept, made, ["plain"], 2)
    before = {name: np.asarray(v) for name, v in kept.results(["plain"], [1]).tables["plain", 1].items()}
    (kept.cell("plain", 1) / "metrics.parquet").unlink()
    (listed,) = runs(tmp_path)
    assert (listed.done, listed.complete_seeds) == (1, 1)
    assert sweep(kept, made, ["plain"], 2).finished == 1
    after = kept.results(["plain"], [1]).tables["plain", 1]
    for name in before:
        if name != "elapsed_seconds":
            np.testing.assert_array_equal(after[name], before[name])


def test_code_that_was_edited_adds_no_second_definition(tmp_path: Path) -> None:
    kept, made = store(tmp_path), setup(Settings())
    sweep(kept, made, ["plain"], 1)
    arm = made.arms["plain"]
    optimizer = replace(arm.trial.optimizer, lr=0.7)  # type: ignore[attr-defined]
    edited = replace(made, arms={**made.arms, "plain": replace(arm, trial=replace(arm.trial, optimizer=optimizer))})  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"optimizer pliant.optim.SGD\(lr=0.1\), here .*lr=0.7\)\): .* --rerun$"):
        sweep(kept, edited, ["plain"], 1)


def test_two_processes_share_the_work_in_a_store_with_the_same_seeds_and_with_others(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.run.test_run import *\n"
        "if __name__ == '__main__':\n"
        "    for name, arms, seeds in (('same', ['plain', 'l2'], 1), ('others', ['plain'], int(sys.argv[2]))):\n"
        "        d = sweep(store(Path(sys.argv[1]) / name), setup(Settings()), arms, seeds); print(len(d.failed))"
    )
    (tmp_path / "go.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    both = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "runs"), seeds],
            stdout=subprocess.PIPE, text=True, env=environment,
        )
        for seeds in ("2", "4")
    ]  # fmt: skip
    assert [p.communicate(timeout=300)[0].split() for p in both] == [["0", "0"]] * 2
    assert store(tmp_path / "runs" / "same").results(["plain", "l2"], [0]).seeds == [0]
    assert store(tmp_path / "runs" / "others").results(["plain"], range(4)).seeds == [0, 1, 2, 3]


def test_a_checkpoint_is_due_so_that_a_kill_costs_five_seconds_or_a_step() -> None:
    def lost(step: float, cost: float) -> tuple[float, float]:
        """The most training that is not in a checkpoint, and the share of the time that these take."""
        now, kept, most, writing = 0.0, 0.0, 0.0, 0.0
        pace = Pace(5.0, clock=lambda: now)
        for _ in range(2_000):
            now += step
            most = max(most, now - kept)
            if pace.due():
                now += cost
                writing += cost
                pace.wrote()
                kept = now
        return most, writing / now

    assert lost(0.6, 0.01)[0] <= 5.0
    assert lost(8.0, 0.01)[0] == pytest.approx(8.0)
    assert lost(0.001, 0.01)[0] <= 5.0
    for step, cost in ((0.6, 0.01), (0.6, 0.5), (0.01, 0.04)):
        assert lost(step, cost)[1] <= 0.011  # the cost of the first is not known before
    assert lost(0.6, 0.5)[0] <= 51.0


def test_names_of_others_lead_nowhere(tmp_path: Path) -> None:
    kept = store(tmp_path / "runs")
    sweep(kept, setup(Settings()), ["plain"], 1)
    run = read_json(kept.folder / "run.json") or {}
    for arms, seeds in ((["x/../../evil"], [0]), ([".."], ["0"]), (["plain"], [-1]), ("plain", [0]), (["a"] * 2, [0])):
        write_json(kept.folder / "run.json", {**run, "arms": arms, "seeds": seeds})
        with pytest.raises(ValueError, match=r"run\.json is damaged"):
            opened(kept.folder, KNOWN)
        assert [listed.problem for listed in runs(tmp_path / "runs")] == ["run.json is damaged"]
    with pytest.raises(ValueError, match="without slashes"):
        kept.cell("x/../../evil", 0)


def test_settings_of_others_are_believed_only_under_their_own_name_and_type(tmp_path: Path) -> None:
    kept = store(tmp_path)
    sweep(kept, setup(Settings()), ["plain"], 1)
    settings = read_json(kept.folder / "settings.json") or {}
    write_json(kept.folder / "settings.json", {**settings, "settings": {"rate": 0.2, "every": 5}})
    with pytest.raises(ValueError, match="is not called after its settings: expected smoke-"):
        opened(kept.folder, KNOWN)
    wrong = {"rate": "much", "every": 5}
    folder = kept.folder.rename(kept.folder.with_name(store_module.folder_name("test/tiny", "smoke", wrong)))
    write_json(folder / "settings.json", {**settings, "settings": wrong})
    with pytest.raises(ValueError, match=r"setting rate is no .*float.*, got 'much'"):
        opened(folder, KNOWN)


def test_reading_a_store_imports_nothing_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\ndef build(*_): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = experiments()["lyle2024/swiss_cheese"]
    kept = Store(tmp_path, experiment, "smoke", replace(experiment.tiers["smoke"], net="evil_module:build"))
    kept.prepare()
    kept.begin(["none"], [0], "cpu")
    assert list(opened(kept.folder).setup.arms) == ["none", "l2", "layer_norm", "both", "both_weights"]
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "bad", [b"", b"[]", b"{", b'"text"', b"[" * 100_000, b'{"sha256": 3}', b'{"a": [' * 50_000, b"\xff\xfe", b"1e999"]
)
def test_one_bad_file_never_blocks_a_listing_nor_ends_in_a_traceback(tmp_path: Path, bad: bytes) -> None:
    good, other = store(tmp_path), store(tmp_path, rate=0.5)
    for kept in (good, other):
        kept.prepare()
        kept.begin(["plain"], [0], "cpu")
    for name in ("run.json", "settings.json"):
        (other.folder / name).write_bytes(bad)
        listed = runs(tmp_path)
        assert len(listed) == 2
        assert sorted(bool(run.problem) for run in listed) == [False, True]
        with pytest.raises(ValueError, match=r"\.json (is damaged|has been altered)"):
            opened(other.folder, KNOWN)


def test_a_pipe_in_a_store_is_not_waited_for(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.prepare()
    os.mkfifo(kept.folder / "run.json")
    assert [run.problem for run in runs(tmp_path)] == ["run.json is damaged"]
    with pytest.raises(ValueError, match="no regular file"):
        read_bytes(kept.folder / "run.json")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        opened(kept.folder, KNOWN)


def test_lines_to_write_are_quoted_for_the_shell(tmp_path: Path) -> None:
    line = store(tmp_path / "my runs; rm -rf $HOME").command(["plain"], 3)
    assert f"'{tmp_path}/my runs; rm -rf $HOME'" in line


def test_the_commit_is_that_of_pliant_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    around = tmp_path / "project"
    (package := around / ".venv" / "pliant" / "run").mkdir(parents=True)
    (package / "store.py").write_text("")
    call = ["git", "-C", str(around), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*call, *arguments], check=True)
    monkeypatch.setattr(store_module, "__file__", str(package / "store.py"))
    assert commit.__wrapped__() == ""
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without git
    assert commit.__wrapped__() == ""


def test_the_record_holds_the_definition(tmp_path: Path) -> None:
    kept = store(tmp_path)
    sweep(kept, setup(Settings()), ["plain"], 1)
    recorded = json.loads((kept.cell("plain", 0) / "cell.json").read_text())["definition"]
    assert recorded["optimizer"] == "pliant.optim.SGD(lr=0.1)"
    assert recorded["kind"] == "pliant.trials.Supervised"
