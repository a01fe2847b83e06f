"""A run that is stopped at a yield and goes on elsewhere: what a checkpoint has of it, and that it ends the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from pliant.run import tree
from pliant.run.rows import Rows
from pliant.trials import Run, Trial
from tests.bitwise import assert_same


def driven(run: Run, rows: Rows) -> Iterator[None]:
    """Takes rows one by one; every yield is one of the run's."""
    for row in run.rows:
        if row:
            rows.add(run.state.step, row, 0.0)
        yield


def finished(run: Run, rows: Rows) -> None:
    """Takes all rows that are left."""
    deque(driven(run, rows), maxlen=0)


def assert_stops_leave_no_trace(trial: Trial, seeds: list[int]) -> None:
    """From the last yield but one and from two before it, others for as many seeds, a run goes on and ends the same.

    Of one seed from the first yield, too.
    """
    run, rows = trial.start(seeds), Rows(seeds)
    stops = [_kept(run, rows) for _ in driven(run, rows)]
    assert run.state.step == trial.num_steps
    tables, last = rows.tables(run.state.diverged_at), len(stops) - 2
    some = np.random.default_rng(len(seeds)).integers(1, last, size=2).tolist()
    for stop in sorted({*some, last, *([0] if len(seeds) == 1 else [])}):
        tensors, stored, numbers = stops[stop]
        second, rows = trial.start(seeds), Rows(seeds)
        tree.fill(second.state, tensors, numbers)
        rows.restore(stored)
        finished(second, rows)
        assert_same(tree.tensors(second.state), tree.tensors(run.state))
        assert tree.numbers(second.state) == tree.numbers(run.state)
        again = rows.tables(second.state.diverged_at)
        for seed in seeds:
            assert list(again[seed]) == list(tables[seed])
            for name, values in tables[seed].items():
                np.testing.assert_array_equal(again[seed][name], values, err_msg=f"{name}, stopped at yield {stop}")


def _kept(run: Run, rows: Rows) -> tuple[dict, dict, dict]:
    copies = ({path: t.clone() for path, t in of.items()} for of in (tree.tensors(run.state), rows.tensors()))
    return *copies, tree.numbers(run.state)
