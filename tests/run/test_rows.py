"""Rows as they come: kept in their own bytes, given back as columns, restored from a checkpoint, stored and read."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from pliant.run import columns
from pliant.run.rows import BLOCK, Rows


def example() -> Rows:
    """Two members: a loss at every step, a number and two arrays now and then, the second member diverged at 3."""
    rows = Rows([4, 7])
    for step in range(1, 6):
        row = {
            "loss": torch.tensor([step, 10.0 * step]),
            "task": torch.tensor([0, 0]),
            "end": torch.tensor([step == 5] * 2),
        }
        if step % 2 == 0:
            row |= {"dead": torch.tensor([step, step]), "kernel": torch.full((2, 2, 3), float(step))}
        if step == 5:
            row["kernel"] = torch.arange(12.0).reshape(2, 2, 3)
        rows.add(step, row, seconds=0.5 * step)
    return rows


def test_a_table_has_a_row_a_step_and_nan_for_what_was_not_measured() -> None:
    tables = example().tables([-1, 3])
    first, second = tables[4], tables[7]
    assert list(first) == ["elapsed_seconds", "end", "step", "task", "dead", "kernel", "loss", "diverged_at"]
    assert first["step"].tolist() == [1, 2, 3, 4, 5]
    assert first["elapsed_seconds"].tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert first["loss"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(first["dead"], [np.nan, 2, np.nan, 4, np.nan])
    np.testing.assert_array_equal(second["loss"], [10, 20, 30, np.nan, np.nan])
    assert (first["end"].dtype, first["task"].dtype, first["dead"].dtype) == (bool, np.int64, np.float64)
    assert second["diverged_at"].tolist() == [3] * 5
    assert first["kernel"].shape == (5, 2, 3)
    assert first["kernel"].dtype == np.float32
    assert first["kernel"][4].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.isnan(first["kernel"][0]).all()
    assert np.isnan(second["kernel"][3:]).all()
    assert (second["kernel"][1] == 2).all()


def test_what_a_checkpoint_kept_is_there_again_and_goes_on() -> None:
    whole, part = example(), Rows([4, 7])
    part.restore({path: tensor.clone() for path, tensor in whole.tensors().items()})
    assert (len(part), part.seconds()) == (5, 2.5)
    for rows in (whole, part):
        rows.add(6, {"loss": torch.tensor([0.25, 0.5])}, seconds=3.0)
    for seed, table in whole.tables([-1, -1]).items():
        for name, values in part.tables([-1, -1])[seed].items():
            np.testing.assert_array_equal(values, table[name])
            assert values.dtype == table[name].dtype


def test_many_rows_take_their_bytes_and_no_more() -> None:
    """30,000 rows of 70 columns of 5 members: 42 MB in float32."""
    rows, count, names = Rows(range(5)), 3_000, [f"n{i}" for i in range(70)]
    row = dict(zip(names, torch.rand(70, 5), strict=True))
    tracemalloc.start()
    for step in range(count):
        rows.add(step, row, 0.0)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = sum(block.nbytes for kind in rows._kinds.values() for blocks in kind._blocks.values() for block in blocks)
    size = count * 70 * 5 * 4
    assert held <= size + BLOCK
    assert used <= 24 * count + BLOCK  # Python's own: places, steps and seconds
    assert len(rows.tables([-1] * 5)[0]["n3"]) == count


def test_a_row_costs_one_copy_a_type_of_number(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    cat, stack = torch.cat, torch.stack
    monkeypatch.setattr(torch, "cat", lambda *args: calls.append("cat") or cat(*args))
    monkeypatch.setattr(torch, "stack", lambda *args: calls.append("stack") or stack(*args))
    rows, row = Rows([0, 1]), {f"n{i}": torch.zeros(2) for i in range(50)}
    rows.add(1, row, 0.0)
    rows.add(2, row | {f"k{i}": torch.zeros(2, 3) for i in range(9)}, 0.0)
    assert calls == ["stack", "stack", "cat"]


def test_rows_of_the_same_names_may_differ_in_type_and_order() -> None:
    rows = Rows([0, 1])
    rows.add(1, {"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([1, 2])}, 0.0)
    exact = torch.tensor([0.1, 0.2], dtype=torch.float64)
    rows.add(2, {"b": torch.tensor([3, 4]), "a": exact}, 0.0)
    rows.add(3, {"b": torch.tensor([5.5, 6.5], dtype=torch.bfloat16), "a": torch.tensor([0.3, 0.4])}, 0.0)
    table = rows.tables([-1, -1])[1]
    assert table["a"].tolist() == [float(torch.tensor(0.2)), 0.2, float(torch.tensor(0.4))]
    assert table["b"].tolist() == [2, 4, 6.5]


def test_a_column_has_one_shape() -> None:
    rows = Rows([0])
    rows.add(1, {"kernel": torch.zeros(1, 2, 2)}, 0.0)
    rows.add(2, {"kernel": torch.zeros(1, 3, 3)}, 0.0)
    with pytest.raises(ValueError, match=r"expected kernel of one shape in all rows, got \(1, 2, 2\) and \(1, 3, 3\)"):
        rows.tables([-1])


def test_arrays_are_stored_as_fixed_size_lists_that_know_their_shape(tmp_path: Path) -> None:
    table = example().tables([-1, 3])[7]
    folder = tmp_path / "arm=none" / "seed=7"
    folder.mkdir(parents=True)
    pq.write_table(columns.arrow(table), folder / "metrics.parquet", compression="zstd")
    read = pq.ParquetFile(folder / "metrics.parquet").read()
    for name, values in table.items():
        np.testing.assert_array_equal(columns.numbers(read, name), values)
        assert columns.numbers(read, name).dtype == values.dtype
    everything = ds.dataset(tmp_path, partitioning="hive", exclude_invalid_files=True).to_table()
    kernel = everything["kernel"].to_pylist()
    assert kernel[0] is None
    assert kernel[1] == [2.0] * 6
    assert everything["arm"].to_pylist() == ["none"] * 5


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i8", "u1", "?"])
def test_numbers_of_every_type_come_back_as_they_were(kind: str) -> None:
    numbers = (100 * np.random.default_rng(0).normal(size=(11, 2, 3))).astype(kind)
    table = {"list": numbers, "number": numbers[:, 0, 0], "none": numbers[:0, 0, 0]}
    if kind[0] == "f":
        table["list"][3] = table["list"][5, 0, 1] = table["number"][[0, 7]] = np.nan
    for name, values in table.items():
        stored = columns.arrow({name: values})
        assert stored[name].null_count == {"f": {"list": 1, "number": 3, "none": 0}[name]}.get(kind[0], 0)
        np.testing.assert_array_equal(columns.numbers(stored, name), values)
        assert columns.numbers(stored.slice(2), name).dtype == values.dtype
        np.testing.assert_array_equal(columns.numbers(stored.slice(2), name), values[2:])


def test_no_process_waits_for_pandas() -> None:
    code = """
import sys
import numpy as np
from pliant.run.columns import arrow, numbers
table = {"number": np.array([1, np.nan]), "truth": np.array([True, False]), "list": np.array([[1.0], [np.nan]])}
stored = arrow(table)
print([numbers(stored, name).dtype.name for name in table], {"pandas", "torch"} & set(sys.modules))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "['float64', 'bool', 'float64'] set()\n"
