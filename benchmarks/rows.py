"""What recording costs: processor time of a row, and the bytes that many rows take.

    python benchmarks/rows.py [--rows 30000] [--columns 70] [--members 5]

A row is a dict of a tensor a column, one number a member, as trials yield them. Rounds of a tenth of the rows, whose
times are processor time; the median of them, and the slowest. Bytes are those that the rows hold, beside those that
their numbers have. Goals: under 0.1 ms a row, and no more than the bytes of the numbers and one unfinished block.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from pliant.run.rows import BLOCK, Rows

ROUNDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--columns", type=int, default=70)
    parser.add_argument("--members", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(range(given.members))
    row = {f"n{i}": values for i, values in enumerate(torch.rand(given.columns, given.members))}
    each, step = [], 0
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(given.rows // ROUNDS):
            step += 1
            rows.add(step, row, 0.0)
        each.append(1e3 * (time.process_time() - start) / (given.rows // ROUNDS))
    held = sum(tensor.nbytes for tensor in rows.tensors().values())
    blocks = sum(block.nbytes for kind in rows._kinds.values() for blocks in kind._blocks.values() for block in blocks)
    numbers = step * given.columns * given.members * 4
    print(f"{step:,} rows of {given.columns} columns, {given.members} members")
    print(f"a row: {statistics.median(each):.4f} ms of processor time, the slowest round {max(each):.4f} (goal: 0.1)")
    print(f"held: {blocks:,} bytes for {numbers:,} of numbers, blocks of {BLOCK:,}; as tensors to keep: {held:,}")


if __name__ == "__main__":
    main()
