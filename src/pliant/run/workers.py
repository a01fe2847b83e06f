"""The engine of this machine: a process a pack, as many at once as cores."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import sys
import time
import traceback
from queue import Empty
from typing import Any, Self

from pliant.run.pack import train_pack
from pliant.run.progress import Pack, Progress, Taken
from pliant.run.store import Store
from pliant.run.train import Interrupted

GRACE = 60.0  # seconds a worker has to end its step and write its checkpoint; a second Ctrl-C ends it at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that ask for the end
IMPORTED = [  # before packs are forked: what nearly all of them need, so that none of them waits for it
    *("torch._dynamo", "scipy.linalg", "pyarrow.parquet", "pyarrow.compute"),
    *("pliant.run.train", "pliant.run.checkpoint", "pliant.run.workers"),
]
STOPPED = 3  # exit code of a worker that kept what it had done


class Workers:
    """The processes that train packs; leaving the context ends them, gently first.

    They are forked from a process that has imported torch and does nothing else, so that a pack begins at once.
    """

    def __init__(self, store: Store, device: str, rerun: bool):
        self.store, self.device, self.rerun = store, device, rerun
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(IMPORTED)
        self.queue, self.stop = self.context.Queue(), self.context.Event()
        self.processes: dict[Pack, Any] = {}
        self.most = 1 if device != "cpu" else len(os.sched_getaffinity(0))

    def __enter__(self) -> Self:
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited, until workers have handlers
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        return self

    def room(self) -> bool:
        return len(self.processes) < self.most

    def busy(self) -> bool:
        return bool(self.processes)

    def start(self, pack: Pack) -> None:
        arguments = (self.store, pack, self.device, self.rerun, self.queue, self.stop, dict(os.environ))
        process = self.context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        self.processes[pack] = process

    def wait(self, progress: Progress) -> None:
        """Takes messages for a moment; notes what has ended."""
        multiprocessing.connection.wait([p.sentinel for p in self.processes.values()], timeout=0.2)
        ended = {pack for pack, process in self.processes.items() if process.exitcode is not None}
        self._take(progress)
        for pack in ended:
            code = self.processes.pop(pack).exitcode
            progress.running.pop(pack, None)
            if code == 0:
                progress.finish(pack)
            elif code == STOPPED:
                progress.failed[pack] = "its process was told to stop; what was done is kept"
            elif code != 1 or pack not in progress.failed:
                what = (
                    f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
                    if code < 0
                    else f"exit {code}"
                )
                progress.failed[pack] = f"its process ended without a word: {what}"

    def _take(self, progress: Progress) -> None:
        while True:
            try:
                pack, what = self.queue.get(timeout=0.01)
            except Empty:
                return
            if isinstance(what, str):
                progress.failed[pack] = what
            elif pack in self.processes:
                progress.tell(pack, what)

    def __exit__(self, *_: Any) -> None:
        self.stop.set()
        deadline = time.monotonic() + GRACE
        try:
            for process in self.processes.values():
                process.join(max(0.0, deadline - time.monotonic()))
        finally:  # a second signal, too
            for process in self.processes.values():
                process.kill()
            self.queue.close()


def _work(
    store: Store, pack: Pack, device: str, rerun: bool, queue: Any, stop: Any, environment: dict[str, str]
) -> None:
    """Trains one pack in a process of its own, with one thread; ends with its parent, and keeps what is done."""
    told = False
    last = 0.0

    def tell(*_: Any) -> None:
        nonlocal told
        told = True

    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, tell)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.clear()
    os.environ.update(environment)  # the process that this one was forked from has that of the first sweep
    parent = multiprocessing.parent_process()
    assert parent is not None

    def on_progress(taken: tuple[Taken, Taken, Taken]) -> None:
        nonlocal last
        if told or stop.is_set() or not parent.is_alive():
            raise Interrupted
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            queue.put((pack, taken))

    try:
        train_pack(store, pack, device=device, rerun=rerun, on_progress=on_progress)
    except Interrupted:
        os._exit(STOPPED)  # a parent that was killed reads no queue: nothing waits for it to do so
    except BaseException:
        queue.put((pack, traceback.format_exc().strip()))
        sys.exit(1)
