"""Columns of a table as Parquet has them: an array a row is a fixed-size list, its shape in the field's metadata."""

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
            arrays.append(pa.array(values, from_pandas=True))
            fields.append(pa.field(name, arrays[-1].type))
            continue
        flat = np.ascontiguousarray(values).reshape(len(values), -1)
        missing = np.isnan(flat).all(1) if flat.dtype.kind == "f" else np.zeros(len(flat), bool)
        inner = pa.array(flat.reshape(-1))
        mask = pa.array(missing) if missing.any() else None
        arrays.append(pa.FixedSizeListArray.from_arrays(inner, flat.shape[1], mask=mask))
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
        return column.to_numpy(zero_copy_only=False)
    shape = json.loads((field.metadata or {}).get(SHAPE, json.dumps([field.type.list_size])))
    there = pc.is_valid(column).to_numpy(zero_copy_only=False)  # pyright: ignore[reportAttributeAccessIssue]
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False)  # pyright: ignore[reportAttributeAccessIssue]
    found = np.full((len(column), *shape), np.nan if values.dtype.kind == "f" else 0, values.dtype)
    found[there] = values.reshape(-1, *shape)
    return found
