"""Replays on disk: files that are only added, a training that goes on from them bitwise, and damage that is seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pliant.nets import MLP
from pliant.optim import Adam
from pliant.rl import Catch
from pliant.run.checkpoint import Checkpoint, Pace
from pliant.run.segments import Segments
from pliant.run.train import Interrupted, train
from pliant.trials import ActionValues, QLearning, When

TRIAL = QLearning(
    Catch(5, 3), partial(MLP, hidden=(8,)), Adam(1e-3), num_steps=160, begin=60, decay=20, batch_size=8,
    target_period=20, capacity=50, measures=(ActionValues(When(every=25), 20),),
)  # fmt: skip


def until(last: int) -> Callable[[int], None]:
    def stop(step: int) -> None:
        if step >= last:
            raise Interrupted

    return stop


def stopped(checkpoint: Checkpoint, at: int, pace: Pace | None = None) -> None:
    with pytest.raises(Interrupted):
        train(TRIAL, [0, 3], checkpoint=checkpoint, pace=pace, on_progress=until(at))


def ticking(apart: float) -> Pace:
    """A checkpoint every so many steps."""
    clock = iter(range(10**6))
    return Pace(apart, clock=lambda: float(next(clock)))


def hashes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def assert_equal(one: dict, other: dict) -> None:
    for seed, table in one.items():
        for name, values in table.items():
            if name != "elapsed_seconds":
                np.testing.assert_array_equal(values, other[seed][name], err_msg=name)


@pytest.mark.parametrize("pace", [None, 7.0], ids=["at the end", "on the way"])
def test_a_training_that_is_stopped_again_and_again_equals_an_uninterrupted_one(tmp_path: Path, pace) -> None:
    whole = train(TRIAL, [0, 3]).tables
    checkpoint = Checkpoint(tmp_path / "c.safetensors", {})
    for at in (20, 61, 62, 130):
        stopped(checkpoint, at, pace and ticking(pace))
    with_replay = sum(path.stat().st_size for path in checkpoint.replay.glob("*"))
    assert with_replay > 0
    assert_equal(train(TRIAL, [0, 3], checkpoint=checkpoint).tables, whole)
    checkpoint.discard()
    assert list(tmp_path.iterdir()) == []


def test_files_are_added_never_rewritten_and_dropped_once_all_was_overwritten(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c.safetensors", {})
    before: dict[str, bytes] = {}
    seen: list[list[str]] = []
    for at in range(15, 150, 15):
        stopped(checkpoint, at)
        now = hashes(checkpoint.replay)
        assert all(now[name] == content for name, content in before.items() if name in now)
        assert len(now.keys() - before.keys()) == 1
        before = now
        seen.append(list(now))
    assert "00000000.safetensors" in seen[0]
    assert "00000000.safetensors" not in seen[-1]
    assert len(seen[-1]) <= 7  # 12 observations each, 68 find room
    tensors, _ = checkpoint.load() or ({}, {})
    assert "state/replay/action" in tensors
    assert "state/replay/frame" not in tensors


@pytest.mark.parametrize("how", ["removed", "altered", "truncated"])
def test_a_damaged_file_is_named_and_the_pack_starts_over(tmp_path: Path, how: str) -> None:
    checkpoint = Checkpoint(tmp_path / "c.safetensors", {})
    stopped(checkpoint, 70)
    (path,) = checkpoint.replay.glob("*")
    content = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if how == "altered" else content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"00000000.safetensors is missing, or has been altered .* starts over"):
        again = train(TRIAL, [0, 3], checkpoint=checkpoint).tables
    assert_equal(again, train(TRIAL, [0, 3]).tables)


def test_a_file_that_no_checkpoint_lists_does_not_count(tmp_path: Path) -> None:
    """A process that was killed between the two files: the next one goes on from the checkpoint."""
    checkpoint = Checkpoint(tmp_path / "c.safetensors", {})
    stopped(checkpoint, 70)
    (checkpoint.replay / "00000001.safetensors").write_bytes(b"half a file")
    stopped(checkpoint, 90)
    assert sorted(hashes(checkpoint.replay)) == ["00000000.safetensors", "00000001.safetensors"]
    assert_equal(train(TRIAL, [0, 3], checkpoint=checkpoint).tables, train(TRIAL, [0, 3]).tables)


@pytest.mark.parametrize("jumps", [(1, 2, 3), (5, 0, 20), (30,), (9, 1, 1, 1, 1, 1)])
def test_members_with_counts_of_their_own_come_back_whole(tmp_path: Path, jumps: tuple[int, ...]) -> None:
    segments, ring, added = Segments(tmp_path / "replay"), torch.zeros(2, 7, 3), [0, 0]
    listed: list = []
    for jump in jumps:
        for m, count in enumerate((jump, jump // 2)):
            for _ in range(count):
                ring[m, added[m] % 7] = float(10 * added[m] + m)
                added[m] += 1
        listed = segments.add({"a/frame": (ring, added)})
        segments.settle(listed)
    again, fresh = torch.zeros(2, 7, 3), Segments(tmp_path / "replay")
    fresh.check(listed)
    fresh.read(listed, {"a/frame": (again, added)})
    assert torch.equal(again, ring)
