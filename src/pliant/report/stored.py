"""A run opened from its folder: its experiment, and its numbers, each column read when something first asks for it."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from pliant.cite import bibtex, references_used
from pliant.claims import Checked, check
from pliant.experiment import Arm, Experiment, Setup, experiments, find
from pliant.results import Missing, Results
from pliant.run.cells import Cells, Facts, cells
from pliant.run.identity import Definition, defines, definition, differences, edited, renamed
from pliant.run.names import RUN, SETTINGS, asked
from pliant.run.store import Store, described, folder_name, latest
from pliant.words import unknown


@dataclass(frozen=True)
class Gone:
    """What stands for the trial of an arm that this version does not have."""


@dataclass(frozen=True)
class Stored:
    """A run: what its latest command asked for, and the experiment that makes sense of it.

    Args:
        folder: where it lies.
        experiment: what was run.
        tier: its tier.
        settings: as they were, with the tier's for those in `later`.
        run: content of run.json.
        later: settings that the experiment did not have when it was run.
    """

    folder: Path
    experiment: Experiment
    tier: str
    settings: Any
    run: Mapping[str, Any]
    later: tuple[str, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that were asked for."""
        return tuple(self.run["arms"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were asked for."""
        return tuple(self.run["seeds"])

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions and machine."""
        return self.run["environment"]

    @cached_property
    def setup(self) -> Setup:
        """What the experiment does with these settings; `ValueError` where it can do nothing with them."""
        try:
            return self.experiment.setup(self.settings)
        except Exception as error:  # settings of others may be anything
            raise ValueError(f"{self.folder}: its settings make no experiment ({error})") from None

    @cached_property
    def stored(self) -> Cells:
        """All arms and seeds that are there."""
        return cells(self.folder, self.run)

    @cached_property
    def cells(self) -> dict[tuple[str, int], Facts]:
        """How each arm and seed was made; `ValueError` where one is missing."""
        found = {(a, s): self.stored.facts(a, s) for a in self.arms for s in self.seeds}
        missing = [f"{arm} seed {seed}" for (arm, seed), facts in found.items() if facts is None]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            again = self.store.command(self.arms, len(self.seeds))
            raise ValueError(f"{self.folder} has no arm {', '.join(missing[:3])}{more} yet: {again}")
        return {key: facts for key, facts in found.items() if facts is not None}

    @cached_property
    def results(self) -> Results:
        """The numbers of all arms and seeds; `ValueError` where some are missing or damaged."""
        return Results({key: self.stored.columns(*key) for key in self.cells})

    @cached_property
    def definitions(self) -> dict[str, Definition | None]:
        """What was trained as each arm, as its cells say; None where they were stored before that was recorded."""
        found: dict[str, Definition | None] = {}
        first: dict[str, dict[str, str]] = {}
        for (arm, seed), facts in self.cells.items():
            read = facts.get("files")
            read = {str(name): str(value) for name, value in read.items()} if isinstance(read, dict) else {}
            if other := [name for name in edited(read, first.setdefault(arm, read)) if defines(name)]:
                told = f"an arm {arm} that was trained from different {other[0]:.80} (seed {seed})"
                raise ValueError(f"{self.folder} has {told}: --rerun it")
            recorded = facts.get("definition")
            made = renamed({str(n): str(text) for n, text in recorded.items()}) if isinstance(recorded, dict) else None
            if found.setdefault(arm, made) != made:
                raise ValueError(f"{self.folder} has an arm {arm} of several definitions (seed {seed}): --rerun it")
        return found

    @cached_property
    def changed(self) -> dict[str, str]:
        """By which parts the definition of an arm differs from that of this version, for the arms where it does."""
        found = {}
        for arm, made in self.definitions.items():
            if arm not in self.setup.arms:
                found[arm] = "this version has no such arm"
            elif made is not None and (told := differences(made, definition(self.setup.arms[arm]))):
                found[arm] = readable("; ".join(told))
        return found

    @cached_property
    def shown(self) -> Setup:
        """The setup with the arms that were run as they were: what is of another definition, or gone, says so."""
        arms = {
            name: replace(arm, label=f"{arm.label} (another definition)") if name in self.changed else arm
            for name, arm in self.setup.arms.items()
        }
        gone = {name: Arm(f"{name} (not in this version)", Gone()) for name in self.arms if name not in arms}  # type: ignore[arg-type]
        return replace(self.setup, arms=arms | gone)

    @property
    def store(self) -> Store:
        """Where a run of these settings goes: `folder`, unless its experiment has had more settings since."""
        depth = len(PurePath(self.experiment.id).parts)
        folder = self.folder if len(self.folder.parents) > depth else self.folder.absolute()
        return Store(folder.parents[depth], self.experiment, self.tier, self.settings)

    def checked(self) -> list[Checked]:
        """Every claim of the experiment, inconclusive where it reads an arm or a column that is not there."""
        return check(self.setup.claims, self.comparable(self.results))

    def verdicts(self) -> list[Checked]:
        """The claims that this run says something about: not those that only read arms or columns it never had."""
        return [checked for checked in self.checked() if self.changed or not checked.missing]

    def comparable(self, results: Results) -> Results:
        """The results of arms that are what claims are about: not of those that were trained by another definition."""
        tables = {key: table for key, table in results.tables.items() if key[0] not in self.changed}
        absent = {arm: f"arm {arm!r} was trained by another definition: {told}" for arm, told in self.changed.items()}
        return Results(tables, absent)

    @cached_property
    def sentences(self) -> dict[str, str]:
        """What happened to each arm, in plain words; none where they read an arm or a column that is not there."""
        try:
            return self.experiment.sentences(self.results) if self.experiment.sentences else {}
        except Missing:
            return {}

    def changes(self) -> dict[str, str]:
        """Settings that are not the tier's, as text, without folders of this machine."""
        default = asdict(self.experiment.tiers[self.tier])
        return {name: text(value) for name, value in asdict(self.settings).items() if value != default[name]}

    @property
    def data(self) -> str:
        """The data set's name; a file's without its folder."""
        return text(self.setup.data)

    @property
    def date(self) -> str:
        """The day (UTC) on which the last arm and seed was trained; empty where that was not recorded."""
        return max((str(facts.get("date", "")) for facts in self.cells.values()), default="")[:10]

    def commits(self) -> list[str]:
        """The commits that the numbers were made by, usually one."""
        made = (str(cell.get("commit", self.environment.get("commit", ""))) for cell in self.cells.values())
        return sorted({commit for commit in made if commit})


def opened(folder: Path, known: Mapping[str, Experiment] | None = None) -> Stored:
    """The run in a folder; `ValueError` where there is none, or none that this version can make sense of.

    Settings that its experiment has had only since then are the tier's; `later` names them. What the files hold is
    checked before it is believed: types, names, and that the folder is called after these settings.

    Args:
        folder: OUT/<experiment>/<tier>-<hash>.
        known: experiments by id, of this package where it is not given.
    """
    known = experiments() if known is None else known
    kept, run = described(folder)
    if kept is None:
        raise ValueError(f"{folder} is no run: expected a folder OUT/EXPERIMENT/TIER-HASH with a {SETTINGS}")
    if run is None:
        raise ValueError(f"{folder} has no {RUN}: run it again")
    id, tier, written = (kept.get(name) for name in ("experiment", "tier", "settings"))
    if not (isinstance(id, str) and isinstance(tier, str) and isinstance(written, dict)):
        raise ValueError(f"{folder} is damaged: expected an experiment, a tier and settings")
    if id not in known:
        raise ValueError(unknown("experiment", id, list(known)))
    experiment = known[id]
    if tier not in experiment.tiers:
        raise ValueError(unknown("tier", tier, list(experiment.tiers)))
    if folder.resolve().name != folder_name(id, tier, written):
        raise ValueError(
            f"{folder} is not called after its settings: expected {folder_name(id, tier, written)}, so they have been "
            "altered, or the folder renamed"
        )
    try:
        asked(run)
        if not isinstance(run.get("environment"), dict):
            raise ValueError("expected an environment")
    except ValueError as error:
        raise ValueError(f"{folder / RUN} is damaged ({error}): run it again") from None
    default = experiment.tiers[tier]
    kinds = typing.get_type_hints(type(default))
    names = [field.name for field in fields(default)]
    for name in written:
        if name not in names:
            raise ValueError(f"{folder}: {unknown('setting', name, names)}")
    values = {name: _tuples(value) for name, value in written.items()}
    for name, value in values.items():
        if not _is(value, kinds[name]):
            raise ValueError(f"{folder}: setting {name} is no {kinds[name]}, got {value!r:.80}")
    settings = type(default)(**{field.name: getattr(default, field.name) for field in fields(default)} | values)
    later = tuple(name for name in names if name not in written)
    return Stored(folder, experiment, tier, settings, run, later)


def _is(value: Any, kind: Any) -> bool:
    """Whether a setting is of the annotated type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, one) for one in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(one, inner[0]) for one in value)
    if origin is typing.Literal:
        return value in inner
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is (types.NoneType if kind is None else kind)


def find_run(name: str, out: Path, tier: str | None = None) -> Path:
    """The folder of a run: `name` itself, one so called under `out`, or an experiment's newest run under `out`."""
    known = experiments()
    if name in known:
        if tier is not None and tier not in known[name].tiers:
            raise ValueError(unknown("tier", tier, list(known[name].tiers)))
        return latest(out, known[name], tier)
    for folder in (Path(name), *(out / id / name for id in known)):
        if (folder / RUN).exists() or (folder / SETTINGS).exists():
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
    """BibTeX of what runs (folders) and experiments (ids or files, at all tiers) use; for none, of all experiments."""
    known, keys = experiments(), []
    for name in names or list(known):
        if (Path(name) / RUN).exists():
            keys += cited(opened(Path(name), known))
        elif name in known or name.endswith(".py"):
            experiment = find(name)
            for settings in experiment.tiers.values():
                keys += references_used(experiment, experiment.setup(settings))
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


def readable(definition: str) -> str:
    """A canonical form without the packages of pliant.

    >>> readable("(pliant.interventions.L2(strength=0.001),)")
    '(L2(strength=0.001),)'
    """
    return re.sub(r"\bpliant\.(?:\w+\.)*(?=\w)", "", definition)


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
