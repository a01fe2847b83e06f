"""Numbers of an experiment, by arm, seed and step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pliant.words import near


class Missing(ValueError):
    """An arm, or a column of an arm, that there is not."""


class Results:
    """What an experiment measured, by arm, seed and step.

    An arm or a column that is not there is `Missing`, a `ValueError` that names the nearest match.

    Args:
        tables: for each (arm, seed), columns of equal length, `(rows, *shape)`: `step`, `diverged_at` (-1 where it did
            not), one column a metric (NaN where it was not measured), and for trials on tasks `task` and `end`, whether
            the row closes one.
        absent: why an arm is not there, where more is known than that it was not run.
    """

    def __init__(
        self, tables: Mapping[tuple[str, int], Mapping[str, np.ndarray]], absent: Mapping[str, str] | None = None
    ):
        self.tables, self.absent = dict(tables), dict(absent or {})
        self.arms = list(dict.fromkeys(arm for arm, _ in self.tables))
        self.seeds = sorted({seed for _, seed in self.tables})

    def only(self, *arms: str) -> Results:
        """The results of some arms."""
        return Results({key: table for key, table in self.tables.items() if key[0] in arms}, self.absent)

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds of an arm."""
        if arm not in self.arms:
            raise Missing(self.absent.get(arm) or f"arm {arm!r} was not run{near(arm, self.arms)}")
        return [seed for seed in self.seeds if (arm, seed) in self.tables]

    def curve(self, arm: str, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps at which `column` was measured, and its values `(seeds, steps)`."""
        tables = self._of(arm, column)
        there = ~np.all([np.isnan(t[column]) for t in tables], axis=0)
        return tables[0]["step"][there], np.stack([t[column][there] for t in tables])

    def ends(self, arm: str, column: str) -> np.ndarray:
        """Values at the end of every task, `(seeds, tasks)`."""
        return np.stack([t[column][t["end"].astype(bool)] for t in self._of(arm, column, "end")])

    def first(self, arm: str, column: str) -> np.ndarray:
        """Values at the end of the first task, `(seeds,)`; without tasks, the first that were measured."""
        return self._edge(arm, column, 0)

    def last(self, arm: str, column: str) -> np.ndarray:
        """Values at the end of the last task, `(seeds,)`; without tasks, the last that were measured."""
        return self._edge(arm, column, -1)

    def array(self, arm: str, column: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps at which an array was measured, and its values `(steps, *shape)`, of one seed."""
        if seed not in (seeds := self.seeds_of(arm)):
            raise Missing(f"arm {arm!r} was not run with seed {seed}, but with {', '.join(map(str, seeds))}")
        self._of(arm, column)
        table = self.tables[arm, seed]
        values = table[column]
        there = ~np.isnan(values.reshape(len(values), -1)).all(1)
        return table["step"][there], values[there]

    def columns(self) -> list[str]:
        """Names of all metrics."""
        return list(dict.fromkeys(name for table in self.tables.values() for name in table))

    def has(self, arm: str, column: str) -> bool:
        """Whether all seeds of an arm have a column."""
        return all(column in self.tables[arm, seed] for seed in self.seeds_of(arm))

    def diverged(self) -> dict[tuple[str, int], int]:
        """The step at which a seed of an arm lost its finite loss, for those that did."""
        return {key: int(t["diverged_at"][-1]) for key, t in self.tables.items() if t["diverged_at"][-1] >= 0}

    def task_ends(self, *arms: str) -> list[int]:
        """The steps at which the tasks of the longest of these arms end; empty for trials without tasks."""
        found = []
        for arm in arms:
            table = self.tables[arm, self.seeds_of(arm)[0]]
            if "end" in table:
                found.append(table["step"][table["end"].astype(bool)].tolist())
        return max(found, key=len, default=[])

    def num_steps(self, *arms: str) -> int:
        """The last step of the longest of these arms."""
        return max((int(self.tables[arm, self.seeds_of(arm)[0]]["step"][-1]) for arm in arms), default=0)

    def _edge(self, arm: str, column: str, at: int) -> np.ndarray:
        if "end" in self._of(arm, column)[0]:
            return self.ends(arm, column)[:, at]
        _, values = self.curve(arm, column)
        left = [row[np.isfinite(row)] for row in values]
        return np.array([row[at] if len(row) else np.nan for row in left])

    def _of(self, arm: str, *columns: str) -> list[Mapping[str, np.ndarray]]:
        """The tables of an arm's seeds, all of which have these columns."""
        tables = [self.tables[arm, seed] for seed in self.seeds_of(arm)]
        for column in columns:
            for table in tables:
                if column not in table:
                    raise Missing(f"arm {arm!r} has no column {column!r}{near(column, list(table))}")
        return tables
