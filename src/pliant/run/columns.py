"""Columns of a table as Parquet has them: an array a row is a fixed-size list, its shape in the field's metadata.

Numbers go from numpy to Arrow and back as buffers: `pyarrow.array` and `to_numpy` import pandas where it is installed,
which each process of a sweep, and each command, would wait for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

SHAPE = b"shape"


def arrow(table: Mapping[str, np.ndarray]) -> Any:
    """A `pyarrow.Table` of columns `(rows, *shape)`; NaN, and arrays of nothing but NaN, are null: not measured.

    >>> made = arrow({"step": np.array([1, 2]), "kernel": np.ones((2, 3, 3), np.float32)})
    >>> str(made.schema.field("kernel").type), made.schema.field("kernel").metadata
    ('fixed_size_list<item: float>[9]', {b'shape': b'[3, 3]'})
    """
    import pyarrow as pa

    arrays, fields = [], []
    for name, values in table.items():
        if values.ndim == 1:
            arrays.append(_array(values, missing=np.isnan(values) if values.dtype.kind == "f" else None))
            fields.append(pa.field(name, arrays[-1].type))
            continue
        flat = np.ascontiguousarray(values).reshape(len(values), -1)
        missing = np.all(np.isnan(flat), axis=1) if flat.dtype.kind == "f" else np.zeros(len(flat), bool)
        mask = _array(missing) if missing.any() else None
        arrays.append(pa.FixedSizeListArray.from_arrays(_array(flat.reshape(-1)), flat.shape[1], mask=mask))
        shape = json.dumps(list(values.shape[1:])).encode()
        fields.append(pa.field(name, arrays[-1].type, metadata={SHAPE: shape}))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def numbers(table: Any, name: str) -> np.ndarray:
    """A column of a `pyarrow.Table` as `arrow` took it, NaN where it is null.

    >>> numbers(arrow({"kernel": np.ones((2, 3, 3), np.float32)}), "kernel").shape
    (2, 3, 3)
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    field, column = table.schema.field(name), table[name]
    if not pa.types.is_fixed_size_list(field.type):
        return _plain(column)
    shape = json.loads((field.metadata or {}).get(SHAPE, json.dumps([field.type.list_size])))
    there = _plain(pc.is_valid(column))  # pyright: ignore[reportAttributeAccessIssue]
    values = _plain(pc.list_flatten(column))  # pyright: ignore[reportAttributeAccessIssue]
    found = np.full((len(column), *shape), np.nan if values.dtype.kind == "f" else 0, values.dtype)
    found[there] = values.reshape(-1, *shape)
    return found


def _array(values: np.ndarray, missing: np.ndarray | None = None) -> Any:
    """A `pyarrow.Array` of one number, or text, a row; null where it is missing."""
    import pyarrow as pa

    if values.dtype.kind not in "biuf":
        return pa.array(values.tolist(), pa.string())

    def bits(where: np.ndarray) -> Any:
        return pa.py_buffer(np.packbits(where, bitorder="little"))

    content = bits(values) if values.dtype.kind == "b" else pa.py_buffer(np.ascontiguousarray(values))
    there = bits(~missing) if missing is not None and missing.any() else None
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [there, content])


def _plain(column: Any) -> np.ndarray:
    """A column of one number a row, NaN where it is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, missing = column.type, column.null_count > 0
    if pa.types.is_boolean(kind) and not missing:
        return _plain(column.cast(pa.uint8())).astype(bool)
    if not pa.types.is_floating(kind) and (missing or not pa.types.is_integer(kind)):
        return column.to_numpy(zero_copy_only=False)  # none of ours
    whole = column.combine_chunks()
    if not missing:
        return np.from_dlpack(whole)
    there = _plain(pc.is_valid(column))  # pyright: ignore[reportAttributeAccessIssue]
    bare = pa.Array.from_buffers(kind, len(whole), [None, whole.buffers()[1]], offset=whole.offset)
    return np.where(there, np.from_dlpack(bare), np.nan)
