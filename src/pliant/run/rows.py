"""Rows of a trial as they come, in as many bytes as they have, and as one table of columns a seed."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pliant.trials import Row

BLOCK = 1 << 18  # bytes that are reserved at once
SHARED = ("elapsed_seconds", "end", "step", "task")  # columns that come first, and that divergence leaves alone
Schema = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]


class Rows:
    """Rows of numbers and arrays, each `(members, *shape)`, that may lack columns.

    >>> rows = Rows([0, 1])
    >>> rows.add(1, {"loss": torch.tensor([0.5, 0.25])}, seconds=0.1)
    >>> rows.add(2, {"loss": torch.tensor([0.4, 0.2]), "kernel": torch.ones(2, 3, 3)}, seconds=0.2)
    >>> table = rows.tables([-1, -1])[1]
    >>> table["loss"].tolist(), table["kernel"].shape
    ([0.25, 0.2...], (2, 3, 3))
    """

    def __init__(self, seeds: Sequence[int]):
        self.seeds = tuple(seeds)
        self._kinds: dict[Schema, _Kind] = {}
        self._latest: _Kind | None = None
        self._count = 0
        self._seconds = 0.0

    def __len__(self) -> int:
        return self._count

    def add(self, step: int, row: Row, seconds: float) -> None:
        """Keeps the row of a step, `seconds` after the start of the training."""
        taken = self._latest.taken(row) if self._latest is not None else None
        if taken is None:  # other columns than those of the row before
            schema = tuple([(name, tuple(v.shape[1:]), v.dtype) for name, v in row.items()])
            if schema not in self._kinds:
                for name, value in row.items():
                    assert len(value) == len(self.seeds), f"{name}: expected one entry a member, got {value.shape}"
                self._kinds[schema] = _Kind(schema, len(self.seeds))
            self._latest = self._kinds[schema]
            taken = self._latest.taken(row)
        assert taken is not None
        assert self._latest is not None
        self._latest.add(self._count, step, seconds, taken)
        self._count += 1
        self._seconds = seconds

    def seconds(self) -> float:
        """How long the training had taken at its last row."""
        return self._seconds

    def tensors(self) -> dict[str, Tensor]:
        """All rows as tensors by path, for checkpoints."""
        found = {}
        for at, kind in enumerate(self._kinds.values()):
            for name in ("place", "step", "seconds"):
                found[f"rows/{at}/{name}"] = torch.from_numpy(np.array(getattr(kind, name)))
            for name, values in kind.columns().items():
                found[f"rows/{at}/columns/{name}"] = torch.from_numpy(values)
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The rows that `tensors` gave."""
        kinds: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            if path.startswith("rows/"):
                _, kind, name = path.split("/", 2)
                kinds.setdefault(kind, {})[name] = tensor
        added = []
        for kind in kinds.values():
            names = [name for name in kind if name.startswith("columns/")]
            shared = zip(*(kind[name].tolist() for name in ("place", "step", "seconds")), strict=True)
            for i, (place, step, seconds) in enumerate(shared):
                row = {name.removeprefix("columns/"): kind[name][i] for name in names}
                added.append((place, step, row, seconds))
        for _, step, row, seconds in sorted(added, key=lambda one: one[0]):
            self.add(step, row, seconds)

    def tables(self, diverged_at: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
        """One table a seed: columns `(rows, *shape)`, NaN where a row lacks one or comes after the seed diverged.

        Scalars are float64, but for `task` and `end`; arrays stay what they are.
        """
        step, seconds = (self._shared(name) for name in ("step", "seconds"))
        whole = {name: self._column(name) for name in sorted({name for s in self._kinds for name, _, _ in s})}
        first = {"elapsed_seconds": seconds, "step": step} | {n: whole.pop(n) for n in SHARED if n in whole}
        tables = {}
        for m, seed in enumerate(self.seeds):
            table = {n: first[n] if first[n].ndim == 1 else first[n][:, m].copy() for n in sorted(first)}
            for name, values in whole.items():
                table[name] = values[:, m].copy()
                if diverged_at[m] >= 0 and np.issubdtype(values.dtype, np.floating):
                    table[name][step > diverged_at[m]] = np.nan
            table["diverged_at"] = np.full(len(step), diverged_at[m])
            tables[seed] = table
        return tables

    def _shared(self, name: str) -> np.ndarray:
        found = np.empty(self._count, np.int64 if name == "step" else np.float64)
        for kind in self._kinds.values():
            found[np.array(kind.place)] = np.array(getattr(kind, name))
        return found

    def _column(self, name: str) -> np.ndarray:
        """A column of all rows, `(rows, members, *shape)`."""
        kinds = [(np.array(kind.place), kind.columns([name])[name]) for kind in self._kinds.values() if name in kind]
        shapes = {values.shape[1:] for _, values in kinds}
        if len(shapes) > 1:
            raise ValueError(f"expected {name} of one shape in all rows, got {' and '.join(map(str, sorted(shapes)))}")
        (shape,) = shapes
        found, kept = np.result_type(*(values for _, values in kinds)), sum(len(place) for place, _ in kinds)
        if (name not in SHARED and len(shape) == 1) or (kept < self._count and found.kind != "f"):
            found = np.dtype(np.float64)
        column = np.full((self._count, *shape), np.nan if found.kind == "f" else 0, found)
        for place, values in kinds:
            column[place] = values
        return column


class _Kind:
    """Rows with the same columns: each type of number in blocks of its own, `(rows, members, numbers of a row)`.

    Numbers come before arrays, so that they are one stack, which is one copy.
    """

    def __init__(self, schema: Schema, members: int):
        self.members, self.place, self.step, self.seconds = members, array("q"), array("q"), array("d")
        self._names = {name for name, _, _ in schema}
        self._at: dict[str, tuple[torch.dtype, int, int, tuple[int, ...]]] = {}
        self._groups: dict[torch.dtype, tuple[list[str], list[tuple[str, tuple[int, ...]]]]] = {}
        self._width: dict[torch.dtype, int] = {}
        for name, shape, dtype in sorted(schema, key=lambda column: bool(column[1])):
            start = self._width.get(dtype, 0)
            self._at[name] = (dtype, start, start + int(np.prod(shape)), shape)
            self._width[dtype] = self._at[name][2]
            numbers, arrays = self._groups.setdefault(dtype, ([], []))
            arrays.append((name, (members, *shape))) if shape else numbers.append(name)
        size = max(1, max((w * members * d.itemsize for d, w in self._width.items()), default=1))
        self._rows = max(16, BLOCK // size)  # of a block
        self._blocks: dict[torch.dtype, list[Tensor]] = {dtype: [] for dtype in self._width}

    def __contains__(self, name: str) -> bool:
        return name in self._at

    @torch.no_grad()
    def taken(self, row: Row) -> list[Tensor] | None:
        """The row as one tensor a type, None where its columns are others."""
        if row.keys() != self._names:
            return None
        found = []
        for dtype, (numbers, arrays) in self._groups.items():
            parts = []
            if numbers:
                values = [row[name] for name in numbers]
                if any(v.ndim != 1 for v in values):
                    return None
                parts = [torch.stack(values, 1)]
            for name, shape in arrays:
                if row[name].shape != shape:
                    return None
                parts.append(row[name].reshape(self.members, -1))
            if any(part.dtype is not dtype for part in parts):
                return None
            found.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
        return found

    def add(self, place: int, step: int, seconds: float, taken: Sequence[Tensor]) -> None:
        """Keeps what was taken of a row."""
        at = len(self.place) % self._rows
        for (dtype, blocks), values in zip(self._blocks.items(), taken, strict=True):
            if at == 0:
                blocks.append(torch.empty(self._rows, self.members, self._width[dtype], dtype=dtype))
            blocks[-1][at] = values
        self.place.append(place)
        self.step.append(step)
        self.seconds.append(seconds)

    def columns(self, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns `(rows, members, *shape)`."""
        found = {}
        for name in self._at if names is None else names:
            dtype, start, stop, shape = self._at[name]
            half = dtype in (torch.bfloat16, torch.float16)  # numpy has no bfloat16
            blocks = (block[:, :, start:stop] for block in self._blocks[dtype])
            values = np.concatenate([(block.float() if half else block).numpy() for block in blocks])[: len(self.place)]
            found[name] = values.reshape(len(values), self.members, *shape)
        return found
