"""Results worth keeping beside the code: a run's numbers, thinned to what its figure, tables and claims read."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pliant.report.stored import Stored, opened, text
from pliant.results import Results
from pliant.run.cells import Columns, Facts, encoded
from pliant.run.files import read_json, write_bytes, write_json
from pliant.run.names import BOOKKEEPING, METRICS, RUN
from pliant.run.store import SCHEMA, Store, plain

Tables = dict[tuple[str, int], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Kept:
    """Where a run was kept.

    Attributes:
        folder: of the kept run.
        before: bytes of the run's numbers.
        after: bytes of the kept ones, of all arms.
        stayed: arms that were kept there before and that the run does not have.
        dropped: those of them that this version trains as something else, or not at all: they are gone.
    """

    folder: Path
    before: int
    after: int
    stayed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def keep(run: Stored, target: Path) -> Kept:
    """Writes a run into a store of kept results, from which `check`, `report` and `ledger` work as from any store.

    It becomes two files: `metrics.parquet`, with columns `arm` and `seed`, and `run.json`, which says how each was
    made. Of every arm and seed it keeps the rows that end a task and those in which anything was measured that the
    figure or a claim reads; of the columns those, and every metric of the network as a whole (`dead`, but not
    `dead/<site>`). No number is changed or rounded: the verdicts are compared before anything is written. A setting
    that names a file loses its folder.

    Of arms that are kept there already, those of the run are replaced. The others stay, so that an experiment can be
    run and kept some arms at a time, on any machine.

    Raises:
        ValueError: where arms or seeds are missing, where `target` has this run already, and whole, or where arms that
            would stay have other seeds.
    """
    settings = replace(run.settings, **{n: text(v) for n, v in asdict(run.settings).items() if isinstance(v, str)})
    folder = Store(target, run.experiment, run.tier, settings).folder
    there = read_json(folder / RUN)
    if there is not None and not there.get("kept"):
        raise ValueError(f"{folder} is a run of its own, not one that was kept: keep into another folder")
    tables, made = _thinned(run), dict(run.cells)
    _compare(run, run.comparable(Results(tables)))
    stayed, dropped = (), ()
    if there is not None:
        earlier = opened(folder, {run.experiment.id: run.experiment})
        stayed, dropped = _others(run, earlier)
        others = [(arm, seed) for arm in stayed for seed in run.seeds]
        tables |= {key: dict(earlier.results.tables[key]) for key in others}
        made |= {key: earlier.cells[key] for key in others}
    content = encoded(_joined(tables), small=True)
    before = sum(path.stat().st_size for path in run.folder.rglob(METRICS))
    about = {name: value for name, value in run.run.items() if name not in ("order", "cells", "sha256_metrics")}
    about |= {"schema": SCHEMA, "pliant": version("pliant"), "kept": True, "cells": _cells(made, tables)}
    about["arms"] = [*run.arms, *stayed]
    about |= {"experiment": run.experiment.id, "tier": run.tier, "settings": plain(settings)}
    about["sha256_metrics"] = hashlib.sha256(content).hexdigest()
    beside = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        write_bytes(beside / METRICS, content)
        write_json(beside / RUN, about)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Kept(folder, before, len(content), stayed, dropped)


def _others(run: Stored, earlier: Stored) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The arms of a kept run that another one lacks: those that stay, and those that are of another definition."""
    others = [arm for arm in earlier.arms if arm not in run.arms]
    stayed = tuple(arm for arm in others if arm not in earlier.changed)
    if stayed and earlier.seeds != run.seeds:
        raise ValueError(
            f"{earlier.folder} keeps other arms ({', '.join(stayed):.80}) with seeds "
            f"{', '.join(map(str, earlier.seeds))}, and the run has seeds {', '.join(map(str, run.seeds))}: run the "
            "same seeds, or keep it elsewhere with --to"
        )
    return stayed, tuple(arm for arm in others if arm in earlier.changed)


def _thinned(run: Stored) -> Tables:
    """The rows and columns to keep of every arm and seed."""
    for plot in run.setup.plots:
        plot.grid(run.results, run.setup.look)
    _ = run.checked(), run.sentences  # so that every column they read has been read
    shown = set(run.setup.columns())
    tables = {}
    for key, table in run.results.tables.items():
        assert isinstance(table, Columns)
        numbers = [name for name in table if name not in BOOKKEEPING]
        used = [name for name in numbers if name in shown or name in table.read]
        used = used or [name for name in numbers if "/" not in name]  # of an arm that nothing reads
        rows = np.any([_measured(table[name]) for name in used], axis=0)
        rows |= table["end"].astype(bool) if "end" in table else False
        names = [name for name in table if "/" not in name or name in used]
        tables[key] = {name: table[name][rows] for name in names}
    return tables


def _measured(values: np.ndarray) -> np.ndarray:
    """The rows in which anything was measured."""
    return np.any(~np.isnan(values.reshape(len(values), -1)), axis=1)


def _compare(run: Stored, kept: Results) -> None:
    """Every claim says the same of what is kept, to the last bit."""
    for before in run.checked():
        after = before.claim.check(kept)
        if repr((after.effect, after.verdict, after.reason)) != repr((before.effect, before.verdict, before.reason)):
            raise ValueError(f"{before.claim.text!r} needs rows in which nothing it reads was measured: {run.folder}")


def _joined(tables: Tables) -> dict[str, np.ndarray]:
    """All tables below each other, NaN where one lacks a column."""
    lengths = {key: len(table["step"]) for key, table in tables.items()}
    joined = {
        "arm": np.array([arm for (arm, _), rows in lengths.items() for _ in range(rows)]),
        "seed": np.array([seed for (_, seed), rows in lengths.items() for _ in range(rows)]),
    }
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        shape = next(table[name].shape[1:] for table in tables.values() if name in table)
        parts = [table.get(name, np.full((lengths[key], *shape), np.nan)) for key, table in tables.items()]
        joined[name] = np.concatenate(parts)
    return joined


def _cells(cells: Mapping[tuple[str, int], Facts], tables: Tables) -> list[dict[str, Any]]:
    """How each arm and seed was made and how many rows it has, those made together as one."""
    every = {name for table in tables.values() for name in table}
    found: list[dict[str, Any]] = []
    for (arm, seed), table in tables.items():
        lacks = ["arm", "seed", *sorted(every - set(table))]
        made = {name: value for name, value in cells[arm, seed].items() if name not in ("sha256_metrics", "schema")}
        about: dict[str, Any] = {"arm": arm, "lacks": lacks, **made}
        if not found or _without(found[-1], ("seeds", "rows")) != about:
            found.append(about | {"seeds": [], "rows": []})
        found[-1]["seeds"].append(seed)
        found[-1]["rows"].append(len(table["step"]))
    return found


def _without(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in names}
