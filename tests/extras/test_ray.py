"""`--engine ray` on a real cluster of two workers on this machine: the local engine's tables, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster as TwoWorkers

from pliant.run.checkpoint import Checkpoint
from pliant.run.ray import RETRIES, Cluster
from pliant.run.sweep import sweep
from tests.run.test_run import EXPERIMENT, Settings, broken, replace, store, suicidal
from tests.waiting import until

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]  # Ray's own
SMOKE = ["lyle2024/swiss_cheese", "--tier", "smoke", "--arms", "none,both", "--seeds", "6"]  # packs of 5 and of 1
LONG, LONGER = (
    ["lyle2023/fig1", "--tier", "smoke", "--set", f"num_tasks={tasks}", "--seeds", "1"] for tasks in (25, 100)
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of a head without CPUs and two workers with one each."""
    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = TwoWorkers(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(2):
        cluster.add_node(num_cpus=1, **small)
    yield cluster.address
    cluster.shutdown()


def start(arguments: list[str], out: Path, **variables: str) -> subprocess.Popen[str]:
    """`pliant run` as a program, in a process group of its own."""
    call = [sys.executable, "-c", "import sys; from pliant.cli import main; sys.exit(main())", "run", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [*call, "--out", str(out)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it wrote to stderr, once it has ended."""
    _, error = process.communicate(timeout=150)
    assert process.returncode == code, error
    return error


def numbers(out: Path) -> dict[str, object]:
    """All metrics of a store by relative path, without durations."""
    paths = sorted(out.glob("**/metrics.parquet"))
    return {str(p.relative_to(out)): pq.ParquetFile(p).read().drop_columns(["elapsed_seconds"]) for p in paths}


def holders(lock: Path) -> list[int]:
    """The processes that hold a file's lock."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    inode = str(lock.stat().st_ino)
    return [int(x[4]) for x in lines if x[1] == "FLOCK" and x[5].split(":")[2] == inode]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """LONG on the local engine."""
    out = tmp_path_factory.mktemp("truth")
    finish(start(LONG, out))
    return numbers(out)


def test_two_workers_give_bitwise_the_tables_of_the_local_engine(tmp_path: Path, address: str) -> None:
    finish(start(SMOKE, tmp_path / "local"))
    finish(start([*SMOKE, "--engine", "ray", "--address", address], tmp_path / "ray"))
    local = numbers(tmp_path / "local")
    assert len(local) == 12
    assert numbers(tmp_path / "ray") == local
    assert [p.name for p in (tmp_path / "ray").glob("**/.ray-*")] == []


def test_a_worker_killed_in_the_middle_goes_on_from_its_checkpoint(
    tmp_path: Path, address: str, truth: dict[str, object]
) -> None:
    run = start([*LONG, "--engine", "ray", "--address", address], tmp_path, PLIANT_CHECKPOINT_SECONDS="0.2")
    kept = until(lambda: list(tmp_path.glob("**/.checkpoint-*.safetensors")), run)[0]
    (worker,) = until(lambda: holders(kept.with_name(".lock-0")), run)
    os.kill(worker, signal.SIGKILL)
    tensors, _ = Checkpoint(kept, {}).load() or ({}, {})
    finish(run)
    assert numbers(tmp_path) == truth
    table = pq.ParquetFile(kept.parent / "seed=0" / "metrics.parquet").read()
    kinds = {path.split("/")[1] for path in tensors if path.startswith("rows/")}
    pairs = [
        zip(tensors[f"rows/{k}/place"].tolist(), tensors[f"rows/{k}/seconds"].tolist(), strict=True) for k in kinds
    ]
    before = np.array([seconds for _, seconds in sorted(pair for found in pairs for pair in found)])
    assert len(before) > 0
    np.testing.assert_array_equal(table["elapsed_seconds"].to_numpy()[: len(before)], before)  # not trained again


def test_ctrl_c_keeps_checkpoints_and_the_same_call_goes_on(tmp_path: Path, address: str) -> None:
    finish(start(LONGER, tmp_path / "truth"))
    call = [*LONGER, "--engine", "ray", "--address", address]
    run = start(call, tmp_path / "ray", PLIANT_CHECKPOINT_SECONDS="1.5")
    kept = until(lambda: list(tmp_path.glob("ray/**/.checkpoint-*.safetensors")), run)[0]
    _, first = Checkpoint(kept, {}).load() or ({}, {})  # the first of several: it is training
    os.killpg(run.pid, signal.SIGINT)
    assert "stopped; what was done is kept. To go on: pliant run lyle2023/fig1" in finish(run, code=130)
    _, last = Checkpoint(kept, {}).load() or ({}, {})
    assert last["numbers"]["step"] > first["numbers"]["step"]  # written when it was told to stop
    finish(start(call, tmp_path / "ray"))
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "truth")
    assert list(tmp_path.glob("ray/**/.checkpoint-*")) == []


def test_what_fails_or_always_dies_is_listed_and_the_others_go_on(tmp_path: Path, address: str) -> None:
    for name, setup, message in (
        ("error", broken, "expected a network that works"),
        ("death", suicidal, f"its worker died {RETRIES + 1} times: WorkerCrashedError"),
    ):
        kept = store(tmp_path / name, replace(EXPERIMENT, setup=setup))
        engine = lambda *a: Cluster(*a, address=address)  # noqa: E731
        done = sweep(kept, setup(Settings()), ["plain", "broken"], 1, engine=engine)
        assert done.finished == 1
        assert [message in error.splitlines()[-1] for error in done.failed.values()] == [True], done.failed


def test_where_there_is_no_cluster_it_says_so_at_once(tmp_path: Path) -> None:
    error = finish(start([*LONG, "--engine", "ray", "--address", "127.0.0.1:9"], tmp_path), code=2)
    assert error.startswith("pliant: no Ray cluster at 127.0.0.1:9 ([Errno 111] Connection refused): start one with")
    error = finish(start([*LONG, "--engine", "ray", "--address", "nonsense"], tmp_path), code=2)
    assert error.startswith("pliant: no Ray cluster at nonsense (Invalid address format: nonsense)")
