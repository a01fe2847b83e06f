"""SIGKILL of a worker whose steps take 0.6 s, ten times: how many seconds of training does each kill cost?

    python tests/faults/lost.py [--kills 10]        (what `make test-faults` calls)

The trial notes every step with its time; what a kill costs is what was trained since the step that the checkpoint
holds. At most 5 s may be lost each time. At last the run ends, having taken every step once in its own count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from safetensors import safe_open

MOST = 5.0  # seconds of training that a kill may cost
STUDY = """
import os, time
from dataclasses import dataclass, replace

import torch

from pliant.experiment import Arm, Experiment, Setup
from pliant.plots import Lines
from pliant.trials import Run


@dataclass(frozen=True)
class Slow:
    num_steps: int
    seconds: float = 0.6
    together: int = 1
    refits: int = 0

    def brief(self):
        return replace(self, num_steps=1, seconds=0.0)

    def start(self, seeds, device="cpu", dtype=torch.float32):
        state = State(0, torch.zeros(len(seeds)), [-1] * len(seeds))
        return Run(state, self.rows(state))

    def rows(self, state):
        while state.step < self.num_steps:
            time.sleep(self.seconds)
            state.total += 1
            state.step += 1
            if self.seconds:
                with open("steps.log", "a") as file:
                    file.write(f"{os.getpid()} {state.step} {time.monotonic()}\\n")
            yield {"total": state.total.clone()}


@dataclass
class State:
    step: int
    total: torch.Tensor
    diverged_at: list


@dataclass(frozen=True)
class Settings:
    num_steps: int = 10


def setup(settings):
    plots = (Lines("total", "total", over="step"),)
    return Setup({"slow": Arm("slow", Slow(settings.num_steps))}, plots, (), (), ())


EXPERIMENT = Experiment("made/slow", "Slow steps", "nothing", (), {"laptop": Settings()}, setup)
"""


def noted(folder: Path) -> list[tuple[int, int, float]]:
    """Of every step so far: its worker, its number, when it ended."""
    path = folder / "steps.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(pid), int(step), float(at)) for pid, step, at in map(str.split, lines)]


def kept(folder: Path) -> int:
    """The step that the checkpoint holds, 0 where there is none."""
    for path in folder.glob("runs/**/.checkpoint-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["facts"])["numbers"]["step"]
    return 0


def started(folder: Path, steps: int) -> subprocess.Popen:
    """The run, as a program of its own."""
    call = [sys.executable, "-c", "import sys; from pliant.cli import main; sys.exit(main())", "run", "slow_study.py"]
    options = ["--set", f"num_steps={steps}", "--seeds", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*call, *options], cwd=folder, **quiet)  # type: ignore[call-overload]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    generator, costs = random.Random(given.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slow_study.py").write_text(STUDY)
        steps = 20 * given.kills
        for number in range(given.kills):
            before, first = len(noted(folder)), kept(folder)
            process, wanted = started(folder, steps), generator.randint(3, 19)
            while len(noted(folder)) < before + wanted and process.poll() is None:
                time.sleep(0.05)
            if process.poll() is not None:
                raise SystemExit(f"it ended by itself: {process.communicate()[1]}")
            time.sleep(generator.uniform(0.0, 0.6))
            mine = noted(folder)[before:]
            os.kill(mine[-1][0], signal.SIGKILL)  # the worker; its parent sees that and ends
            process.communicate()
            mine = noted(folder)[before:]
            at = {step: when for _, step, when in mine}
            step = kept(folder)
            since = at.get(step, mine[0][2] - 0.6 if step == first else mine[-1][2])
            costs.append(mine[-1][2] - since)
            print(f"kill {number + 1}: after step {mine[-1][1]}, kept step {step}, {costs[-1]:.1f} s lost", flush=True)
        process = started(folder, steps)
        _, error = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"exit code {process.returncode}: {error}")
        (path,) = folder.glob("runs/**/metrics.parquet")
        total = pq.ParquetFile(path).read(columns=["total"])["total"].to_pylist()
    whole = total == list(range(1, steps + 1))
    print(f"{given.kills} kills: at most {max(costs):.1f} s lost each; {'every step counted once' if whole else total}")
    return 0 if max(costs) <= MOST and whole else 1


if __name__ == "__main__":
    sys.exit(main())
