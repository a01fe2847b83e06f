"""What a sweep says of its progress: refits count, and the time left is that of what is left."""

from __future__ import annotations

import itertools
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from pliant.experiment import experiments, find
from pliant.papers.lyle2023.fig7 import Settings as Fig7
from pliant.run import progress, sweep
from pliant.run.progress import Clock, Pack, Progress, Taken
from pliant.run.train import Cost, cost, train
from pliant.trials.base import refitted

ONE, TWO = Pack("one", (0,)), Pack("two", (0,))


def test_refits_count_and_a_finished_pack_is_all_its_work() -> None:
    progress = Progress({ONE: Taken(10, 30), TWO: Taken(10, 0)})
    assert (progress.total, progress.done) == (50, 0)
    progress.tell(ONE, (Taken(5, 12), Taken(), Taken()))
    assert progress.done == 17
    progress.running.pop(ONE)
    progress.finish(ONE)
    assert (progress.done, progress.packs) == (40, 2)


def test_the_time_left_is_that_of_each_kind_of_step() -> None:
    progress = Progress({ONE: Taken(10, 30), TWO: Taken(10, 30)})
    assert progress.left() is None
    progress.tell(ONE, (Taken(4, 0), Taken(3, 0), Taken(6.0, 0)))  # 2 s a step; refits are taken to be like that
    assert progress.left() == pytest.approx(2 * 6 + 2 * 30 + 2 * 40)
    progress.tell(ONE, (Taken(4, 10), Taken(3, 10), Taken(6.0, 1.0)))  # 0.1 s a step of a refit
    assert progress.left() == pytest.approx(2 * 6 + 0.1 * 20 + 2 * 10 + 0.1 * 30)
    progress.tell(TWO, (Taken(0, 0), Taken(), Taken()))  # two at once
    assert progress.left() == pytest.approx(max((14 + 23) / 2, 23))
    progress.running.pop(ONE)
    progress.finish(ONE)
    progress.failed[TWO] = "no"
    assert progress.left() == 0


def test_a_clock_leaves_the_first_step_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(100.0, 10.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    clock = Clock(Taken(20, 40))
    clock.step(5)  # a checkpoint's
    assert clock.told() == (Taken(5, 10), Taken(0, 0), Taken(0, 0))
    clock.step(6)
    clock.step(8)
    clock.refit(7)
    assert clock.told() == (Taken(8, 17), Taken(2, 7), Taken(10, 10))


def test_an_estimate_measures_games_that_train_alike_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two games, two arms, two seeds, each a pack: networks with layer norm and without are timed."""
    timed = []

    def given(trial: Any, seeds: Any, device: str) -> Cost:
        timed.append(trial)
        return Cost(0.5 * len(timed), state=100, replay=30)  # the second takes twice as long

    monkeypatch.setattr(sweep, "cost", given)
    monkeypatch.setattr(sweep.os, "sched_getaffinity", lambda pid: {0, 1})
    setup = find("lyle2023/fig7").setup(Fig7(games=("pong", "breakout"), num_steps=1_000_000))
    found = sweep.estimate(setup, sweep.plan(setup, list(setup.arms), 2))
    assert len(timed) == 2
    assert found == (3e6, 6e6, 1e6, sweep.PROCESS + 100, 170)
    assert sweep.estimate(setup, []) == (0.0, 0.0, 0.0, sweep.PROCESS, 0)


@pytest.mark.parametrize("id", ["toolbox/causes", "lyle2023/fig6"])
def test_refits_tell_of_all_their_steps(id: str) -> None:
    """Those of a trial whose repairs all find something to do are as many as it says beforehand."""
    experiment = experiments()[id]
    trial: Any = next(iter(experiment.setup(experiment.tiers["smoke"]).arms.values())).trial
    trial = replace(trial, measures=tuple(m for m in trial.measures if m.refits))
    told: list[float] = []
    before = refitted.set(told.append)
    try:
        with torch.random.fork_rng():
            train(trial, [0, 1])
    finally:
        refitted.reset(before)
    assert sum(told) == pytest.approx(trial.refits)
    assert min(told) >= 0


@pytest.mark.parametrize("id", ["toolbox/causes", "lyle2023/fig6"])
def test_a_cost_is_found_without_refits(id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run of 68 agents, each of which is probed before its first step, would take longer than most runs."""
    experiment = experiments()[id]
    trial: Any = next(iter(experiment.setup(experiment.tiers["smoke"]).arms.values())).trial

    def refits(*_: Any) -> Any:
        raise AssertionError

    for measure in trial.measures:
        if measure.refits:
            monkeypatch.setattr(type(measure), "__call__", refits)
    with pytest.raises(AssertionError):
        train(trial, [0, 1])
    assert cost(trial, [0, 1]).seconds > 0


CODE = """
import subprocess, sys, warnings
from rich.progress import BarColumn, TextColumn
from pliant.cli.bar import live
from pliant.terminal import streams
line = "import sys; print(\\"No CUDA runtime is found, using CUDA_HOME='/usr'\\", file=sys.stderr)"
with streams():
    with live(TextColumn("{task.description}"), BarColumn(bar_width=10)) as bar:
        bar.add_task("working", total=2)
        for _ in range(3):
            subprocess.run([sys.executable, "-c", line], check=True)
        bar.refresh()
        print("of our own", file=sys.stderr)
    print("after", file=sys.stderr)
"""


def test_lines_of_workers_are_shown_once_above_the_bar() -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", CODE], stderr=follower, env={**os.environ, "TERM": "xterm"})
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the end of a terminal
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait() == 0
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]+", seen.decode())]
    assert lines.count("No CUDA runtime is found, using CUDA_HOME='/usr'") == 1
    assert lines.count("of our own") == lines.count("after") == 1
    assert any(line.startswith("working") for line in lines)
    assert not any("working" in line and len(line) > len("working") + 11 for line in lines)
