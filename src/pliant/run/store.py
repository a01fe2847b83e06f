"""Where runs are kept: one folder for a set of settings, one Parquet file for an arm and a seed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pliant.experiment import Experiment
from pliant.results import Results
from pliant.run.cells import Apart, Facts, cells, encoded
from pliant.run.files import locked, read_json, sha256, write_bytes, write_json
from pliant.run.names import CELL, METRICS, RUN, SETTINGS

SCHEMA = 2


@dataclass(frozen=True)
class Store:
    """The folder of one experiment under one set of settings: `OUT/<experiment>/<tier>-<hash of the settings>`.

    The path depends on the settings alone. `settings.json` holds them, `run.json` says what the latest command asked
    for, where it ran and the how-manieth of its experiment it was, `arm=A/seed=S/metrics.parquet` holds the numbers and
    `cell.json` beside it says that they are complete, what was trained, how, and their checksum. JSON files carry a
    checksum of themselves. What is there is never overwritten unless that is asked for.
    """

    root: Path
    experiment: Experiment
    tier: str
    settings: Any

    @property
    def folder(self) -> Path:
        """Where everything of this run lies."""
        return self.root / self.experiment.id / folder_name(self.experiment.id, self.tier, plain(self.settings))

    def prepare(self) -> None:
        """Makes the folder and shows that it can be written, before anything is trained; `ValueError` if not."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _, run = described(self.folder)
            if run is not None and run.get("kept"):
                raise ValueError(f"{self.folder} is a kept copy, beside which nothing is trained: choose another --out")
            about = {"experiment": self.experiment.id, "tier": self.tier, "settings": plain(self.settings)}
            write_json(self.folder / SETTINGS, {"schema": SCHEMA, "pliant": version("pliant"), **about})
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
            order = 1 + max(map(_order, above.glob(f"*/{RUN}")), default=0)
            asked = {"arms": list(arms), "seeds": list(seeds), "order": order}
            write_json(self.folder / RUN, {**asked, "environment": environment(device)})

    def cell(self, arm: str, seed: int) -> Path:
        """The folder of one arm and seed."""
        return Apart(self.folder).at(arm, seed)

    def complete(self, arm: str, seeds: Sequence[int]) -> list[Facts] | None:
        """How these seeds of an arm were made, each in whatever pack, if all are there; else None."""
        found = [Apart(self.folder).facts(arm, seed) for seed in seeds]
        whole = [facts for facts in found if facts is not None]
        return whole if len(whole) == len(found) else None

    @contextmanager
    def writing(self, arm: str, seeds: Sequence[int], waiting: Any) -> Iterator[Path]:
        """Holds the locks of a pack's cells, against other sweeps; yields the path of its checkpoint."""
        folder = self.folder / f"arm={arm}"
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            for seed in sorted(seeds):  # in one order, so that two packs that share seeds never wait for each other
                locks.enter_context(locked(folder / f".lock-{seed}", waiting))
            yield folder / f".checkpoint-{min(seeds)}-{max(seeds)}.safetensors"

    def write(
        self, arm: str, tables: Mapping[int, Mapping[str, np.ndarray]], how: Facts, *, rerun: bool = False
    ) -> None:
        """Keeps the tables of a pack; each is complete or absent. Without `rerun`, seeds that are there stay."""
        for seed, table in tables.items():
            if not rerun and self.complete(arm, [seed]) is not None:
                continue
            folder = self.cell(arm, seed)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CELL).unlink(missing_ok=True)
            write_bytes(folder / METRICS, encoded(table))
            about = {"schema": SCHEMA, "pack": list(tables), "sha256_metrics": sha256(folder / METRICS)}
            write_json(folder / CELL, {**about, **how})

    def results(self, arms: Sequence[str], seeds: Sequence[int]) -> Results:
        """The stored numbers of these arms and seeds; `ValueError` where one is missing or damaged."""
        _, run = described(self.folder)
        there = cells(self.folder, run)
        for arm in arms:
            for seed in seeds:
                if there.facts(arm, seed) is None:
                    again = self.command(arms, len(seeds))
                    raise ValueError(f"{self.folder} has no arm {arm} seed {seed} yet: {again}")
        return Results({(arm, seed): there.columns(arm, seed) for arm in arms for seed in seeds})

    def command(self, arms: Sequence[str], seeds: int, *more: str) -> str:
        """The line to write to make what is missing."""
        default = plain(self.experiment.tiers[self.tier])
        changed = [
            part for k, v in plain(self.settings).items() if v != default[k] for part in ("--set", f"{k}={_text(v)}")
        ]
        every = list(self.experiment.setup(self.settings).arms)
        wanted = ["--arms", ",".join(arms)] if arms and list(arms) != every else []
        options = ["--tier", self.tier, "--seeds", str(seeds), *wanted, *changed, "--out", str(self.root), *more]
        return shlex.join(["pliant", "run", self.experiment.name, *options])


def folder_name(experiment: str, tier: str, settings: Mapping[str, Any]) -> str:
    """The name of the folder of a run with these settings."""
    whole = json.dumps({"experiment": experiment, "tier": tier, **settings}, sort_keys=True)
    return f"{tier}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def described(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The settings of the run in a folder and what was asked for, each None where it is not there.

    Of a run that was kept both are in one file.

    Raises `ValueError` where they are damaged, or written by a newer pliant.
    """
    run = read_json(folder / RUN)
    kept = run if run is not None and "settings" in run else read_json(folder / SETTINGS)
    schema = (kept or {}).get("schema", 0)
    if not isinstance(schema, int):
        raise ValueError(f"{folder} is damaged: expected a schema such as {SCHEMA}, got {schema!r:.80}")
    if kept is not None and schema > SCHEMA:
        raise ValueError(
            f"{folder} was written by pliant {kept.get('pliant')} (schema {schema}), this is pliant "
            f"{version('pliant')} (schema {SCHEMA}): use that version, or another --out"
        )
    return kept, run


def latest(root: Path, experiment: Experiment, tier: str | None) -> Path:
    """The folder of the experiment's newest run under `root`; of kept copies, which have no order, that with a tier's
    own settings. `ValueError` if there is none, or nothing tells which."""
    id = experiment.id
    kept = {p.parent: read_json(p) for p in sorted((root / id).glob(f"{tier or '*'}-*/{RUN}"))}
    if not kept:
        wanted = f" at tier {tier}" if tier else ""
        again = shlex.join(["pliant", "run", id, *(["--tier", tier] if tier else [])])
        raise ValueError(f"no run of {id}{wanted} in {root}: {again}")
    orders = {folder: _number(run) for folder, run in kept.items()}
    most = max(orders.values())
    newest = [folder for folder, order in orders.items() if order == most]
    presets = {folder_name(id, name, plain(settings)) for name, settings in experiment.tiers.items()}
    if len(preset := [folder for folder in newest if folder.name in presets]) == 1:
        return preset[0]
    if len(newest) > 1:
        names = ", ".join(folder.name for folder in newest[:4]) + (", ..." if len(newest) > 4 else "")
        raise ValueError(f"{root / id} has {len(newest)} runs of which none is known as the newest: name one ({names})")
    return newest[0]


def _order(path: Path) -> int:
    """The how-manieth run of its experiment a `run.json` is; 0 where that is unknown."""
    try:
        return _number(read_json(path))
    except (ValueError, OSError):
        return 0  # damaged, which stops who reads it, not who writes another


def _number(run: dict[str, Any] | None) -> int:
    order = (run or {}).get("order")
    return order if isinstance(order, int) else 0


@cache
def commit() -> str:
    """The commit this code was checked out from, marked if it was changed since; empty for an installed package.

    That of a repository that merely lies around the package is none of ours.
    """
    package = Path(__file__).resolve().parents[1]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(package), *arguments]
        found = subprocess.run(call, capture_output=True, text=True, env=alone, check=True)
        return found.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != package.parents[1]:
            return ""
        git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        return git("describe", "--always", "--dirty", "--abbrev=10")
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, or not ours
        return ""


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
