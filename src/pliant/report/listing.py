"""What runs there are: a listing that reads nothing but JSON, for a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pliant.run.files import LARGEST
from pliant.run.names import CELL, METRICS, RUN, SETTINGS, asked
from pliant.terminal import filled, piped

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Listed:
    """A run's folder as it is found, `path` relative to the store; `done` counts complete cells (an arm and a seed).

    One that is `kept` is a copy, made by `pliant keep`.
    """

    path: str
    experiment: str
    tier: str
    settings: dict[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    done: int = 0
    complete_seeds: int = 0
    commit: str = ""
    problem: str = ""
    kept: bool = False


def runs(root: Path) -> list[Listed]:
    """Every run under a store, by experiment, tier and folder; damaged ones with their `problem`.

    A folder with a settings.json is a run; what lies in one is not looked through, nor hidden folders, nor links.
    Checksums are not verified and no numbers are read: `check` and `report` do that.
    """
    found, waiting, above = [], [""], str(root)
    while waiting:
        path = waiting.pop()
        try:
            folder = os.open(f"{above}/{path}", os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            run = _listed(folder, path or ".")
            found += [run] if run else []
            waiting += [] if run else [f"{path}/{name}".lstrip("/") for name in _folders(folder)]
        finally:
            os.close(folder)
    return sorted(found, key=lambda run: (run.experiment, run.tier, run.path))


def apart(listed: Sequence[Listed]) -> list[dict[str, str]]:
    """For each run, the settings by which runs of its experiment and tier differ from one another, as text.

    >>> [apart([Listed("a", "e", "t", {"lr": 0.1, "n": 2}), Listed("b", "e", "t", {"lr": 0.2, "n": 2})])[1]]
    [{'lr': '0.2'}]
    """
    groups: dict[tuple[str, str], list[Listed]] = {}
    for run in listed:
        groups.setdefault((run.experiment, run.tier), []).append(run)
    differing: dict[tuple[str, str], list[str]] = {}
    for key, group in groups.items():
        names, first = dict.fromkeys(name for run in group for name in run.settings), group[0].settings
        differing[key] = [n for n in names if any(run.settings.get(n) != first.get(n) for run in group)]
    return [
        {n: _text(run.settings[n]) for n in differing[run.experiment, run.tier] if n in run.settings} for run in listed
    ]


def print_runs(console: Console, listed: Sequence[Listed]) -> None:
    """Prints a line a run, more where settings do not fit, and how many there are; folders are never broken."""
    from rich.segment import Segment, Segments  # a rich.table.Table takes five seconds for 10,000 rows
    from rich.style import Style

    yellow, bold = Style(color="yellow"), Style(bold=True)
    told = [" ".join(f"{name}={value}" for name, value in differs.items()) for differs in apart(listed)]
    problems = [run.problem for run in listed]
    seeds, heading = [progress(run) for run in listed], "seeds"
    last = max(map(len, [heading, *seeds]))
    first, wide = max([3, *(len(run.path) for run in listed)]), max([20, *(len(text) for text in told + problems)])
    left = console.width - first - last - len(" " * 3 + "arms")
    second = wide if piped(console) else max(20, min(left, wide))
    head = f"{'run':<{first}} {'settings that differ':<{second}} {heading:>{last}} arms\n"
    shown = [Segment(head, bold)]
    for run, differs, done in zip(listed, told, seeds, strict=True):
        complete = run.seeds and run.complete_seeds == len(run.seeds)
        said = filled(run.problem or differs, second) or [""]
        shown += [
            Segment(f"{run.path:<{first}} {said[0]:<{second}} "),
            Segment(f"{done:>{last}}", None if complete else yellow),
            Segment(f" {len(run.arms):>4}\n"),
        ]
        shown += [Segment(f"{'':<{first}} {more}\n") for more in said[1:]]
    console.print(Segments(shown), end="", crop=False)
    experiments = len({run.experiment for run in listed})
    console.print(f"{len(listed)} runs of {experiments} experiments", style="dim")


def progress(run: Listed) -> str:
    """Seeds that every arm has, of those that were asked for.

    >>> progress(Listed("a", "e", "t", arms=("x", "y"), seeds=(0, 1, 2), done=5, complete_seeds=2))
    '2 of 3'
    """
    if not run.seeds:
        return "\N{EN DASH}"
    return f"{run.complete_seeds} of {len(run.seeds)}" if run.complete_seeds < len(run.seeds) else str(len(run.seeds))


def _folders(folder: int) -> list[str]:
    """The folders in an open folder, less hidden ones and links."""
    with os.scandir(folder) as entries:
        return [e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]


def _listed(folder: int, path: str) -> Listed | None:
    """The run in an open folder, if it is one: few system calls, which is what 10,000 runs take time for."""
    experiment, _, name = path.rpartition("/")
    run = None
    try:
        settings = _read(folder, SETTINGS)
        if settings is None:
            settings = run = _read(folder, RUN)
        if settings is None:
            return None
        if run is not None and "settings" not in run:
            return Listed(path, experiment, name.partition("-")[0], problem=f"{SETTINGS} is not there")
        id, tier, values = settings["experiment"], settings["tier"], settings["settings"]
        if not (isinstance(id, str) and isinstance(tier, str) and isinstance(values, dict)):
            raise ValueError("expected an experiment, a tier and settings")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Listed(path, experiment, name.partition("-")[0], problem=f"{RUN if run else SETTINGS} is damaged")
    about = (path, id, tier, values)
    try:
        run = run or _read(folder, RUN)
        if run is None:
            return Listed(*about, problem="not started")
        arms, seeds = asked(run)
        commit = run["environment"].get("commit", "")
        if "cells" in run:
            there = {(cell["arm"], seed) for cell in run["cells"] for seed in cell["seeds"]}
            each = [sum((arm, seed) in there for arm in arms) for seed in seeds]
        else:
            each = [sum(all(_there(folder, file) for file in cell) for cell in those) for those in _files(arms, seeds)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Listed(*about, problem=f"{RUN} is damaged")
    return Listed(*about, arms, seeds, sum(each), each.count(len(arms)), str(commit), kept="cells" in run)


@lru_cache(maxsize=64)
def _files(arms: tuple[str, ...], seeds: tuple[int, ...]) -> list[list[tuple[str, str]]]:
    """For each seed, the files that each of its arms has when it is complete."""
    return [[(f"arm={arm}/seed={seed}/{CELL}", f"arm={arm}/seed={seed}/{METRICS}") for arm in arms] for seed in seeds]


def _there(folder: int, file: str) -> bool:
    return os.access(file, os.F_OK, dir_fd=folder)


def _read(folder: int, name: str) -> Any:
    """What a small JSON file in an open folder holds, None where there is none; a pipe is empty, not waited for."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        content = part = os.read(file, 1 << 16)
        while part and len(content) < LARGEST:
            part = os.read(file, 1 << 20)
            content += part
    finally:
        os.close(file)
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("expected an object")
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return PurePath(value).name if isinstance(value, str) and value.startswith("/") else str(value)
