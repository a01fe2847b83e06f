"""All packs of an experiment, over the cores of this machine or elsewhere."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple, Protocol, Self

from pliant.experiment import Setup
from pliant.run.cells import Facts
from pliant.run.identity import defines, definition, differences, edited, files
from pliant.run.progress import Pack, Progress, Taken, plan
from pliant.run.store import Store, commit, described
from pliant.run.train import Cost, Interrupted, cost
from pliant.run.workers import SIGNALS, Workers

PROCESS = 300 << 20  # bytes of a worker before it holds a pack: Python and torch


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
    one store share the work, and end as one run where each was asked for other arms. `rerun` trains anew what is there;
    `ValueError` where that is of another definition and `rerun` is not asked for. Raises `Interrupted` after Ctrl-C,
    SIGTERM or SIGHUP; then the same call goes on where it stopped.
    """
    store.prepare()
    packs = plan(setup, arms, num_seeds, first)
    there = {} if rerun else {p: cells for p in packs if (cells := _there(store, p))}
    _check_same(store, setup, there)
    kept = {pack: list(cells.values()) for pack, cells in there.items() if len(cells) == len(pack.seeds)}
    _warn_of_other_commits([cell for cells in kept.values() for cell in cells])
    seeds = range(first, first + num_seeds)
    whole = _whole(store, setup, arms, seeds)
    store.begin(whole, seeds, device)
    trials = {pack: setup.arms[pack.arm].trial for pack in packs}
    work = {pack: Taken(trial.num_steps, trial.refits) for pack, trial in trials.items()}
    progress = Progress(work, kept=len(kept), there=set(kept))
    on_progress(progress)
    todo = [p for p in packs if p not in kept]
    with _interruptible(), (engine or Workers)(store, device, rerun) as running:
        while todo or running.busy():
            while todo and running.room():
                running.start(todo.pop(0))
            running.wait(progress)
            on_progress(progress)
    if (described(store.folder)[1] or {}).get("arms") != [*whole]:  # another sweep asked for others meanwhile
        store.begin(_whole(store, setup, whole, seeds), seeds, device)
    return progress


class Estimate(NamedTuple):
    """What packs would take.

    Attributes:
        seconds: on this machine, all packs.
        alone: of all packs one after the other, as one worker of a cluster trains them.
        longest: of the longest pack.
        memory: bytes of the largest pack, in its process; on a GPU all but 0.3 GiB of it is there.
        disk: bytes of the largest pack's checkpoint, twice, as one is written beside the other, and of its replay.
    """

    seconds: float
    alone: float
    longest: float
    memory: int
    disk: int


def estimate(setup: Setup, packs: Sequence[Pack], device: str = "cpu") -> Estimate:
    """What the packs would take, from a few steps of each shape (compiled where it would be).

    A step of a refit is taken to be as long as one of training, and a step of one trial as long as that of another that
    differs in its environment alone: the games of Atari are alike.
    """
    costs: dict[Any, Cost] = {}
    took, held = [], [Cost(0.0, 0, 0)]
    for pack in packs:
        trial = setup.arms[pack.arm].trial
        rest = {each.name: getattr(trial, each.name) for each in fields(trial) if each.name != "env"}  # type: ignore[arg-type]
        shape = type(trial), len(pack.seeds), repr(rest)
        if shape not in costs:
            costs[shape] = cost(trial, range(len(pack.seeds)), device)
        took.append(costs[shape].seconds * (trial.num_steps + trial.refits))
        held.append(costs[shape])
    workers = 1 if device != "cpu" else len(os.sched_getaffinity(0))
    return Estimate(
        max([sum(took) / workers, *took], default=0.0),
        sum(took),
        max(took, default=0.0),
        PROCESS + max(each.state for each in held),
        max(2 * each.state - each.replay for each in held),
    )


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


def _whole(store: Store, setup: Setup, arms: Sequence[str], seeds: Sequence[int]) -> Sequence[str]:
    """The arms, and others that the run has already, with all of these seeds and as they are defined now."""
    before = described(store.folder)[1] or {}
    found = []
    for arm in (arm for arm in setup.arms if arm in before.get("arms", ()) and arm not in arms):
        cells, here = _there(store, Pack(arm, tuple(seeds))), _identity(setup, arm)
        if len(cells) == len(seeds) and not any(_other(cell, *here) for cell in cells.values()):
            found.append(arm)
    return [arm for arm in setup.arms if arm in {*arms, *found}] if found else arms


def _identity(setup: Setup, arm: str) -> tuple[dict[str, str], dict[str, str]]:
    """What is trained as an arm, and from which files."""
    return definition(setup.arms[arm]), files(setup.arms[arm].trial)


def _other(cell: dict[str, Any], defined: dict[str, str], read: dict[str, str]) -> list[str]:
    """In what a cell is of another definition."""
    told = differences(cell["definition"], defined) if isinstance(cell.get("definition"), dict) else []
    return told + [f"{name} is another file" for name in edited(cell.get("files"), read) if defines(name)]


def _check_same(store: Store, setup: Setup, there: dict[Pack, dict[int, Facts]]) -> None:
    """`ValueError` where cells were trained as something else than their arm is, or from other arrays.

    A study that was edited is warned of: that may have been its claims. Cells of before say nothing.
    """
    here = {arm: _identity(setup, arm) for arm in {pack.arm for pack in there}}
    studies = set()
    for pack, cells in there.items():
        for seed, cell in cells.items():
            studies |= {name for name in edited(cell.get("files"), here[pack.arm][1]) if not defines(name)}
            if told := _other(cell, *here[pack.arm]):
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
