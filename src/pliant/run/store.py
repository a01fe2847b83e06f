"""Where runs are kept: one folder for a set of settings, one Parquet file for an arm and a seed."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pliant.experiment import Experiment
from pliant.results import Results
from pliant.run import columns
from pliant.run.files import locked, read_json, sha256, write_bytes, write_json

SCHEMA = 1


@dataclass(frozen=True)
class Store:
    """The folder of one experiment under one set of settings: `OUT/<experiment>/<tier>-<hash of the settings>`.

    The path depends on the settings alone. `settings.json` holds them, `run.json` says what the latest command asked
    for, where it ran and the how-manieth of its experiment it was, `arm=A/seed=S/metrics.parquet` holds the numbers and
    `cell.json` beside it says that they are complete, how they were made and their checksum. JSON files carry a
    checksum of themselves.
    """

    root: Path
    experiment: Experiment
    tier: str
    settings: Any

    @property
    def folder(self) -> Path:
        """Where everything of this run lies."""
        whole = json.dumps(
            {"experiment": self.experiment.id, "tier": self.tier, **plain(self.settings)}, sort_keys=True
        )
        return self.root / self.experiment.id / f"{self.tier}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def prepare(self) -> None:
        """Makes the folder and shows that it can be written, before anything is trained; `ValueError` if not."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_schema(self.folder)
            about = {"experiment": self.experiment.id, "tier": self.tier, "settings": plain(self.settings)}
            write_json(self.folder / "settings.json", {"schema": SCHEMA, "pliant": version("pliant"), **about})
        except OSError as error:
            raise ValueError(
                f"cannot write {self.folder}: {error.strerror}: choose another folder with --out"
            ) from None

    def begin(self, arms: Sequence[str], seeds: Sequence[int], device: str) -> None:
        """Writes what is asked for into `run.json`, which makes this the newest run of its experiment.

        What is newest is counted, not dated: clocks jump, and copies of files have dates of their own.
        """
        above = self.root / self.experiment.id
        with locked(above / ".lock-order"):
            order = 1 + max(map(_order, above.glob("*/run.json")), default=0)
            asked = {"arms": list(arms), "seeds": list(seeds), "order": order}
            write_json(self.folder / "run.json", {**asked, "environment": environment(device)})

    def cell(self, arm: str, seed: int) -> Path:
        """The folder of one arm and seed."""
        return self.folder / f"arm={arm}" / f"seed={seed}"

    def complete(self, arm: str, seeds: list[int]) -> dict[str, Any] | None:
        """How these seeds of an arm were made, if they are there, trained together in just this pack; else None."""
        found = [read_json(self.cell(arm, seed) / "cell.json") for seed in seeds]
        whole = all(cell is not None and cell["pack"] == seeds for cell in found)
        return found[0] if whole else None

    @contextmanager
    def writing(self, arm: str, seeds: list[int], waiting: Any) -> Iterator[Path]:
        """Holds the lock of a pack's cells, against other sweeps; yields the path of its checkpoint."""
        folder = self.folder / f"arm={arm}"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".lock-{seeds[0]}", waiting):
            yield folder / f".checkpoint-{seeds[0]}.safetensors"

    def write(self, arm: str, tables: dict[int, dict[str, np.ndarray]], how: dict[str, Any]) -> None:
        """Keeps the tables of a pack; each is complete or absent."""
        import pyarrow.parquet as pq

        for seed, table in tables.items():
            folder = self.cell(arm, seed)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cell.json").unlink(missing_ok=True)
            buffer = io.BytesIO()
            pq.write_table(columns.arrow(table), buffer, compression="zstd")
            write_bytes(folder / "metrics.parquet", buffer.getvalue())
            about = {"schema": SCHEMA, "pack": list(tables), "sha256_metrics": sha256(folder / "metrics.parquet")}
            write_json(folder / "cell.json", {**about, **how})

    def results(self, arms: list[str], seeds: list[int]) -> Results:
        """The stored numbers of these arms and seeds; `ValueError` where one is missing or damaged."""
        check_schema(self.folder)
        return Results({(arm, seed): self._table(arm, seed, arms, seeds) for arm in arms for seed in seeds})

    def _table(self, arm: str, seed: int, arms: list[str], seeds: list[int]) -> dict[str, np.ndarray]:
        import pyarrow.parquet as pq

        folder = self.cell(arm, seed)
        cell = read_json(folder / "cell.json")
        if cell is None:
            raise ValueError(f"{self.folder} has no arm {arm} seed {seed} yet: {self.command(arms, len(seeds))}")
        path = folder / "metrics.parquet"
        try:
            if sha256(path) != cell["sha256_metrics"]:
                raise ValueError("its checksum does not fit")
            read = pq.ParquetFile(path).read()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is unreadable ({error}): delete {folder} and run again") from None
        return {name: columns.numbers(read, name) for name in read.column_names}

    def command(self, arms: list[str], seeds: int) -> str:
        """What to type to make what is missing."""
        default = plain(self.experiment.tiers[self.tier])
        changed = [f"--set {k}={_text(v)}" for k, v in plain(self.settings).items() if v != default[k]]
        wanted = (
            [f"--arms {','.join(arms)}"] if arms and arms != list(self.experiment.setup(self.settings).arms) else []
        )
        options = ["--tier", self.tier, "--seeds", str(seeds), *wanted, *changed, "--out", str(self.root)]
        return " ".join(["pliant run", self.experiment.id, *options])


def check_schema(folder: Path) -> None:
    """Raises `ValueError` for a folder that a newer pliant wrote."""
    kept = read_json(folder / "settings.json")
    if kept is not None and kept.get("schema", 0) > SCHEMA:
        raise ValueError(
            f"{folder} was written by pliant {kept.get('pliant')} (schema {kept['schema']}), this is pliant "
            f"{version('pliant')} (schema {SCHEMA}): use that version, or another --out"
        )


def latest(root: Path, id: str, tier: str | None) -> Path:
    """The folder of the experiment's newest run under `root`; `ValueError` if there is none, or nothing tells which."""
    kept = {p.parent: read_json(p) for p in sorted((root / id).glob(f"{tier or '*'}-*/run.json"))}
    if not kept:
        wanted = f" at tier {tier}" if tier else ""
        raise ValueError(f"no run of {id}{wanted} in {root}: pliant run {id}{f' --tier {tier}' if tier else ''}")
    orders = {folder: (run or {}).get("order", 0) for folder, run in kept.items()}
    most = max(orders.values())
    newest = [folder for folder, order in orders.items() if order == most]
    if len(newest) > 1:
        names = ", ".join(folder.name for folder in newest[:4]) + (", ..." if len(newest) > 4 else "")
        raise ValueError(f"{root / id} has {len(newest)} runs of which none is known as the newest: name one ({names})")
    return newest[0]


def _order(path: Path) -> int:
    """The how-manieth run of its experiment a `run.json` is; 0 where that is unknown."""
    try:
        return int((read_json(path) or {}).get("order", 0))
    except ValueError:
        return 0  # damaged, which stops who reads it, not who writes another


@cache
def commit() -> str:
    """The commit this code was checked out from, marked if it was changed since; empty for an installed package."""
    here = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*here, "describe", "--always", "--dirty", "--abbrev=10"], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else ""


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, as recorded with every run."""
    packages = {name: version(name) for name in ("pliant", "torch", "numpy", "scipy")}
    machine = {"machine": platform.machine(), "device": device}
    return {"python": platform.python_version(), **packages, "commit": commit(), **machine}


def plain(settings: Any) -> dict[str, Any]:
    """Settings as JSON has them."""
    return json.loads(json.dumps(asdict(settings)))


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
