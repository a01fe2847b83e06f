"""The offset experiment: its claims on numbers made by hand, and what its arms train."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from pliant.cli import main
from pliant.papers.lyle2024.offset import CLAIMS, EXPERIMENT, Settings, name, setup
from pliant.results import Results

OFFSETS = (0.0, 8.0, 16.0, 32.0, 100.0)


def made(error: dict[float, float], top: dict[float, float], layer_norm_decay: float, two_hot_decay: float) -> Results:
    """Two seeds: errors around zero and s_1 of plain nets by offset; how fast singular values fall off at 100."""

    def table(net: str, offset: float, seed: int) -> dict[str, np.ndarray]:
        fall = {"plain": 1.0, "layer_norm": layer_norm_decay, "two_hot": two_hot_decay}[net] if offset else 1.0
        first = top[offset] if net == "plain" else 10.0
        spectrum = first * 2.0 ** (-fall * np.arange(12) / 9) * (1 + 0.01 * seed)
        last = error[offset] + 0.001 * seed if net == "plain" else 0.1
        nothing = np.full(12, np.nan)
        return {
            "step": np.array([10, 20]), "task": np.array([0, 1]), "end": np.array([True, True]),
            "diverged_at": np.array([-1, -1]), "error": np.array([0.01, last]),
            "feature_top": np.array([first * (1 + 0.01 * seed), 1.0]),
            "feature_constancy": np.array([0.999 + 1e-5 * seed, 1.0]),
            "output_bias_norm": np.array([3.0 + 0.1 * seed, 0.0]), "spectrum": np.stack([spectrum, nothing]),
        }  # fmt: skip

    arms = {
        (net, offset, after)
        for net in ("plain", "layer_norm", "two_hot")
        for offset in OFFSETS
        for after in ("zero", "same")
    }
    return Results({(name(*arm), seed): table(*arm[:2], seed) for arm in sorted(arms) for seed in (0, 1)})


GROWS = dict(zip(OFFSETS, (0.01, 0.1, 0.2, 0.3, 0.5), strict=True))
TOPS = dict(zip(OFFSETS, (10.0, 50.0, 80.0, 200.0, 900.0), strict=True))


def test_all_claims_hold_where_numbers_are_as_the_paper_says() -> None:
    assert [claim.check(made(GROWS, TOPS, 3.0, 1.2)).verdict for claim in CLAIMS] == ["holds"] * 8


@pytest.mark.parametrize(
    ("place", "changed"),
    [
        (0, made(dict(zip(OFFSETS, (0.2, 0.1, 0.05, 0.01, 0.5), strict=True)), TOPS, 3.0, 1.2)),
        (2, made(GROWS, TOPS | {100.0: 90.0}, 3.0, 1.2)),
        (6, made(GROWS, TOPS, 0.5, 1.2)),
        (7, made(GROWS, TOPS, 3.0, 4.0)),
    ],
    ids=["trend", "first singular value", "layer norm", "two-hot"],
)
def test_each_claim_fails_where_numbers_say_the_contrary(place: int, changed: Results) -> None:
    assert CLAIMS[place].check(changed).verdict == "fails"


def test_a_trend_is_not_claimed_of_networks_that_never_learned() -> None:
    found = CLAIMS[0].check(made(GROWS | {0.0: 0.29}, TOPS, 3.0, 1.2))
    assert found.verdict == "inconclusive"
    assert "precondition not met" in found.reason


def test_arms_differ_in_net_offset_and_what_comes_after() -> None:
    arms = setup(Settings()).arms
    assert len(arms) == 27
    trial = arms["two_hot_32_same"].trial
    assert (trial.task.offset, trial.head.num_bins, trial.num_steps) == ((32.0, 32.0), 121, 4000)
    assert arms["plain_100_zero"].trial.task.offset == (100.0, 0.0)
    assert [len(EXPERIMENT.setup(EXPERIMENT.settings(tier)).claims) for tier in ("smoke", "paper")] == [8, 8]


KILLS_ITSELF = """
import os, signal, sys
from pathlib import Path
from pliant.papers.lyle2024.offset import EXPERIMENT
from pliant.run.checkpoint import Checkpoint, Pace
from pliant.run.pack import train_pack
from pliant.run.progress import Pack
from pliant.run.store import Store

def save(self, tensors, about, save=Checkpoint.save):
    save(self, tensors, about)
    if about["numbers"]["step"] > 100:
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoint.save, Pace.due = save, lambda self: True
settings = EXPERIMENT.settings("smoke", ["pretrain=10", "finetune=200"])
store = Store(Path(sys.argv[1]), EXPERIMENT, "smoke", settings)
store.prepare()
train_pack(store, Pack("plain_100_zero", (0,)))
"""


def test_a_run_killed_while_fine_tuning_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    """Killed with SIGKILL after the offset has changed: nothing of the first phase is done again or otherwise."""
    call = ["run", EXPERIMENT.id, "--tier", "smoke", "--seeds", "1", "--arms", "plain_100_zero"]
    call += ["--set", "pretrain=10", "--set", "finetune=200", "--out"]
    run = subprocess.run([sys.executable, "-c", KILLS_ITSELF, str(tmp_path / "killed")], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    (kept,) = tmp_path.glob("**/.checkpoint-*.safetensors")
    with safe_open(kept, framework="pt") as file:
        assert json.loads(file.metadata()["facts"])["numbers"]["step"] == 101
    assert not list(tmp_path.glob("**/metrics.parquet"))
    assert main([*call, str(tmp_path / "killed")]) == main([*call, str(tmp_path / "whole")]) == 0
    killed, whole = (
        pq.ParquetFile(next((tmp_path / n).glob("**/metrics.parquet"))).read() for n in ("killed", "whole")
    )
    columns = [name for name in whole.column_names if not name.endswith("_seconds")]
    assert killed.select(columns).equals(whole.select(columns))
