"""Results worth keeping beside the code: a run's numbers, thinned to what its figure, tables and claims read."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pliant.report.stored import BOOKKEEPING, Columns, Stored, text
from pliant.results import Results
from pliant.run.files import read_json, write_bytes, write_json
from pliant.run.store import Store, plain


@dataclass(frozen=True)
class Kept:
    """Where a run was kept, and the bytes of its numbers before and after."""

    folder: Path
    before: int
    after: int


def keep(run: Stored, target: Path) -> Kept:
    """Writes a run into a store of kept results, from which `check`, `report` and `ledger` work as from any store.

    Of every arm and seed it keeps the rows that end a task and those in which anything was measured that the figure or
    a claim reads; of the columns those, and every metric of the network as a whole (`dead`, but not `dead/<site>`). No
    number is changed or rounded: the verdicts are compared before anything is written. A setting that names a file
    loses its folder.

    Raises:
        ValueError: where arms or seeds are missing, or where `target` has this run already, and whole.
    """
    settings = replace(run.settings, **{n: text(v) for n, v in asdict(run.settings).items() if isinstance(v, str)})
    store = Store(target, run.experiment, run.tier, settings)
    folder = store.folder
    there = read_json(folder / "run.json")
    if there is not None and not there.get("kept"):
        raise ValueError(f"{folder} is a run of its own, not one that was kept: keep into another folder")
    tables = _thinned(run)
    _compare(run, Results(tables))
    beside = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        after = _write(run, tables, beside)
        made = {"experiment": run.experiment.id, "tier": run.tier, "settings": plain(settings)}
        write_json(beside / "settings.json", (read_json(run.folder / "settings.json") or {}) | made)
        asked = read_json(run.folder / "run.json") or {}
        asked.pop("order", None)  # counts within one store
        write_json(beside / "run.json", asked | {"kept": True})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Kept(folder, sum((run.cell(*key) / "metrics.parquet").stat().st_size for key in tables), after)


def _thinned(run: Stored) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """The rows and columns to keep of every arm and seed."""
    if set(run.arms) >= set(run.setup.arms):
        run.checked()  # so that every column a claim reads has been read
        if run.experiment.sentences:
            run.experiment.sentences(run.results)
    shown = set(run.setup.columns())
    tables = {}
    for key, table in run.results.tables.items():
        assert isinstance(table, Columns)
        used = [name for name in table if (name in shown or name in table.read) and name not in BOOKKEEPING]
        rows = table["end"].astype(bool) | np.any([~np.isnan(table[name]) for name in used], axis=0)
        names = [name for name in table if "/" not in name or name in used]
        tables[key] = {name: table[name][rows] for name in names}
    return tables


def _compare(run: Stored, kept: Results) -> None:
    """Every claim says the same of what is kept, to the last bit."""
    if not set(run.arms) >= set(run.setup.arms):
        return
    for before in run.checked():
        after = before.claim.check(kept)
        if repr((after.effect, after.verdict, after.reason)) != repr((before.effect, before.verdict, before.reason)):
            raise ValueError(f"{before.claim.text!r} needs rows in which nothing it reads was measured: {run.folder}")


def _write(run: Stored, tables: dict[tuple[str, int], dict[str, np.ndarray]], folder: Path) -> int:
    """Parquet files and cells as a store has them; returns the bytes of the former."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    for (arm, seed), table in tables.items():
        columns = {name: pa.array(values, from_pandas=True) for name, values in table.items()}
        # float64 columns hold float32 results: split by byte, their empty halves compress to nothing
        split: Any = [name for name, values in columns.items() if pa.types.is_floating(values.type)]
        small = {"compression_level": 19, "use_dictionary": False, "write_statistics": False, "store_schema": False}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, compression="zstd", use_byte_stream_split=split, **small)
        content = buffer.getvalue()
        cell = folder / f"arm={arm}" / f"seed={seed}"
        cell.mkdir(parents=True)
        write_bytes(cell / "metrics.parquet", content)
        write_json(cell / "cell.json", run.cells[arm, seed] | {"sha256_metrics": hashlib.sha256(content).hexdigest()})
        total += len(content)
    return total
