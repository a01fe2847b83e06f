"""Sides that take turns, on every core at once: what the benchmarks of agents and tasks share.

Times are of the processor, so that other work on the machine moves them less, and alike for all sides; a ratio is the
median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from pliant.run.memory import keep_freed


class Side(NamedTuple):
    """What takes a turn: a function, and how many units of work a call of it does."""

    run: Callable[[], object]
    units: float = 1.0


Found = dict[str, list[float]]  # milliseconds of a unit, by side: one number a round (and process)


def turns(sides: Mapping[str, Side], rounds: int, wait: Callable[[], object] = lambda: None) -> Found:
    """Milliseconds of processor time of a unit of each side, in `rounds` rounds after one that warms up."""
    found: Found = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            wait()
            start = time.process_time()
            side.run()
            if number:
                found[name].append(1e3 * (time.process_time() - start) / side.units)
    return found


def on_every_core(make: Callable[[], Mapping[str, Side]], rounds: int) -> Found:
    """`turns` in a process a core, one thread each, all in step, with memory kept as in the workers of a run."""
    cores = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(cores)
    processes = [context.Process(target=_worker, args=(make, rounds, barrier, queue)) for _ in range(cores)]
    for process in processes:
        process.start()
    parts = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    if not all(parts):
        raise SystemExit("a process failed, see above")
    return {name: [one for part in parts for one in part[name]] for name in parts[0]}


def _worker(make: Callable[[], Mapping[str, Side]], rounds: int, barrier: Any, queue: Any) -> None:
    torch.set_num_threads(1)
    keep_freed()
    try:
        queue.put(turns(make(), rounds, barrier.wait))
    except BaseException:
        barrier.abort()
        queue.put({})
        raise


def apart(groups: Sequence[tuple[Callable[[], Mapping[str, Side]], bool]], rounds: int) -> Found:
    """`turns` of groups of sides, each in a process of its own, that keeps memory as a run's workers do where asked."""
    context, ends = multiprocessing.get_context("spawn"), dict[str, Any]()
    for make, keep in groups:
        mine, its = context.Pipe()
        context.Process(target=_serve, args=(make, keep, its), daemon=True).start()
        its.close()
        ends |= dict.fromkeys(mine.recv(), mine)
    found: Found = {name: [] for name in ends}
    for number in range(rounds + 1):
        for name, end in ends.items():
            end.send(name)
            took = end.recv()
            if number:
                found[name].append(took)
    return found


def _serve(make: Callable[[], Mapping[str, Side]], keep: bool, end: Any) -> None:
    torch.set_num_threads(1)
    if keep:
        keep_freed()
    sides = make()
    end.send(list(sides))
    with suppress(EOFError):  # the other side is done
        while True:
            side = sides[end.recv()]
            start = time.process_time()
            side.run()
            end.send(1e3 * (time.process_time() - start) / side.units)


def ratio(found: Found, slower: str, faster: str) -> float:
    """How many times as long a unit of `slower` takes as one of `faster`: the median over rounds."""
    return statistics.median(a / b for a, b in zip(found[slower], found[faster], strict=True))


def ms(found: Found, side: str) -> float:
    """Milliseconds of a unit, the median over rounds."""
    return statistics.median(found[side])


def options(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """A command line with the number of rounds; `doc` is the script's."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    return parser


def heading(rounds: int, processes: int = 1) -> str:
    """How it was measured, in one line."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg()[:2])
    many = "one thread" if processes == 1 else f"{processes} processes of one thread"
    return f"torch {torch.__version__}, {many}, processor time, medians of {rounds} rounds, load {load}"


def line(what: str, measured: float, goal: float, at_most: bool = False) -> str:
    """A row of a table: what was measured beside what it should be."""
    met = measured <= goal if at_most else measured >= goal
    return f"{what:<62}{number(measured):>12}{number(goal):>12}{'' if met else '  not met'}"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
