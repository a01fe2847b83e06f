"""Experiment trackers, quiet, without network and account: what everything that writes to one shares."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def tracker(name: str) -> ModuleType:
    """The module of an extra: `"tensorboard"` (torch's), `"wandb"` or `"mlflow"`.

    Raises `ValueError` where it is not installed.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        return import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError:
        raise ValueError(f"{name} is not installed: pip install 'pliant[{name}]'") from None


def offline_run(folder: Path, **names: Any) -> Any:
    """A run of Weights & Biases in `folder`/wandb that stays there."""
    wandb = tracker("wandb")
    quiet = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
    )
    return wandb.init(mode="offline", dir=folder, settings=quiet, **names)


def local_client(folder: Path) -> Any:
    """A client of MLflow for the SQLite file `folder`/mlflow.db."""
    mlflow = tracker("mlflow")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(f"sqlite:///{(folder / 'mlflow.db').resolve()}")


def experiment_id(client: Any, name: str) -> str:
    """The id of an experiment of MLflow, made if it is not there."""
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)
