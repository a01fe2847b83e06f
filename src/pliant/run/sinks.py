"""Stored runs for experiment trackers: TensorBoard, Weights & Biases (offline) and MLflow, without network or account.

Every arm and seed becomes one run there, with all measured columns by step and the settings as hyper-parameters. What
was sent before is replaced, so that an export can be repeated when a run has grown. `Live` does so while a sweep runs.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pliant.results import Results
from pliant.run.progress import Pack, Progress
from pliant.run.store import Store, plain
from pliant.run.train import Interrupted
from pliant.trackers import experiment_id, local_client, offline_run, tracker

PROJECT = "pliant"
MLFLOW_BATCH = 1000  # metrics a call, which is as many as MLflow takes


@dataclass(frozen=True)
class Tracked:
    """One arm and seed of a run, as trackers see it."""

    group: str  # the experiment, tier and settings' hash
    name: str  # the arm and seed
    settings: dict[str, Any]
    table: Mapping[str, np.ndarray]

    def rows(self) -> Iterator[tuple[int, dict[str, float]]]:
        """For every stored step, the columns that were measured there.

        >>> table = {"step": np.array([1, 2]), "loss": np.array([0.5, np.nan]), "end": np.array([False, True])}
        >>> list(Tracked("", "", {}, table).rows())
        [(1, {'loss': 0.5, 'end': 0.0}), (2, {'end': 1.0})]
        """
        columns = {name: np.asarray(values, np.float64) for name, values in self.table.items() if name != "step"}
        for i, step in enumerate(self.table["step"]):
            yield int(step), {name: float(v[i]) for name, v in columns.items() if not np.isnan(v[i])}


def tracked(store: Store, results: Results) -> list[Tracked]:
    """Every arm and seed of some stored results."""
    group = store.folder.relative_to(store.root).as_posix()
    shared = {"experiment": store.experiment.id, "tier": store.tier, **plain(store.settings)}
    return [
        Tracked(group, f"{arm}/seed={seed}", {**shared, "arm": arm, "seed": seed}, table)
        for (arm, seed), table in results.tables.items()
    ]


def tensorboard(runs: Sequence[Tracked], folder: Path) -> None:
    """Event files under `folder`, for `tensorboard --logdir`; values are rounded to float32, as TensorBoard keeps them.

    Raises `ValueError` where TensorBoard is not installed.
    """
    tracker("tensorboard")
    from torch.utils.tensorboard import FileWriter  # pyright: ignore[reportPrivateImportUsage]
    from torch.utils.tensorboard.summary import hparams, scalar

    for run in runs:
        place = folder / run.group / run.name
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        known = {k: v if isinstance(v, bool | int | float) else _text(v) for k, v in run.settings.items()}
        with closing(FileWriter(str(place))) as writer:
            for summary in hparams(known, dict.fromkeys(run.table, 0.0)):  # of the metrics, the names alone
                writer.add_summary(summary)
            for step, row in run.rows():
                for column, value in row.items():
                    writer.add_summary(scalar(column, value), step, row.get("elapsed_seconds"))


def wandb(runs: Sequence[Tracked], folder: Path) -> None:
    """Offline runs in `folder`/wandb, which `wandb sync` uploads, and again under the same id when exported again.

    Raises `ValueError` where wandb is not installed.
    """
    tracker("wandb")
    for run in runs:
        id = hashlib.sha256(f"{run.group}/{run.name}".encode()).hexdigest()[:16]
        for old in folder.glob(f"wandb/offline-run-*-{id}"):
            shutil.rmtree(old)
        names = {"project": PROJECT, "group": run.group, "name": run.name, "id": id}
        with offline_run(folder, config=run.settings, **names) as writer:
            for step, row in run.rows():
                writer.log(row, step=step)


def mlflow(runs: Sequence[Tracked], folder: Path) -> None:
    """Runs in the SQLite file `folder`/mlflow.db, for `mlflow ui --backend-store-uri sqlite:///DIR/mlflow.db`.

    Raises `ValueError` where MLflow is not installed.
    """
    tracker("mlflow")
    from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

    client = local_client(folder)
    for run in runs:
        at = experiment_id(client, run.group)
        for old in client.search_runs([at], f"attributes.run_name = '{run.name}'"):
            client.delete_run(old.info.run_id)
        id = client.create_run(at, run_name=run.name).info.run_id
        client.log_batch(id, params=[Param(k, _text(v)) for k, v in run.settings.items()])
        metrics = [
            Metric(name, value, int(1000 * row.get("elapsed_seconds", 0.0)), step)
            for step, row in run.rows()
            for name, value in row.items()
        ]
        for i in range(0, len(metrics), MLFLOW_BATCH):
            client.log_batch(id, metrics=metrics[i : i + MLFLOW_BATCH])
        client.set_terminated(id)


SINKS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}


class Live:
    """Sends each pack's curves to a tracker as soon as the pack is stored: give it to `sweep` as `on_progress`.

    Packs that were there already are sent, too. A tracker that fails ends no training: it is named in a warning, and
    `pliant export` sends what is missing.

    Args:
        sink: a name in `SINKS`.
        store: where the packs go.
        packs: all that are asked for.
        folder: where the tracker keeps its files.
        rerun: whether they are trained anew; what is there of them is not sent then.
    """

    def __init__(self, sink: str, store: Store, packs: Sequence[Pack], folder: Path, *, rerun: bool = False):
        self.sink, self.store, self.folder, self.packs = sink, store, folder, len(packs)
        self.waiting = {pack: store.complete(pack.arm, pack.seeds) if rerun else None for pack in packs}

    def __call__(self, progress: Progress) -> None:
        """Sends what is new among the packs that are stored."""
        sent = self.packs - len(self.waiting)
        if sent >= progress.kept + progress.finished:
            return
        try:
            for pack, before in list(self.waiting.items()):
                if self.store.complete(pack.arm, pack.seeds) not in (None, before):
                    self._send(pack)
                    del self.waiting[pack]
        except Interrupted:
            raise
        except Exception as error:  # whatever a tracker may raise
            self.waiting.clear()
            why = next(iter(str(error).splitlines()), type(error).__name__)
            later = f"pliant export {self.store.folder} --to {self.sink} --into {self.folder}"
            warnings.warn(f"{self.sink} gets no more curves ({why}); when all is done: {later}", stacklevel=2)

    def _send(self, pack: Pack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        SINKS[self.sink](tracked(self.store, self.store.results([pack.arm], list(pack.seeds))), self.folder)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
