"""How each arm and seed of a run was made, and its numbers: the one reader of stored runs.

A run that trains has a Parquet file and a cell.json for every arm and seed. One that was kept has a single Parquet file
beside a single run.json, which says which rows are which arm's and seed's. Both may come from somebody else: what they
hold is checked before it is believed.
"""

from __future__ import annotations

import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pliant.run.columns import SHAPE, arrow, numbers
from pliant.run.files import read_bytes, read_json
from pliant.run.names import CELL, METRICS, RENAMED, RUN, named, natural
from pliant.words import first_line

if TYPE_CHECKING:  # takes a third of a second
    pass

NEEDED = ("step", "diverged_at")
MOST_VALUES = 1 << 27  # of a column: a gigabyte

Facts = dict[str, Any]
Cell = tuple[str, int]


class File:
    """A Parquet file in memory; each column is read when something first asks for it."""

    def __init__(self, path: Path, digest: Any):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            content = read_bytes(path)
            if sha256(content).hexdigest() != digest:
                raise ValueError("its checksum does not fit")
            self.file = pq.ParquetFile(pa.BufferReader(content))
            self.fields: dict[str, Any] = {RENAMED.get(f.name, str(f.name)): f for f in self.file.schema_arrow}
            self.rows = self.file.metadata.num_rows
        except (OSError, ValueError) as error:
            raise ValueError(_unreadable(path, error)) from None
        self.path, self.columns = path, dict[str, np.ndarray]()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            try:
                self.columns[name] = self._read(self.fields[name])
            except (OSError, ValueError, TypeError, RecursionError, NotImplementedError) as error:
                raise ValueError(_unreadable(self.path, error)) from None
        return self.columns[name]

    def _read(self, field: Any) -> np.ndarray:
        import pyarrow as pa

        size = field.type.list_size if pa.types.is_fixed_size_list(field.type) else 1
        shape = json.loads((field.metadata or {}).get(SHAPE, json.dumps([size])))
        if not all(type(part) is int and part >= 0 for part in shape) or math.prod(shape) != size:
            raise ValueError(f"column {field.name} has lists of {size} and claims another shape")
        if self.rows * size > MOST_VALUES:
            raise ValueError(f"column {field.name} would have {self.rows:,} rows of {size:,} values")
        kind = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise ValueError(f"column {field.name} holds {kind}, expected numbers")
        found = numbers(self.file.read(columns=[field.name], use_threads=False), field.name)
        if len(found) != self.rows:
            raise ValueError(f"column {field.name} has {len(found)} rows of {self.rows}")
        return found


class Columns(Mapping[str, np.ndarray]):
    """The columns of one arm and seed by name: rows of a file; `read` holds those that were asked for."""

    def __init__(self, file: File, rows: slice, lacks: frozenset[str] = frozenset()):
        self.file, self.rows = file, rows
        self.names = [name for name in file.fields if name not in lacks]
        self.read: dict[str, np.ndarray] = {}
        if missing := [name for name in NEEDED if name not in self.names]:
            raise ValueError(_unreadable(file.path, ValueError(f"it has no column {missing[0]}")))
        if rows.stop <= rows.start:
            raise ValueError(_unreadable(file.path, ValueError("it has no rows")))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.read:
            if name not in self.names:
                raise KeyError(name)
            self.read[name] = self.file[name][self.rows]
        return self.read[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Cells(ABC):
    """The arms and seeds of a run."""

    @abstractmethod
    def facts(self, arm: str, seed: int) -> Facts | None:
        """How this arm and seed was made, or None where it is not there; `ValueError` where that is damaged."""

    @abstractmethod
    def columns(self, arm: str, seed: int) -> Columns:
        """The numbers of an arm and seed that is there; `ValueError` where they are damaged."""


class Apart(Cells):
    """A file for every arm and seed, as they are trained."""

    def __init__(self, folder: Path):
        self.folder = folder

    def at(self, arm: str, seed: int) -> Path:
        """The folder of one arm and seed."""
        return self.folder / f"arm={named(arm)}" / f"seed={seed}"

    def facts(self, arm: str, seed: int) -> Facts | None:
        place = self.at(arm, seed)
        found = read_json(place / CELL)
        if found is None or not (place / METRICS).exists():
            return None
        pack = found.get("pack")
        if not isinstance(pack, list) or seed not in pack:
            raise ValueError(f"{place / CELL} is of other seeds: delete it and run again")
        return found

    def columns(self, arm: str, seed: int) -> Columns:
        place = self.at(arm, seed)
        file = File(place / METRICS, (read_json(place / CELL) or {}).get("sha256_metrics"))
        return Columns(file, slice(0, file.rows))


class Together(Cells):
    """One file for all arms and seeds, as they are kept."""

    def __init__(self, folder: Path, run: Mapping[str, Any]):
        self.folder, self.run = folder, run
        self.found: dict[Cell, tuple[Facts, slice, frozenset[str]]] = {}
        start = 0
        try:
            for pack in run["cells"]:
                facts = {name: value for name, value in pack.items() if name not in ("arm", "seeds", "rows", "lacks")}
                for seed, rows in zip(pack["seeds"], pack["rows"], strict=True):
                    where = slice(start, start + natural(rows))
                    lacks = frozenset(RENAMED.get(name, str(name)) for name in pack["lacks"])
                    self.found[named(pack["arm"]), natural(seed)] = (facts, where, lacks)
                    start = where.stop
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{folder / RUN} is damaged ({error!r}): keep the run again") from None
        self.total = start

    @cached_property
    def file(self) -> File:
        """The numbers of all."""
        file = File(self.folder / METRICS, self.run.get("sha256_metrics"))
        if file.rows != self.total:
            raise ValueError(_unreadable(file.path, ValueError(f"expected {self.total} rows, got {file.rows}")))
        return file

    def facts(self, arm: str, seed: int) -> Facts | None:
        return self.found[arm, seed][0] if (arm, seed) in self.found else None

    def columns(self, arm: str, seed: int) -> Columns:
        _, rows, lacks = self.found[arm, seed]
        return Columns(self.file, rows, lacks)


def cells(folder: Path, run: Mapping[str, Any] | None) -> Cells:
    """The arms and seeds of the run in a folder, whose run.json is given."""
    return Together(folder, run) if run is not None and "cells" in run else Apart(folder)


def encoded(table: Mapping[str, np.ndarray], *, small: bool = False) -> bytes:
    """A table as a Parquet file; `small` takes longer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made, options = arrow(table), dict[str, Any]()
    if small:  # float64 columns hold float32 results: split by byte, their empty halves compress to nothing
        kinds = {field.name: field.type for field in made.schema}
        split = [name for name, kind in kinds.items() if pa.types.is_floating(kind)]
        texts = [name for name, kind in kinds.items() if pa.types.is_string(kind)]
        lists = any(pa.types.is_fixed_size_list(kind) for kind in kinds.values())
        options = {"compression_level": 19, "use_dictionary": texts, "write_statistics": False, "store_schema": lists}
        options |= {"use_byte_stream_split": split}
    buffer = io.BytesIO()
    pq.write_table(made, buffer, compression="zstd", row_group_size=max(1, made.num_rows), **options)
    return buffer.getvalue()


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} is unreadable ({first_line(error)}): delete it and run again"
