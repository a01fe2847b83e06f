"""Where a monitor's rows go while training runs: files, TensorBoard, Weights & Biases, MLflow; no network, no account.

Each opens at its first row. Columns are named as in `Monitor.rows`, for trackers with `pliant/` before.
"""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pliant.trackers import experiment_id, local_client, offline_run, tracker

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, float]


class Sink(ABC):
    """Takes rows one by one.

    >>> class Printed(Sink):
    ...     def write(self, row):
    ...         print(row)
    >>> Printed().write({"step": 0, "dead": 0.5})
    {'step': 0, 'dead': 0.5}
    """

    @abstractmethod
    def write(self, row: Row) -> None:
        """Takes a row: `"step"`, then numbers by column."""

    def close(self) -> None:  # noqa: B027
        """The end of training."""


class JSONL(Sink):
    """One JSON object a row, in a text file to which rows are added; what is not finite is null.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     JSONL(Path(folder) / "monitor.jsonl").write({"step": 0, "dead": 0.5, "norm_ratio": float("nan")})
    ...     (Path(folder) / "monitor.jsonl").read_text()
    '{"step": 0, "dead": 0.5, "norm_ratio": null}\\n'
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def write(self, row: Row) -> None:
        """Adds a line; it is there when the call returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with open(self.path, "ab+") as file:
            begun = file.tell() and not _ends_line(file)  # what a killed process left of its last line stays one line
            file.write(b"\n" * begun + json.dumps(finite).encode() + b"\n")


class Parquet(Sink):
    """A Parquet file with a column a measured quantity, to which rows are added; null where it was not measured.

    It is written whole whenever a tenth of its rows are new, and by `close`. A step has one row: one that is measured
    again, as after a resume, takes the place of what was there.

    >>> import tempfile
    >>> import pyarrow.parquet
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Parquet(Path(folder) / "monitor.parquet").write({"step": 0, "dead": 0.5})
    ...     pyarrow.parquet.read_table(Path(folder) / "monitor.parquet").to_pylist()
    [{'step': 0, 'dead': 0.5}]
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._rows: dict[float, Row] | None = None
        self._new = 0

    def write(self, row: Row) -> None:
        """Adds a row."""
        if self._rows is None:
            self._rows = self._there()
        self._rows[row["step"]] = row
        self._new += 1
        if self._new >= 0.1 * (len(self._rows) - self._new):
            self.close()

    def close(self) -> None:
        """Writes the file, whole or not at all."""
        import pyarrow.parquet as pq

        if self._rows is None or not self._new:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        pq.write_table(table([self._rows[step] for step in sorted(self._rows)]), temporary)
        os.replace(temporary, self.path)
        self._new = 0

    def _there(self) -> dict[float, Row]:
        import pyarrow.parquet as pq

        rows = pq.read_table(self.path).to_pylist() if self.path.exists() else []
        return {row["step"]: {name: value for name, value in row.items() if value is not None} for row in rows}


class TensorBoard(Sink):
    """An event file in `folder`: the one of your own `SummaryWriter`, to see all in one place.

    Raises `ValueError` where TensorBoard is not installed.

    >>> sink = TensorBoard("runs/first")  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._writer: Any = None
        tracker("tensorboard")

    def write(self, row: Row) -> None:
        """Adds the row and flushes."""
        from torch.utils.tensorboard import FileWriter  # pyright: ignore[reportPrivateImportUsage]
        from torch.utils.tensorboard.summary import scalar

        if self._writer is None:
            self._writer = FileWriter(str(self.folder))
        for name, value in _named(row).items():
            self._writer.add_summary(scalar(name, value), int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandB(Sink):
    """The current run of Weights & Biases, or an offline run of its own in `folder`/wandb (see `wandb sync`).

    In a run of yours the numbers join your next `wandb.log`, with the step as `pliant/step`.

    Raises `ValueError` where wandb is not installed.

    >>> sink = WandB("runs/first")  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str] = ".", *, project: str = "pliant"):
        self.folder, self.project = Path(folder), project
        self._run: Any = None
        self._own = False
        tracker("wandb")

    def write(self, row: Row) -> None:
        """Adds the row."""
        if self._run is None:
            active = tracker("wandb").run
            self._own = active is None
            self._run = self._offline() if self._own else active
            self._run.define_metric("pliant/*", step_metric="pliant/step")
        self._run.log({**_named(row), "pliant/step": int(row["step"])}, commit=self._own)

    def close(self) -> None:
        """Finishes a run of its own."""
        if self._own and self._run is not None:
            self._run.finish()
            self._run = None

    def _offline(self) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        return offline_run(self.folder, project=self.project)


class MLflow(Sink):
    """The active run of MLflow, or a run of its own in the SQLite file `folder`/mlflow.db.

    Look at the latter with `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db`.

    Raises `ValueError` where MLflow is not installed.

    >>> sink = MLflow("runs/first")  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str] = ".", *, experiment: str = "pliant"):
        self.folder, self.experiment = Path(folder), experiment
        self._client: Any = None
        self._id, self._own = "", False
        tracker("mlflow")

    def write(self, row: Row) -> None:
        """Sends the row."""
        import time

        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        client = self._client = self._client or self._opened()
        now, step = int(1000 * time.time()), int(row["step"])
        metrics = [Metric(name, value, now, step) for name, value in _named(row).items()]
        for i in range(0, len(metrics), 1000):  # as many as MLflow takes a call
            client.log_batch(self._id, metrics=metrics[i : i + 1000])

    def close(self) -> None:
        """Ends a run of its own."""
        if self._own and self._client is not None:
            self._client.set_terminated(self._id)
            self._client = None

    def _opened(self) -> Any:
        mlflow = tracker("mlflow")
        active = mlflow.active_run()
        if active is not None:
            self._id = active.info.run_id
            return mlflow.MlflowClient()
        self.folder.mkdir(parents=True, exist_ok=True)
        client = local_client(self.folder)
        run = client.create_run(experiment_id(client, self.experiment))
        self._id, self._own = run.info.run_id, True
        return client


def table(rows: Sequence[Row]) -> pa.Table:
    """Rows as an Arrow table: every column that any of them has, null where it is missing.

    >>> table([{"step": 0}, {"step": 2, "dead": 0.5}]).to_pydict()
    {'step': [0, 2], 'dead': [None, 0.5]}
    """
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    kinds = {name: pa.int64() if name == "step" else pa.float64() for name in names}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _named(row: Row) -> Row:
    return {f"pliant/{name}": value for name, value in row.items() if name != "step"}
