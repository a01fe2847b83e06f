"""Numbers of an experiment, by arm, seed and step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Results:
    """What an experiment measured, by arm, seed and step.

    Args:
        tables: for each (arm, seed), columns of equal length: `step`, `task`, `end` (whether the row closes a task) and
            one column a metric; NaN where a metric was not measured.
    """

    def __init__(self, tables: Mapping[tuple[str, int], Mapping[str, np.ndarray]]):
        self.tables = dict(tables)
        self.arms = list(dict.fromkeys(arm for arm, _ in self.tables))
        self.seeds = sorted({seed for _, seed in self.tables})

    def curve(self, arm: str, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps at which `column` was measured, and its values `(seeds, steps)`."""
        tables = [self.tables[arm, seed] for seed in self.seeds]
        there = ~np.all([np.isnan(t[column]) for t in tables], axis=0)
        return tables[0]["step"][there], np.stack([t[column][there] for t in tables])

    def ends(self, arm: str, column: str) -> np.ndarray:
        """Values at the end of every task, `(seeds, tasks)`."""
        return np.stack([self.tables[arm, s][column][self.tables[arm, s]["end"].astype(bool)] for s in self.seeds])

    def columns(self) -> list[str]:
        """Names of all metrics."""
        return list(dict.fromkeys(name for table in self.tables.values() for name in table))

    def diverged(self) -> dict[tuple[str, int], int]:
        """The step at which a seed of an arm lost its finite loss, for those that did."""
        return {key: int(t["diverged_at"][-1]) for key, t in self.tables.items() if t["diverged_at"][-1] >= 0}
