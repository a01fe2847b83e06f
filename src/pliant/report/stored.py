"""A run opened from its folder: its experiment, and its numbers, each column read when something first asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from pliant.cite import bibtex, references_used
from pliant.claims import Checked, check
from pliant.experiment import Experiment, Setup, experiments
from pliant.results import Results
from pliant.run.columns import numbers
from pliant.run.files import read_json
from pliant.run.store import Store, check_schema, latest
from pliant.words import unknown

BOOKKEEPING = ("step", "task", "end", "elapsed_seconds", "diverged_at")  # columns that are no metrics


@dataclass(frozen=True)
class Stored:
    """A run: what its latest command asked for, and the experiment that makes sense of it.

    Args:
        folder: where it lies.
        experiment: what was run.
        tier: its tier.
        settings: as they were, with the tier's for those in `later`.
        arms: that were asked for.
        seeds: that were asked for.
        environment: versions and machine.
        later: settings that the experiment did not have when it was run.
    """

    folder: Path
    experiment: Experiment
    tier: str
    settings: Any
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    environment: Mapping[str, Any]
    later: tuple[str, ...] = ()

    @cached_property
    def setup(self) -> Setup:
        """What the experiment does with these settings."""
        return self.experiment.setup(self.settings)

    @cached_property
    def cells(self) -> dict[tuple[str, int], dict[str, Any]]:
        """How each arm and seed was made; `ValueError` where one is missing."""
        found = {(a, s): read_json(self.cell(a, s) / "cell.json") for a in self.arms for s in self.seeds}
        missing = [f"{arm} seed {seed}" for (arm, seed), cell in found.items() if cell is None]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            again = self.store.command(list(self.arms), len(self.seeds))
            raise ValueError(f"{self.folder} has no arm {', '.join(missing[:3])}{more} yet: {again}")
        return {key: cell for key, cell in found.items() if cell is not None}

    @cached_property
    def results(self) -> Results:
        """The numbers of all arms and seeds; `ValueError` where some are missing or damaged."""
        made = {key: Columns(self.cell(*key) / "metrics.parquet", cell) for key, cell in self.cells.items()}
        return Results(made)  # type: ignore[arg-type]  # tables are only read

    @property
    def store(self) -> Store:
        """Where a run of these settings goes: `folder`, unless its experiment has had more settings since."""
        depth = len(PurePath(self.experiment.id).parts)
        folder = self.folder if len(self.folder.parents) > depth else self.folder.absolute()
        return Store(folder.parents[depth], self.experiment, self.tier, self.settings)

    def cell(self, arm: str, seed: int) -> Path:
        """The folder of one arm and seed."""
        return self.folder / f"arm={arm}" / f"seed={seed}"

    def checked(self) -> list[Checked]:
        """Every claim of the experiment, inconclusive where it reads an arm or a column that is not there."""
        return check(self.setup.claims, self.results)

    def changes(self) -> dict[str, str]:
        """Settings that are not the tier's, as text, without folders of this machine."""
        default = asdict(self.experiment.tiers[self.tier])
        return {name: text(value) for name, value in asdict(self.settings).items() if value != default[name]}

    @property
    def data(self) -> str:
        """The data set's name; a file's without its folder."""
        return text(self.setup.data)

    def commits(self) -> list[str]:
        """The commits that the numbers were made by, usually one."""
        made = (str(cell.get("commit", self.environment.get("commit", ""))) for cell in self.cells.values())
        return sorted({commit for commit in made if commit})


class Columns(Mapping[str, np.ndarray]):
    """The columns of a Parquet file by name; `read` holds those that were asked for."""

    def __init__(self, path: Path, cell: Mapping[str, Any]):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            content = path.read_bytes()
            if sha256(content).hexdigest() != cell["sha256_metrics"]:
                raise ValueError("its checksum does not fit")
            self._file = pq.ParquetFile(pa.BufferReader(content))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is unreadable ({error}): delete {path.parent} and run again") from None
        self._names = self._file.schema_arrow.names
        self.read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.read:
            if name not in self._names:
                raise KeyError(name)
            self.read[name] = numbers(self._file.read(columns=[name], use_threads=False), name)
        return self.read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def opened(folder: Path, known: Mapping[str, Experiment] | None = None) -> Stored:
    """The run in a folder; `ValueError` where there is none, or none that this version can make sense of.

    Settings that its experiment has had only since then are the tier's; `later` names them.

    Args:
        folder: OUT/<experiment>/<tier>-<hash>.
        known: experiments by id, of this package where it is not given.
    """
    known = experiments() if known is None else known
    kept = read_json(folder / "settings.json")
    if kept is None:
        raise ValueError(f"{folder} is no run: expected a folder OUT/EXPERIMENT/TIER-HASH with a settings.json")
    check_schema(folder)
    run = read_json(folder / "run.json")
    if run is None:
        raise ValueError(f"{folder} has no run.json: run it again")
    if kept["experiment"] not in known:
        raise ValueError(unknown("experiment", kept["experiment"], list(known)))
    experiment, tier = known[kept["experiment"]], kept["tier"]
    if tier not in experiment.tiers:
        raise ValueError(unknown("tier", tier, list(experiment.tiers)))
    default = experiment.tiers[tier]
    names = [field.name for field in fields(default)]
    for name in kept["settings"]:
        if name not in names:
            raise ValueError(f"{folder}: {unknown('setting', name, names)}")
    settings = type(default)(**asdict(default) | {name: _tuples(value) for name, value in kept["settings"].items()})
    later = tuple(name for name in names if name not in kept["settings"])
    run_of = (tuple(run["arms"]), tuple(run["seeds"]), run["environment"])
    return Stored(folder, experiment, tier, settings, *run_of, later)


def find_run(name: str, out: Path, tier: str | None = None) -> Path:
    """The folder of a run: `name` itself, one so called under `out`, or an experiment's newest run under `out`."""
    known = experiments()
    if name in known:
        if tier is not None and tier not in known[name].tiers:
            raise ValueError(unknown("tier", tier, list(known[name].tiers)))
        return latest(out, name, tier)
    for folder in (Path(name), *(out / id / name for id in known)):
        if (folder / "settings.json").exists():
            if tier is not None:
                raise ValueError(f"--tier is of no use with a run's folder ({name}): leave it out")
            return folder
    if Path(name).is_dir():
        raise ValueError(f"{name} is no run: expected a folder OUT/EXPERIMENT/TIER-HASH with a settings.json")
    raise ValueError(unknown("run or experiment", name, list(known)))


def cited(run: Stored) -> list[str]:
    """Keys of refs.bib of what a run reproduces, and of the interventions and diagnostics that it used."""
    setup = replace(run.setup, arms={name: arm for name, arm in run.setup.arms.items() if name in run.arms})
    return references_used(run.experiment, setup)


def bibliography(names: Sequence[str]) -> str:
    """BibTeX of what runs (their folders) and experiments (ids, at all tiers) use; for none, of all experiments."""
    known, keys = experiments(), []
    for name in names or list(known):
        if (Path(name) / "settings.json").exists():
            keys += cited(opened(Path(name), known))
        elif name in known:
            for settings in known[name].tiers.values():
                keys += references_used(known[name], known[name].setup(settings))
        else:
            raise ValueError(unknown("experiment or folder of a run", name, list(known)))
    return bibtex(keys)


def reason(error: Exception, folder: Path) -> str:
    """Why a run could not be opened or checked, without its folder and what to type.

    >>> reason(ValueError("runs/a/b has no arm l2 seed 1 yet: run it again"), Path("runs/a/b"))
    'has no arm l2 seed 1 yet'
    """
    if isinstance(error, KeyError):
        return f"has no column {error}"
    said = str(error).replace(f"{folder}/", "").replace(f"{folder} ", "").replace(f"{folder}: ", "")
    for then in (": run ", ": pliant run ", ": delete "):
        said = said.partition(then)[0]
    return said


def text(value: Any) -> str:
    """A setting for reading: no brackets, a file without its folder.

    >>> text((64, 32)), text("/home/someone/pixels.npz"), text(0.001)
    ('64,32', 'pixels.npz', '0.001')
    """
    if isinstance(value, (list, tuple)):
        return ",".join(map(text, value))
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else str(value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
