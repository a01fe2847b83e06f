"""How the files of a run are called, and which names of arms and seeds are believed; imports nothing slow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS, RUN, CELL, METRICS = "settings.json", "run.json", "cell.json", "metrics.parquet"
BOOKKEEPING = ("step", "task", "end", "elapsed_seconds", "diverged_at")  # columns that are no metrics
RENAMED = {  # columns of runs that were stored before mechanisms had one name everywhere
    "lost/norm": "lost/norm growth",
    "lost/head": "lost/output layer",
    "lost/optimizer": "lost/optimizer state",
}
MOST_CELLS = 1 << 20
LONGEST = 200  # bytes of an arm's name; with what stands before it a file system takes 255


def asked(run: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The arms and seeds that a run.json names; `ValueError` unless it names some, each once."""
    arms, seeds = run.get("arms"), run.get("seeds")
    if not (isinstance(arms, list) and isinstance(seeds, list) and arms and seeds):
        raise ValueError(f"expected lists of arms and seeds, got {arms!r:.40} and {seeds!r:.40}")
    found = tuple(map(named, arms)), tuple(map(natural, seeds))
    if len(set(found[0])) < len(arms) or len(set(found[1])) < len(seeds) or len(arms) * len(seeds) > MOST_CELLS:
        raise ValueError(f"expected arms and seeds, each once, got {arms!r:.40} and {seeds!r:.40}")
    return found


def named(arm: Any) -> str:
    """The name of an arm, which is a folder's, too; `ValueError` for one that would lead elsewhere, or is too long."""
    if not isinstance(arm, str) or not arm or any(sign in arm for sign in "/\\\0"):
        raise ValueError(f"expected the name of an arm, without slashes, got {arm!r:.80}")
    if len(arm.encode("utf-8", "surrogatepass")) > LONGEST:
        raise ValueError(f"expected the name of an arm, of at most {LONGEST} bytes, got {arm!r:.80}")
    return arm


def natural(value: Any) -> int:
    """A whole number from 0 on; `ValueError` for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a whole number from 0 on, got {value!r:.80}")
    return value
