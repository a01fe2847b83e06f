"""`pliant export` and `pliant run --sink`: what each tracker's own reader finds is what the store holds."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pliant.cli import main
from pliant.experiment import find
from pliant.run.progress import Progress, plan
from pliant.run.sinks import Live, Tracked, tracked
from pliant.run.store import Store
from pliant.run.sweep import sweep

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("sinks")]  # the trackers' own
ID = "lyle2024/swiss_cheese"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smoke tier of swiss_cheese, two arms, two seeds."""
    out = tmp_path_factory.mktemp("runs")
    main(["run", ID, "--tier", "smoke", "--seeds", "2", "--arms", "none,both", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def runs(out: Path) -> list[Tracked]:
    """What is there to export."""
    store = Store(out, find(ID), "smoke", find(ID).settings("smoke"))
    return tracked(store, store.results(["none", "both"], [0, 1]))


@pytest.fixture(params=["export", "run"])
def sent(request: pytest.FixtureRequest, out: Path) -> Callable[[str], Path]:
    """Sends twice, by `pliant export` or by `pliant run --sink`; the second replaces the first."""

    def send(sink: str) -> Path:
        folder = out / (sink if request.param == "run" else f"exported-{sink}")
        run = ["run", ID, "--tier", "smoke", "--seeds", "2", "--arms", "none,both", "--sink", sink]
        call = run if request.param == "run" else ["export", ID, "--to", sink, "--into", str(folder)]
        for _ in range(2):
            assert main([*call, "--out", str(out)]) == 0
        return folder

    return send


def test_the_runs_have_numbers_and_settings(runs: list[Tracked]) -> None:
    assert [run.name for run in runs] == ["none/seed=0", "none/seed=1", "both/seed=0", "both/seed=1"]
    assert runs[3].settings.items() >= {"experiment": ID, "tier": "smoke", "arm": "both", "seed": 1, "lr": 1e-3}.items()
    assert all(len(list(run.rows())) > 1 for run in runs)


def test_tensorboard_holds_the_store(sent: Callable[[str], Path], runs: list[Tracked]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folder = sent("tensorboard")
    for run in runs:
        place = folder / run.group / run.name
        assert len(list(place.iterdir())) == 1
        read = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        found = {(e.step, tag): e.value for tag in read.Tags()["scalars"] for e in read.Scalars(tag)}
        assert found == {(step, name): np.float32(v) for step, row in run.rows() for name, v in row.items()}
        raw = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        hparams = HParamsPluginData.FromString(raw).session_start_info.hparams
        assert hparams["arm"].string_value == run.settings["arm"]
        assert hparams["lr"].number_value == run.settings["lr"]


def records(content: bytes) -> Iterator[bytes]:
    """What a .wandb file holds: LevelDB's log format, after seven bytes, in blocks of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


def test_wandb_offline_holds_the_store(
    sent: Callable[[str], Path], runs: list[Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder = sent("wandb")
    wandb.teardown()  # a run ends before its file is written; its service ends after, as at the end of a program
    files = list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == len(runs)
    found = {}
    for file in files:
        rows = []
        for raw in records(file.read_bytes()):
            record = Record.FromString(raw)
            if record.HasField("run"):
                about = record.run
                config = {u.key or u.nested_key[0]: json.loads(u.value_json) for u in about.config.update}
                found[about.run_group, about.display_name] = rows, config
            if record.HasField("history"):
                items = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
                rows.append((items["_step"], {k: v for k, v in items.items() if not k.startswith("_")}))
    for run in runs:
        rows, config = found[run.group, run.name]
        assert rows == list(run.rows())
        assert {k: v for k, v in config.items() if k != "_wandb"} == json.loads(json.dumps(run.settings))


def test_mlflow_holds_the_store(sent: Callable[[str], Path], runs: list[Tracked]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{sent('mlflow') / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(runs[0].group)
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(found) == len(client.search_runs([experiment.experiment_id])) == len(runs)
    for run in runs:
        read = found[run.name]
        assert read.info.status == "FINISHED"
        assert read.data.params["lr"] == str(run.settings["lr"])
        assert set(read.data.params) == set(run.settings)
        measured = {(step, name): v for step, row in run.rows() for name, v in row.items()}
        history = {
            (m.step, name): m.value
            for name in read.data.metrics
            for m in client.get_metric_history(read.info.run_id, name)
        }
        assert history == measured


def test_curves_arrive_as_packs_finish(tmp_path: Path) -> None:
    experiment = find(ID)
    store = Store(tmp_path, experiment, "smoke", experiment.settings("smoke"))
    folder, packs = tmp_path / "tensorboard", plan(experiment.setup(store.settings), ["none", "both"], 2)
    for rerun in (False, True):
        shutil.rmtree(folder, ignore_errors=True)
        live, seen = Live("tensorboard", store, packs, folder, rerun=rerun), []

        def on_progress(progress: Progress, live: Live = live, seen: list[tuple[int, int]] = seen) -> None:
            live(progress)
            seen.append((progress.finished, len(list(folder.glob("**/events.out.tfevents.*")))))

        sweep(store, experiment.setup(store.settings), ["none", "both"], 2, rerun=rerun, on_progress=on_progress)
        assert seen[0] == (0, 0)
        assert all(files >= 2 * finished for finished, files in seen)
        assert seen[-1] == (2, 4)
