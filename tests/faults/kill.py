"""SIGKILL at random moments of every kind of run, resumed each time: does it end as if nothing had happened?

    python tests/faults/kill.py [--kills 100]        (what `make test-faults` calls)

Each run is killed a few times, wherever it happens to be (starting, compiling, training, writing), alone or with its
workers, then finished and compared with an uninterrupted one, byte for byte: metrics without their `_seconds` columns.
Where a run has a second phase, it is killed in that, too, as its checkpoints tell.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from pliant.run.files import read_json

KILLS_A_RUN = 5
PART = 0.6  # of an uninterrupted run's time, at most, before a kill: a resumed run has less left to do


class Kind(NamedTuple):
    """One kind of run: an experiment at smoke tier, a few settings longer."""

    name: str
    arguments: list[str]
    second: int = 0  # the step at which its second phase begins


KINDS = (
    Kind("fig1, a population, eager", ["lyle2023/fig1", "--set", "num_tasks=30", "--seeds", "3"]),
    Kind("fig1, one network", ["lyle2023/fig1", "--set", "num_tasks=30", "--seeds", "1"]),
    Kind("swiss_cheese, a population, eager", ["lyle2024/swiss_cheese", "--set", "num_tasks=40", "--seeds", "2"]),
    Kind(
        "swiss_cheese, a population, compiled",
        ["lyle2024/swiss_cheese", "--arms", "both,l2", "--set", "every=1000", "--set", "num_tasks=10", "--seeds", "2"],
    ),
    Kind(
        "offset, pretrained, then trained on",
        ["lyle2024/offset", "--set", "offsets=100", "--set", "pretrain=100", "--set", "finetune=1500", "--seeds", "2"],
        second=100,
    ),
)


def start(kind: Kind, out: Path) -> subprocess.Popen:
    """The run as a program of its own."""
    call = [sys.executable, "-c", "import sys; from pliant.cli import main; sys.exit(main())", "run", *kind.arguments]
    environment = {**os.environ, "PLIANT_CHECKPOINT_SECONDS": "0.2", "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([*call, "--tier", "smoke", "--out", str(out)], env=environment, **quiet)  # type: ignore[call-overload]


def finish(kind: Kind, out: Path) -> float:
    """Lets a run end by itself; returns its seconds."""
    began = time.monotonic()
    process = start(kind, out)
    _, error = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{kind.name}: exit code {process.returncode}: {error}")
    return time.monotonic() - began


def numbers(out: Path) -> dict[str, object]:
    """All metrics of a store by relative path, without durations."""
    found = {}
    for path in sorted(out.glob("**/metrics.parquet")):
        table = pq.ParquetFile(path).read()
        kept = table.drop_columns([name for name in table.column_names if name.endswith("_seconds")])
        found[str(path.relative_to(out))] = kept
    return found


def steps(out: Path) -> list[int]:
    """The steps at which the packs of a killed run are kept."""
    found = []
    for path in out.glob("**/.checkpoint-*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                found.append(json.loads(file.metadata()["facts"])["numbers"]["step"])
        except (SafetensorError, OSError):
            continue  # a worker that outlived its parent is just ending
    return found


def unreadable(out: Path) -> list[str]:
    """Files of a killed run that a reader would choke on."""
    bad = []
    for path in out.glob("**/*.json"):
        try:
            read_json(path)
        except ValueError as error:
            bad.append(str(error))
    for path in out.glob("**/metrics.parquet"):
        try:
            pq.ParquetFile(path).read()
        except (OSError, ValueError) as error:
            bad.append(f"{path}: {error}")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    kills = runs = equal = broken = 0
    later = dict.fromkeys((kind.name for kind in KINDS if kind.second), 0)
    with tempfile.TemporaryDirectory() as folder:
        truth, seconds = {}, {}
        for kind in KINDS:
            out = Path(folder) / "truth" / kind.name.replace(" ", "_")
            finish(kind, out)
            seconds[kind.name] = finish(kind, Path(folder) / "timed")  # with a warm compile cache
            shutil.rmtree(Path(folder) / "timed")
            truth[kind.name] = numbers(out)
            print(f"{kind.name}: {seconds[kind.name]:.1f} s uninterrupted, {len(truth[kind.name])} tables", flush=True)
        while kills < given.kills:
            kind = KINDS[runs % len(KINDS)]
            out = Path(folder) / "killed"
            for _ in range(min(KILLS_A_RUN, given.kills - kills)):
                process = start(kind, out)
                try:
                    process.wait(generator.uniform(0.5, PART * seconds[kind.name]))
                    break  # it was faster than the kill
                except subprocess.TimeoutExpired:
                    (os.killpg if generator.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
                    process.communicate()
                    kills += 1
                    if kind.second:
                        later[kind.name] += any(step > kind.second for step in steps(out))
                broken += len(unreadable(out))
            finish(kind, out)
            runs += 1
            same = numbers(out) == truth[kind.name]
            equal += same
            shutil.rmtree(out)
            print(f"{kind.name}: {kills} kills so far, {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{kills} kills over {runs} runs: {equal} of {runs} runs bitwise equal, {broken} unreadable files")
    for name, times in later.items():
        print(f"{name}: killed {times} times with a pack in its second phase")
    return 0 if equal == runs and broken == 0 and all(later.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
