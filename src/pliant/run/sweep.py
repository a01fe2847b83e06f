"""All packs of an experiment over the cores of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from queue import Empty
from typing import Any, NamedTuple

from pliant.experiment import Setup
from pliant.run.store import Store, environment, write_json

PACK = 5  # seeds trained as one population; part of the plan, so that results do not depend on the machine


class Pack(NamedTuple):
    """Seeds of one arm, trained as one population."""

    arm: str
    seeds: tuple[int, ...]


@dataclass
class Progress:
    """What a sweep has done so far, in optimizer steps of packs."""

    total: int
    done: int = 0
    kept: int = 0  # packs found complete
    finished: int = 0
    packs: int = 0
    running: dict[Pack, int] = field(default_factory=dict)
    failed: dict[Pack, str] = field(default_factory=dict)


class Interrupted(Exception):
    """Ctrl-C: what was finished is kept."""


def plan(arms: Sequence[str], num_seeds: int) -> list[Pack]:
    """The packs of seeds 0 .. `num_seeds` - 1, a function of its arguments alone.

    >>> plan(["none", "both"], 6)[:2]
    [Pack(arm='none', seeds=(0, 1, 2, 3, 4)), Pack(arm='none', seeds=(5,))]
    """
    seeds = range(num_seeds)
    return [Pack(arm, tuple(seeds[i : i + PACK])) for arm in arms for i in range(0, num_seeds, PACK)]


def sweep(
    store: Store,
    setup: Setup,
    arms: Sequence[str],
    num_seeds: int,
    *,
    device: str = "cpu",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Trains what is missing of the arms and seeds, one process a core with one thread each; one process on a GPU.

    A pack that fails leaves its error in the result and the others go on. Raises `Interrupted` after Ctrl-C.
    """
    store.prepare()
    packs = plan(arms, num_seeds)
    todo = [p for p in packs if not store.complete(p.arm, list(p.seeds))]
    steps = setup.task.num_steps
    progress = Progress(total=len(packs) * steps, packs=len(packs), kept=len(packs) - len(todo))
    progress.done = progress.kept * steps
    write_json(
        store.folder / "run.json",
        {"arms": list(arms), "seeds": list(range(num_seeds)), "environment": environment(device)},
    )
    on_progress(progress)
    if not todo:
        return progress
    workers = 1 if device != "cpu" else min(len(todo), len(os.sched_getaffinity(0)))
    context = multiprocessing.get_context("spawn")
    queue, stop = context.Queue(), context.Event()
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(queue, stop)) as pool:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is the parent's business alone
        try:
            jobs = {pool.submit(_train, store, p, device): p for p in todo}
        finally:
            signal.signal(signal.SIGINT, handler)
        try:
            while jobs:
                ready, _ = wait(jobs, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(queue, progress, set(jobs.values()))
                for job in ready:
                    pack = jobs.pop(job)
                    progress.running.pop(pack, None)
                    error = job.exception()
                    if error is not None:
                        progress.failed[pack] = "".join(traceback.format_exception(error)).strip()
                    else:
                        progress.finished += 1
                progress.done = (progress.kept + progress.finished) * steps + sum(progress.running.values())
                on_progress(progress)
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise Interrupted from None
    return progress


def _drain(queue: Any, progress: Progress, active: set[Pack]) -> None:
    while True:
        try:
            pack, step = queue.get_nowait()
        except Empty:
            return
        if pack in active:
            progress.running[pack] = step


# -- in the workers ----------------------------------------------------------------------------------------------------

_queue: Any = None
_stop: Any = None


def _start(queue: Any, stop: Any) -> None:
    """Runs first in every worker: one thread."""
    global _queue, _stop
    import torch

    torch.set_num_threads(1)
    _queue, _stop = queue, stop


def _train(store: Store, pack: Pack, device: str) -> None:
    from pliant.run.train import train

    last = 0.0

    def on_progress(step: int) -> None:
        nonlocal last
        if _stop.is_set():
            raise Interrupted
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            _queue.put((pack, step))

    start = time.perf_counter()
    setup = store.experiment.setup(store.settings)
    trained = train(setup, setup.arms[pack.arm], list(pack.seeds), device=device, on_progress=on_progress)
    seconds = time.perf_counter() - start
    store.write(pack.arm, trained.tables, {"mode": trained.mode, "threads": 1, "total_seconds": seconds})
