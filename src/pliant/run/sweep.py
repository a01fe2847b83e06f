"""All packs of an experiment, over the cores of this machine."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty
from typing import Any, NamedTuple, Protocol, Self

from pliant.experiment import Setup
from pliant.run.memory import give_back, keep_freed
from pliant.run.store import Store, commit
from pliant.run.train import Interrupted, seconds_per_step, train

TOLD = 0.02  # seconds between two looks at whether to stop; a trial may be asked at every step
GRACE = 4.0  # seconds a worker has to write its checkpoint after Ctrl-C


class Pack(NamedTuple):
    """Seeds of one arm, trained as one population."""

    arm: str
    seeds: tuple[int, ...]


@dataclass
class Progress:
    """What a sweep has done so far; `steps` are those of each pack, `kept` counts packs that were there already."""

    steps: dict[Pack, int]
    kept: int = 0
    finished: int = 0
    running: dict[Pack, int] = field(default_factory=dict)
    failed: dict[Pack, str] = field(default_factory=dict)
    there: int = 0  # steps of the packs that are kept or finished

    @property
    def packs(self) -> int:
        """How many packs there are."""
        return len(self.steps)

    @property
    def total(self) -> int:
        """Steps of all packs."""
        return sum(self.steps.values())

    @property
    def done(self) -> int:
        """Steps of all packs that are taken."""
        return self.there + sum(self.running.values())

    def finish(self, pack: Pack) -> None:
        """Notes that a pack is stored."""
        self.finished += 1
        self.there += self.steps[pack]


class Engine(Protocol):
    """Where packs are trained; leaving its context ends those that still run, gently first."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: Any) -> None: ...

    def room(self) -> bool:
        """Whether it takes another pack now."""
        ...

    def busy(self) -> bool:
        """Whether packs were started that have not ended."""
        ...

    def start(self, pack: Pack) -> None:
        """Sees to it that the pack is trained."""
        ...

    def wait(self, progress: Progress) -> None:
        """Takes messages for a moment; notes what has ended."""
        ...


def plan(setup: Setup, arms: Sequence[str], num_seeds: int) -> list[Pack]:
    """The packs of seeds 0 .. `num_seeds` - 1, as many in each as the arm's trial trains together."""

    def packs(arm: str) -> Iterator[Pack]:
        size = setup.arms[arm].trial.together
        return (Pack(arm, tuple(range(i, min(i + size, num_seeds)))) for i in range(0, num_seeds, size))

    return [pack for arm in arms for pack in packs(arm)]


def sweep(
    store: Store,
    setup: Setup,
    arms: Sequence[str],
    num_seeds: int,
    *,
    device: str = "cpu",
    rerun: bool = False,
    engine: Callable[[Store, str, bool], Engine] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Trains what is missing of the arms and seeds: a process with one thread a pack, as many at once as cores.

    Another `engine`, made of the store, the device and `rerun`, trains the same packs elsewhere (`run/ray.py`).

    A pack that fails, or whose process is killed, leaves its error in the result and the others go on. Two sweeps in
    one store share the work. `rerun` trains anew what is there. Raises `Interrupted` after Ctrl-C or SIGTERM; then the
    same call goes on where it stopped.
    """
    store.prepare()
    packs = plan(setup, arms, num_seeds)
    kept = {} if rerun else {p: cell for p in packs if (cell := store.complete(p.arm, list(p.seeds))) is not None}
    _warn_of_other_commits(list(kept.values()))
    store.begin(arms, range(num_seeds), device)
    steps = {pack: setup.arms[pack.arm].trial.num_steps for pack in packs}
    progress = Progress(steps, kept=len(kept), there=sum(steps[pack] for pack in kept))
    on_progress(progress)
    todo = [p for p in packs if p not in kept]
    with _interruptible(), (engine or _Workers)(store, device, rerun) as running:
        while todo or running.busy():
            while todo and running.room():
                running.start(todo.pop(0))
            running.wait(progress)
            on_progress(progress)
    return progress


def estimate(setup: Setup, packs: Sequence[Pack], device: str = "cpu") -> float:
    """Seconds that the packs would take, from a few steps of each shape (compiled where it would be).

    A step of a refit is taken to be as long as one of training.
    """
    took = {}
    for arm, size in {(pack.arm, len(pack.seeds)) for pack in packs}:
        trial = setup.arms[arm].trial
        took[arm, size] = seconds_per_step(trial, range(size), device) * (trial.num_steps + trial.refits)
    workers = 1 if device != "cpu" else len(os.sched_getaffinity(0))
    each = [took[pack.arm, len(pack.seeds)] for pack in packs]
    return max([sum(each) / workers, *each], default=0.0)


class _Workers:
    """The processes that train packs; leaving the context ends them, gently first."""

    def __init__(self, store: Store, device: str, rerun: bool):
        self.store, self.device, self.rerun = store, device, rerun
        self.context = multiprocessing.get_context("spawn")
        self.queue, self.stop = self.context.Queue(), self.context.Event()
        self.processes: dict[Pack, Any] = {}
        self.most = 1 if device != "cpu" else len(os.sched_getaffinity(0))

    def __enter__(self) -> Self:
        return self

    def room(self) -> bool:
        return len(self.processes) < self.most

    def busy(self) -> bool:
        return bool(self.processes)

    def start(self, pack: Pack) -> None:
        arguments = (self.store, pack, self.device, self.rerun, self.queue, self.stop, os.getpid())
        process = self.context.Process(target=_work, args=arguments, daemon=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is the parent's business alone
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
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
                progress.running[pack] = what

    def __exit__(self, *_: Any) -> None:
        self.stop.set()
        deadline = time.monotonic() + GRACE
        for process in self.processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
        self.queue.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Interrupted`."""
    handlers = {s: signal.signal(s, _interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(*_: Any) -> None:
    raise Interrupted


def _warn_of_other_commits(cells: list[dict[str, Any]]) -> None:
    others = {cell["commit"] for cell in cells if cell["commit"] != commit()}
    if others:
        warnings.warn(
            f"results of another commit ({', '.join(sorted(others))}) are kept; --rerun makes them anew", stacklevel=3
        )


# -- in the workers ----------------------------------------------------------------------------------------------------


def _work(store: Store, pack: Pack, device: str, rerun: bool, queue: Any, stop: Any, parent: int) -> None:
    """Trains one pack in a process of its own, with one thread; ends with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    last = 0.0

    def on_progress(step: int) -> None:
        nonlocal last
        if stop.is_set() or os.getppid() != parent:
            raise Interrupted
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            queue.put((pack, step))

    try:
        train_pack(store, pack, device=device, rerun=rerun, on_progress=on_progress)
    except Interrupted:
        sys.exit(3)
    except BaseException:
        queue.put((pack, traceback.format_exc().strip()))
        sys.exit(1)


def train_pack(
    store: Store,
    pack: Pack,
    *,
    device: str = "cpu",
    rerun: bool = False,
    on_progress: Callable[[int], None] = lambda step: None,
) -> None:
    """Trains one pack and stores it, going on from its checkpoint; does nothing where another process has done it.

    For processes of its own: it sets the number of threads, and how memory is kept.
    """
    import torch

    from pliant.run.checkpoint import Checkpoint, conditions

    torch.set_num_threads(1)
    keep_freed()
    told, given_back = 0.0, time.monotonic()

    def between_steps(step: int) -> None:
        nonlocal told, given_back
        now = time.monotonic()
        if now - told > TOLD:
            on_progress(step)
            told = now
        if now - given_back > 5:
            give_back()  # 2 GB after ten minutes without this, 0.4 with it
            given_back = now

    seeds = list(pack.seeds)
    with store.writing(pack.arm, seeds, waiting=lambda: on_progress(0)) as path:
        if not rerun and store.complete(pack.arm, seeds) is not None:
            return
        checkpoint = Checkpoint(path, conditions(device, seeds))
        if rerun:
            checkpoint.discard()
        setup = store.experiment.setup(store.settings)
        start = time.perf_counter()
        seconds = float(os.environ.get("PLIANT_CHECKPOINT_SECONDS", "60"))
        trained = train(
            setup.arms[pack.arm].trial, seeds, device=device, checkpoint=checkpoint, every_seconds=seconds,
            on_progress=between_steps,
        )  # fmt: skip
        spent = {"mode": trained.mode, "threads": torch.get_num_threads(), "total_seconds": time.perf_counter() - start}
        store.write(pack.arm, trained.tables, {**spent, "commit": commit()})
        checkpoint.discard()
