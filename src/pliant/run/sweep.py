"""All packs of an experiment, over the cores of this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty
from typing import Any, NamedTuple, Protocol, Self

from pliant.experiment import Setup
from pliant.run.cells import Facts
from pliant.run.identity import code, defines, definition, differences, edited, files
from pliant.run.memory import give_back, keep_freed
from pliant.run.store import Store, commit
from pliant.run.train import Interrupted, seconds_per_step, train
from pliant.trials.base import refitted

GRACE = 60.0  # seconds a worker has to end its step and write its checkpoint; a second Ctrl-C ends it at once
CHECK = 0.05  # seconds between two looks at whether to stop, if steps are shorter
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that ask for the end
IMPORTED = [  # before packs are forked: what nearly all of them need, so that none of them waits for it
    *("torch._dynamo", "scipy.linalg", "pyarrow.parquet", "pyarrow.compute"),
    *("pliant.run.train", "pliant.run.checkpoint", "pliant.run.sweep"),
]
STOPPED = 3  # exit code of a worker that kept what it had done


class Pack(NamedTuple):
    """Seeds of one arm, trained as one population."""

    arm: str
    seeds: tuple[int, ...]


class Taken(NamedTuple):
    """Optimizer steps a seed of one pack, or the seconds that they took: of training, and of refits beside it."""

    steps: float = 0.0
    refits: float = 0.0


@dataclass
class Progress:
    """What a sweep has done so far.

    Args:
        work: the steps of each pack.
        running: how far each pack is that is under way.
        timed: the steps of each pack that were timed, and their seconds.
        kept: how many packs were there already.
    """

    work: dict[Pack, Taken]
    kept: int = 0
    finished: int = 0
    running: dict[Pack, Taken] = field(default_factory=dict)
    timed: dict[Pack, tuple[Taken, Taken]] = field(default_factory=dict)
    failed: dict[Pack, str] = field(default_factory=dict)
    there: set[Pack] = field(default_factory=set)  # kept or finished

    @property
    def packs(self) -> int:
        """How many packs there are."""
        return len(self.work)

    @property
    def total(self) -> float:
        """Steps of all packs, and of their refits."""
        return sum(sum(work) for work in self.work.values())

    @property
    def done(self) -> float:
        """Steps and refits of all packs that are taken."""
        return sum(sum(self.work[pack]) for pack in self.there) + sum(sum(taken) for taken in self.running.values())

    def finish(self, pack: Pack) -> None:
        """Notes that a pack is stored."""
        self.finished += 1
        self.there.add(pack)

    def tell(self, pack: Pack, told: tuple[Taken, Taken, Taken]) -> None:
        """Notes how far a pack is, which steps were timed, and their seconds."""
        self.running[pack] = told[0]
        self.timed[pack] = told[1], told[2]

    def left(self) -> float | None:
        """Seconds until all is done; None before anything was timed.

        A step of training and one of a refit take what they took so far, and each other's time where none was timed.
        """
        each = []
        for kind in (0, 1):
            seconds = sum(took[kind] for _, took in self.timed.values())
            steps = sum(steps[kind] for steps, _ in self.timed.values())
            each.append(seconds / steps if steps else None)
        known = [rate for rate in each if rate is not None]
        if not known:
            return None
        rates = [known[0] if rate is None else rate for rate in each]
        waiting = [pack for pack in self.work if pack not in self.there and pack not in self.failed]
        seconds = []
        for pack in waiting:
            rest = zip(self.work[pack], self.running.get(pack, Taken()), rates, strict=True)
            seconds.append(sum(max(0.0, whole - taken) * rate for whole, taken, rate in rest))
        return max([sum(seconds) / max(1, len(self.running)), *seconds], default=0.0)


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


def plan(setup: Setup, arms: Sequence[str], num_seeds: int, first: int = 0) -> list[Pack]:
    """The packs of `num_seeds` seeds from `first` on, as many in each as the arm's trial trains together."""
    seeds = range(first, first + num_seeds)

    def packs(arm: str) -> Iterator[Pack]:
        size = setup.arms[arm].trial.together
        return (Pack(arm, tuple(seeds[i : i + size])) for i in range(0, num_seeds, size))

    return [pack for arm in arms for pack in packs(arm)]


def sweep(
    store: Store,
    setup: Setup,
    arms: Sequence[str],
    num_seeds: int,
    *,
    first: int = 0,
    device: str = "cpu",
    rerun: bool = False,
    engine: Callable[[Store, str, bool], Engine] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Trains what is missing of the arms and seeds: a process with one thread a pack, as many at once as cores.

    Another `engine`, made of the store, the device and `rerun`, trains the same packs elsewhere (`run/ray.py`).

    A pack that fails, or whose process is killed, leaves its error in the result and the others go on. Two sweeps in
    one store share the work. `rerun` trains anew what is there; `ValueError` where that is of another definition and
    `rerun` is not asked for. Raises `Interrupted` after Ctrl-C, SIGTERM or SIGHUP; then the same call goes on where it
    stopped.
    """
    store.prepare()
    packs = plan(setup, arms, num_seeds, first)
    there = {} if rerun else {p: cells for p in packs if (cells := _there(store, p))}
    _check_same(store, setup, there)
    kept = {pack: list(cells.values()) for pack, cells in there.items() if len(cells) == len(pack.seeds)}
    _warn_of_other_commits([cell for cells in kept.values() for cell in cells])
    store.begin(arms, range(first, first + num_seeds), device)
    trials = {pack: setup.arms[pack.arm].trial for pack in packs}
    work = {pack: Taken(trial.num_steps, trial.refits) for pack, trial in trials.items()}
    progress = Progress(work, kept=len(kept), there=set(kept))
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


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP raise `Interrupted`; not one that is ignored, as `nohup` does."""
    handlers = {s: signal.signal(s, _interrupt) for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(*_: Any) -> None:
    raise Interrupted


def _there(store: Store, pack: Pack) -> dict[int, Facts]:
    """The seeds of a pack that are there, and how they were made."""
    return {seed: found[0] for seed in pack.seeds if (found := store.complete(pack.arm, [seed])) is not None}


def _check_same(store: Store, setup: Setup, there: dict[Pack, dict[int, Facts]]) -> None:
    """`ValueError` where cells were trained as something else than their arm is, or from other arrays.

    A study that was edited is warned of: that may have been its claims. Cells of before say nothing.
    """
    here = {arm: (definition(setup.arms[arm]), files(setup.arms[arm].trial)) for arm in {pack.arm for pack in there}}
    studies = set()
    for pack, cells in there.items():
        defined, read = here[pack.arm]
        for seed, cell in cells.items():
            told = differences(cell["definition"], defined) if isinstance(cell.get("definition"), dict) else []
            other = edited(cell.get("files"), read)
            told += [f"{name} is another file" for name in other if defines(name)]
            studies |= {name for name in other if not defines(name)}
            if told:
                again = store.command([pack.arm], max(pack.seeds) + 1, "--rerun")
                raise ValueError(
                    f"arm {pack.arm} seed {seed} in {store.folder} is of another definition ({'; '.join(told)}): undo "
                    f"that edit, take another --out, or {again}"
                )
    if studies:
        names = ", ".join(sorted(studies))
        warnings.warn(
            f"results are kept from before {names} was edited; if that changes what is trained, --rerun makes them "
            "anew",
            stacklevel=3,
        )


def _warn_of_other_commits(cells: list[dict[str, Any]]) -> None:
    others = {cell["commit"] for cell in cells if cell["commit"] != commit()}
    if others:
        warnings.warn(
            f"results of another commit ({', '.join(sorted(others))}) are kept; --rerun makes them anew", stacklevel=3
        )


# -- in the workers ----------------------------------------------------------------------------------------------------


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


def train_pack(
    store: Store,
    pack: Pack,
    *,
    device: str = "cpu",
    rerun: bool = False,
    on_progress: Callable[[tuple[Taken, Taken, Taken]], None] = lambda taken: None,
) -> None:
    """Trains one pack and stores it, going on from its checkpoint; does nothing where another process has done it.

    `on_progress` is told how far it is, which steps were timed, and their seconds (see `Progress.tell`).

    For processes of its own: it sets the number of threads, and how memory is kept.
    """
    import torch

    from pliant.run.checkpoint import SECONDS, Checkpoint, Pace, conditions

    torch.set_num_threads(1)
    keep_freed()
    looked = given_back = time.monotonic()
    clock: _Clock | None = None

    def between_steps(step: int) -> None:
        nonlocal looked, given_back
        assert clock is not None
        clock.step(step)
        now = time.monotonic()
        if now - looked < CHECK:
            return
        looked = now
        on_progress(clock.told())
        if now - given_back > 5:
            give_back()  # 2 GB after ten minutes without this, 0.4 with it
            given_back = now

    seeds = list(pack.seeds)
    with store.writing(pack.arm, seeds, waiting=lambda: on_progress((Taken(), Taken(), Taken()))) as path:
        if not rerun and store.complete(pack.arm, seeds) is not None:
            return
        setup = store.experiment.setup(store.settings)
        arm = setup.arms[pack.arm]
        clock = _Clock(Taken(arm.trial.num_steps, arm.trial.refits))
        trained, read = definition(arm), files(arm.trial)
        checkpoint = Checkpoint(path, conditions(device, seeds, trained, read, code(arm.trial)))
        if rerun:
            checkpoint.discard()
        start = time.perf_counter()
        pace = Pace(float(os.environ.get("PLIANT_CHECKPOINT_SECONDS", SECONDS)))

        def between_refits(steps: float) -> None:
            assert clock is not None
            clock.refit(steps)
            on_progress(clock.told())

        refitted.set(between_refits)
        done = train(arm.trial, seeds, device=device, checkpoint=checkpoint, pace=pace, on_progress=between_steps)
        spent = {"mode": done.mode, "threads": torch.get_num_threads(), "total_seconds": time.perf_counter() - start}
        made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}
        made |= {"definition": trained, "files": read}
        store.write(pack.arm, done.tables, {**spent, **made}, rerun=rerun)
        checkpoint.discard()


class _Clock:
    """How far a pack is, and how long that took; making everything, up to the end of the first step, is not timed."""

    def __init__(self, work: Taken):
        self.work = work
        self.taken, self.timed, self.seconds = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
        self.begun, self.last = False, 0.0

    def step(self, step: int) -> None:
        """So many steps are taken; at first those before the checkpoint, with their share of the refits."""
        if self.begun:
            self._add(0, step - self.taken[0])
        else:
            self.begun, self.taken = True, [step, self.work.refits * step / self.work.steps]

    def refit(self, steps: float) -> None:
        """So many more steps of refits are taken."""
        self._add(1, steps)

    def told(self) -> tuple[Taken, Taken, Taken]:
        """For `Progress.tell`."""
        return Taken(*self.taken), Taken(*self.timed), Taken(*self.seconds)

    def _add(self, kind: int, steps: float) -> None:
        now, last = time.monotonic(), self.last
        self.taken[kind] += steps
        if last:
            self.timed[kind] += steps
            self.seconds[kind] += now - last
        self.last = now
