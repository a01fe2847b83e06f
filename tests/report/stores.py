"""Stores on disk, with the hand-made experiment's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pliant.experiment import Experiment
from pliant.report.stored import Stored, opened
from pliant.results import Results
from pliant.run.files import write_json
from pliant.run.identity import definition
from pliant.run.store import Store
from tests.report.synthetic import EXPERIMENT, RUN, Settings, results

KNOWN = {EXPERIMENT.id: replace(EXPERIMENT, tiers={"smoke": Settings(), "laptop": Settings()})}


def written(
    root: Path,
    settings: Settings | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    arms: Sequence[str] = ("none", "l2"),
    missing: Sequence[tuple[str, int]] = (),
    made: Results | None = None,
    tier: str = "laptop",
    experiment: Experiment = KNOWN["made/up"],
    recorded: bool = False,
    dated: str = "",
) -> Path:
    """Writes a run, its `missing` cells left out; returns its folder."""
    store = Store(root, experiment, tier, settings or Settings())
    made = made or results(seeds=max(seeds) + 1)
    store.prepare()
    write_json(store.folder / "run.json", RUN | {"arms": list(arms), "seeds": list(seeds)})
    for arm in arms:
        tables: dict[int, dict[str, np.ndarray]] = {
            seed: dict(made.tables[arm, seed]) for seed in seeds if (arm, seed) not in missing
        }
        how: dict[str, Any] = {"mode": "vmap", "threads": 1, "total_seconds": 1.0, "commit": "abc1234"}
        how |= {"definition": definition(experiment.setup(store.settings).arms[arm])} if recorded else {}
        how |= {"date": dated} if dated else {}
        store.write(arm, tables, how)
    return store.folder


def run(root: Path, *arguments: Any, **options: Any) -> Stored:
    """Writes a run and opens it."""
    experiment = options.get("experiment", KNOWN["made/up"])
    return opened(written(root, *arguments, **options), {experiment.id: experiment})


def unwritten(
    root: Path,
    made: Results,
    settings: Settings | None = None,
    *,
    experiment: Experiment = EXPERIMENT,
    asked: dict[str, Any] | None = None,
    cells: dict[tuple[str, int], dict[str, Any]] | None = None,
) -> Stored:
    """A run with these numbers that lies nowhere."""
    store = Store(root, experiment, "laptop", settings or Settings())
    run = Stored(store.folder, experiment, "laptop", store.settings, RUN | {"arms": made.arms} | (asked or {}))
    run.__dict__.update(results=made, cells=cells or {})
    return run
