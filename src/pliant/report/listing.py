"""What runs there are: a listing that reads nothing but JSON, for a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Listed:
    """A run's folder as it is found, `path` relative to the store; `done` counts complete cells (an arm and a seed)."""

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


def runs(root: Path) -> list[Listed]:
    """Every run under a store, by experiment, tier and folder; damaged ones with their `problem`.

    Checksums are not verified and no numbers are read: `check` and `report` do that.
    """
    found = [_listed(root, folder) for folder in _folders(str(root))]
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
    """Prints one line a run, and how many there are."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for heading, justify in (("run", "left"), ("settings that differ", "left"), ("seeds", "right"), ("arms", "right")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for run, differs in zip(listed, apart(listed), strict=True):
        settings = " ".join(f"{name}={value}" for name, value in differs.items())
        seeds, style = progress(run), "" if run.seeds and run.complete_seeds == len(run.seeds) else "yellow"
        table.add_row(Text(run.path), Text(run.problem or settings), Text(seeds, style), Text(str(len(run.arms))))
    console.print(table)
    experiments = len({run.experiment for run in listed})
    console.print(Text(f"{len(listed)} runs of {experiments} experiments", "dim"))


def progress(run: Listed) -> str:
    """Seeds that every arm has, of those that were asked for.

    >>> progress(Listed("a", "e", "t", arms=("x", "y"), seeds=(0, 1, 2), done=5, complete_seeds=2))
    '2 of 3'
    """
    if not run.seeds:
        return "\N{EN DASH}"
    return f"{run.complete_seeds} of {len(run.seeds)}" if run.complete_seeds < len(run.seeds) else str(len(run.seeds))


def _folders(root: str) -> Iterator[str]:
    """Folders with a settings.json; nothing below one is looked at, nor hidden folders, nor links."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                inside = list(entries)
        except OSError:
            continue
        if any(entry.name == "settings.json" for entry in inside):
            yield folder
            continue
        waiting += [e.path for e in inside if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]


def _listed(root: Path, folder: str) -> Listed:
    path = os.path.relpath(folder, root).replace(os.sep, "/")
    experiment, _, name = path.rpartition("/")
    try:
        with open(f"{folder}/settings.json", "rb") as file:
            kept = json.load(file)
        about = (path, kept["experiment"], kept["tier"], kept["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return Listed(path, experiment, name.partition("-")[0], problem="settings.json is damaged")
    try:
        with open(f"{folder}/run.json", "rb") as file:
            run = json.load(file)
        arms, seeds, commit = run["arms"], run["seeds"], run["environment"].get("commit", "")
    except FileNotFoundError:
        return Listed(*about, problem="not started")
    except (OSError, ValueError, KeyError, TypeError):
        return Listed(*about, problem="run.json is damaged")
    there = os.F_OK  # os.access: half the time of os.path.exists, which matters for 10,000 runs
    each = [sum([os.access(f"{folder}/arm={a}/seed={seed}/cell.json", there) for a in arms]) for seed in seeds]
    complete = sum(count == len(arms) for count in each)
    return Listed(*about, tuple(arms), tuple(seeds), sum(each), complete, commit)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return PurePath(value).name if isinstance(value, str) and value.startswith("/") else str(value)
