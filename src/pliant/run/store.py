"""Where runs are kept: one folder for a set of settings, one Parquet file for an arm and a seed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pliant.experiment import Experiment, Results

SCHEMA = 1


@dataclass(frozen=True)
class Store:
    """The folder of one experiment under one set of settings: `OUT/<experiment>/<tier>-<hash of the settings>`.

    The path depends on the settings alone. `settings.json` holds them, `run.json` says what the latest command asked
    for and where it ran, `arm=A/seed=S/metrics.parquet` holds the numbers and `cell.json` beside it says that they are
    complete.
    """

    root: Path
    experiment: Experiment
    tier: str
    settings: Any

    @property
    def folder(self) -> Path:
        """Where everything of this run lies."""
        whole = json.dumps(
            {"experiment": self.experiment.id, "tier": self.tier, **_plain(self.settings)}, sort_keys=True
        )
        return self.root / self.experiment.id / f"{self.tier}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def prepare(self) -> None:
        """Makes the folder and shows that it can be written, before anything is trained; `ValueError` if not."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "settings.json", {
                "schema": SCHEMA, "experiment": self.experiment.id, "tier": self.tier, "settings": _plain(self.settings)
            })  # fmt: skip
        except OSError as error:
            raise ValueError(
                f"cannot write {self.folder}: {error.strerror}: choose another folder with --out"
            ) from None

    def cell(self, arm: str, seed: int) -> Path:
        """The folder of one arm and seed."""
        return self.folder / f"arm={arm}" / f"seed={seed}"

    def complete(self, arm: str, seeds: list[int]) -> bool:
        """Whether these seeds of an arm are there, trained together in just this pack."""
        found = [read_json(self.cell(arm, seed) / "cell.json") for seed in seeds]
        return all(cell is not None and cell["pack"] == seeds for cell in found)

    def write(self, arm: str, tables: dict[int, dict[str, np.ndarray]], how: dict[str, Any]) -> None:
        """Keeps the tables of a pack; each is complete or absent."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for seed, table in tables.items():
            folder = self.cell(arm, seed)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cell.json").unlink(missing_ok=True)
            temporary = folder / f".metrics-{os.getpid()}.parquet"
            try:
                columns = {
                    name: pa.array(values, from_pandas=True) for name, values in table.items()
                }  # NaN: not measured
                pq.write_table(pa.table(columns), temporary, compression="zstd")
                os.replace(temporary, folder / "metrics.parquet")
            finally:
                temporary.unlink(missing_ok=True)
            write_json(folder / "cell.json", {"pack": list(tables), **how})

    def results(self, arms: list[str], seeds: list[int]) -> Results:
        """The stored numbers of these arms and seeds; `ValueError` where one is missing."""
        import pyarrow.parquet as pq

        tables = {}
        for arm in arms:
            for seed in seeds:
                if not (self.cell(arm, seed) / "cell.json").exists():
                    raise ValueError(
                        f"{self.folder} has no arm {arm} seed {seed} yet: {self.command(arms, len(seeds))}"
                    )
                path = self.cell(arm, seed) / "metrics.parquet"
                try:
                    read = pq.ParquetFile(path).read()
                except (OSError, ValueError) as error:
                    raise ValueError(f"{path} is unreadable ({error}): delete it and run again") from None
                tables[arm, seed] = {name: read[name].to_numpy(zero_copy_only=False) for name in read.column_names}
        return Results(tables)

    def command(self, arms: list[str], seeds: int) -> str:
        """What to type to make what is missing."""
        default = _plain(self.experiment.tiers[self.tier])
        changed = [f"--set {k}={_text(v)}" for k, v in _plain(self.settings).items() if v != default[k]]
        return " ".join(
            [
                "pliant run",
                self.experiment.id,
                "--tier",
                self.tier,
                "--seeds",
                str(seeds),
                *changed,
                "--out",
                str(self.root),
            ]
        )


def latest(root: Path, id: str, tier: str | None) -> Path:
    """The folder of the experiment's newest run under `root`; `ValueError` if there is none."""
    found = [p for p in (root / id).glob(f"{tier or '*'}-*/run.json")]
    if not found:
        wanted = f" at tier {tier}" if tier else ""
        raise ValueError(f"no run of {id}{wanted} in {root}: pliant run {id}{f' --tier {tier}' if tier else ''}")
    return max(found, key=lambda p: p.stat().st_mtime_ns).parent


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, as recorded with every run."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    packages = {name: version(name) for name in ("pliant", "torch", "numpy", "scipy")}
    return {
        "python": platform.python_version(),
        **packages,
        "commit": commit,
        "machine": platform.machine(),
        "device": device,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open(temporary, "w") as file:
            json.dump(content, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """A file's content, None where there is none or where it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _plain(settings: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
