"""All packs of an experiment over a Ray cluster: the same packs, trained by the same function, to the same numbers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from pliant.run.pack import train_pack
from pliant.run.progress import Pack, Progress
from pliant.run.store import Store, environment
from pliant.run.train import Interrupted
from pliant.run.workers import GRACE, SIGNALS

RETRIES = 3  # of a pack whose worker or machine dies; what fails with an error is not tried again
BEAT = 0.5  # seconds between two reports of a pack
ANSWER = 4.0  # seconds to wait for an answer of the cluster


class Cluster:
    """The workers of a Ray cluster, as an engine of `sweep`: a process with one thread and one CPU a pack.

    A pack whose worker is killed or whose machine is lost is started again, up to `RETRIES` times, and goes on from its
    checkpoint in the store (under `rerun`, from the beginning). Every machine needs the versions of this one, the data
    sets (or a way to fetch them), and the store's folder under the same path: on a cluster, `--out` must be a folder on
    a file system that all machines share, one with file locks across machines (NFS 4 has them).

    Args:
        store: where the packs go.
        device: "cpu" or "cuda".
        rerun: whether what is there is trained anew.
        address: `HOST:PORT`, `ray://HOST:PORT`, or `auto`, the cluster that this machine belongs to. Without it the one
            in RAY_ADDRESS, or else a cluster of this machine's cores that ends with the sweep.
        gpus_per_pack: how much of a GPU each pack reserves; 0.25 lets four packs share one. By default 1 on "cuda".

    Raises `ValueError` where Ray is not installed and, on entering, where there is no cluster at the address.
    """

    def __init__(
        self, store: Store, device: str, rerun: bool, *, address: str | None = None, gpus_per_pack: float | None = None
    ):
        self.ray = _ray()
        self.store = Store(store.root.resolve(), store.experiment, store.tier, store.settings)
        self.device, self.rerun = device, rerun
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self.gpus = float(device != "cpu") if gpus_per_pack is None else gpus_per_pack
        self.tasks: dict[Pack, Any] = {}

    def __enter__(self) -> Self:
        self.interrupted, self.ours = 0, not self.ray.is_initialized()
        self.handlers = {s: signal.signal(s, self._interrupt) for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
        try:
            if self.ours:
                _connect(self.ray, self.address)
            for number in self.handlers:
                signal.signal(number, self._interrupt)  # again: Ray has set its own
            self._check_resources()
            self.mark = tempfile.NamedTemporaryFile(dir=self.store.folder, prefix=".ray-")
            ours = {name: value for name, value in os.environ.items() if name.startswith("PLIANT_")}
            self.here = _Here(Path(self.mark.name), environment(self.device), ours)
            lasting = self.ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            self.board = lasting(_Board).remote()
            resources = {"num_cpus": 1, "num_gpus": self.gpus}
            self.train = self.ray.remote(**resources, max_retries=RETRIES, max_calls=1)(_train)  # a fresh process each
        except BaseException:
            self._leave()
            raise
        return self

    def room(self) -> bool:
        return True  # Ray has the queue

    def busy(self) -> bool:
        return bool(self.tasks)

    def start(self, pack: Pack) -> None:
        self.tasks[pack] = self.train.remote(self.store, pack, self.device, self.rerun, self.board, self.here)

    def wait(self, progress: Progress) -> None:
        packs = {task: pack for pack, task in self.tasks.items()}
        ended, _ = self.ray.wait(list(packs), num_returns=1, timeout=0.2)
        if self.interrupted:
            raise Interrupted
        for task in ended:
            del self.tasks[packs[task]]
            try:
                error = self.ray.get(task)
            except self.ray.exceptions.RayError as raised:
                error = _told(raised)
            if error is None:
                progress.finish(packs[task])
            else:
                progress.failed[packs[task]] = error
        with suppress(self.ray.exceptions.GetTimeoutError):  # while Ray restarts the board on another machine
            steps = self.ray.get(self.board.read.remote(), timeout=ANSWER)
            progress.running = {}
            for pack, taken in steps.items():
                if pack in self.tasks:
                    progress.tell(pack, taken)

    def __exit__(self, *_: Any) -> None:
        try:
            if self.tasks:
                self._stop()
        finally:
            self.mark.close()
            self._leave()

    def _stop(self) -> None:
        """Lets packs that are training write their checkpoints; the others end with the job.

        Ray can crash on `cancel` of a task that is just ending (or starting, as another has ended), so tasks are only
        cancelled in a session of the caller's, which lives on.
        """
        deadline = time.monotonic() + GRACE
        try:
            training = self.ray.get(self.board.stop.remote(), timeout=ANSWER)
        except self.ray.exceptions.RayError:
            training = {}
        waiting = [task for pack, task in self.tasks.items() if pack in training]
        while waiting and time.monotonic() < deadline and self.interrupted < 2:
            _, waiting = self.ray.wait(waiting, num_returns=len(waiting), timeout=0.5)
        if not self.ours:
            tasks = list(self.tasks.values())
            for task in self.ray.wait(tasks, num_returns=len(tasks), timeout=0.0)[1]:
                self.ray.cancel(task, force=True)

    def _leave(self) -> None:
        if self.ours:
            self.ray.shutdown()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _interrupt(self, *_: Any) -> None:
        self.interrupted += 1  # raising would be lost in Ray's own code

    def _check_resources(self) -> None:
        there = self.ray.cluster_resources()
        for name, wanted in (("CPU", 1.0), ("GPU", self.gpus)):
            if there.get(name, 0.0) < wanted:
                lacks = f"a pack needs {wanted:g} {name}, the Ray cluster has {there.get(name, 0.0):g}"
                if self.address == "local":
                    raise ValueError(f"{lacks}: write --device cpu, or the --address of another cluster")
                warnings.warn(f"{lacks} now; packs wait until it grows (Ctrl-C to stop)", stacklevel=2)


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install 'pliant[ray]'") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    """Joins the cluster or makes one here; `ValueError` where there is none (Ray would wait for minutes)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that we start: nothing is sent anywhere
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")  # no tips on the terminal
    options = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False} if address == "local" else {}
    try:
        if host:
            socket.create_connection((host, int(port)), timeout=10.0).close()
        ray.init(address=address, logging_level=logging.WARNING, **options)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(
            f"no Ray cluster at {address} ({reason}): start one with `ray start --head`, or leave --address out for "
            "one on this machine"
        ) from None


def _told(error: Exception) -> str:
    """What Ray says of a task that ended without a word; the last line sums it up."""
    name = type(error).__name__
    dead = name in ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError")
    what = f"its worker died {RETRIES + 1} times" if dead else "Ray could not run it"
    return f"{error}\n{what}: {name}: {str(error).strip().splitlines()[0]}"


# -- on the cluster ----------------------------------------------------------------------------------------------------


class _Here(NamedTuple):
    """What workers must find as it is where the sweep was started, and the settings they take over."""

    mark: Path  # a file that is in the store's folder while the sweep lasts
    environment: dict[str, Any]
    variables: dict[str, str]


class _Board:
    """An actor that knows how far each pack is, and whether to stop."""

    def __init__(self) -> None:
        self.taken: dict[Pack, Any] = {}
        self.stopped = False

    def report(self, pack: Pack, taken: Any) -> bool:
        self.taken[pack] = taken
        return self.stopped

    def read(self) -> dict[Pack, Any]:
        return self.taken

    def stop(self) -> dict[Pack, Any]:
        self.stopped = True
        return self.taken


def _train(store: Store, pack: Pack, device: str, rerun: bool, board: Any, expected: _Here) -> str | None:
    """Trains one pack in a worker's process; returns its error, or None."""
    ray, last = _ray(), 0.0
    os.environ.update(expected.variables)

    def on_progress(taken: Any) -> None:
        nonlocal last
        if time.monotonic() - last > BEAT:
            last = time.monotonic()
            if ray.get(board.report.remote(pack, taken)):
                raise Interrupted

    try:
        _check_machine(store, expected, environment(device))
        train_pack(store, pack, device=device, rerun=rerun, on_progress=on_progress)
    except BaseException:
        return traceback.format_exc().strip()
    return None


def _check_machine(store: Store, expected: _Here, found: dict[str, Any]) -> None:
    """`ValueError` on a machine that does not share the store's folder, or would give other numbers."""
    name = socket.gethostname()
    if not expected.mark.exists():
        raise ValueError(
            f"worker {name} does not see {store.folder}: choose an --out on a file system that all workers share"
        )
    for key in sorted(found.keys() - {"commit"}):  # a result's commit is recorded with it
        if found[key] != expected.environment[key]:
            wanted = expected.environment[key]
            raise ValueError(f"worker {name} has {key} {found[key]}, expected {wanted}: install the same everywhere")
