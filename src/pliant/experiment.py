"""Experiments as code that can fail: settings by tier, arms, what is measured, how it is drawn, and claims."""

from __future__ import annotations

import importlib
import pkgutil
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pliant.claims import Claim
from pliant.own import module
from pliant.plots import Look, Plot
from pliant.results import Results
from pliant.words import unknown

if typing.TYPE_CHECKING:  # keeps `pliant list` free of torch
    from pliant.trials import Trial

TIERS = ("smoke", "laptop", "paper")


@dataclass(frozen=True)
class Arm:
    """What one curve of a figure is: its label, and what trains."""

    label: str
    trial: Trial


@dataclass(frozen=True)
class Column:
    """One column of the closing table: a metric at the end of the first or the last task, over seeds."""

    heading: str
    column: str
    task: Literal["first", "last"] = "last"
    digits: int = 2


@dataclass(frozen=True)
class Setup:
    """What one tier of an experiment trains, draws and claims.

    Args:
        arms: by name; the first is the baseline.
        plots: the pictures.
        table: columns of the closing table.
        claims: what the paper says.
        deviations: where we depart from the paper.
    """

    arms: dict[str, Arm]
    plots: tuple[Plot, ...]
    table: tuple[Column, ...]
    claims: tuple[Claim, ...]
    deviations: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("plots", "table", "claims", "deviations"):
            if not isinstance(several := getattr(self, name), tuple):
                raise ValueError(f"expected a tuple of {name}, got {type(several).__name__}: write {name}=(...,)")
        for name, arm in self.arms.items():
            if not isinstance(arm, Arm):
                raise ValueError(f"expected Arm(label, trial) for arm {name!r}, got {type(arm).__name__}")
        labels = [arm.label for arm in self.arms.values()]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"expected a label of its own for each arm, got {twice!r} more than once")

    @property
    def look(self) -> Look:
        """How the arms look in every picture."""
        return Look({name: arm.label for name, arm in self.arms.items()})

    @property
    def data(self) -> str:
        """The data sets of the trials, by name."""
        named = (str(arm.trial.data) for arm in self.arms.values() if hasattr(arm.trial, "data"))  # type: ignore[attr-defined]
        return ", ".join(dict.fromkeys(named))

    def columns(self) -> list[str]:
        """The columns that plots and table read."""
        plotted = [name for plot in self.plots for name in plot.columns()]
        return list(dict.fromkeys([*(column.column for column in self.table), *plotted]))


@dataclass(frozen=True)
class Experiment:
    """A figure of a paper, or one of our own.

    Args:
        id: such as `lyle2023/fig1`.
        title: one line.
        figure: what it reproduces.
        references: keys of refs.bib.
        tiers: settings (a frozen dataclass) by tier.
        setup: a function of the settings.
        sentences: one plain sentence for each arm of the results, or for those that say most.
        source: the file of somebody's own experiment, once it is found there.
    """

    REGISTERED_BY: ClassVar[str] = "a module constant EXPERIMENT under pliant.papers"

    id: str
    title: str
    figure: str
    references: tuple[str, ...]
    tiers: Mapping[str, Any]
    setup: Callable[[Any], Setup]
    sentences: Callable[[Results], dict[str, str]] | None = None
    source: str = ""

    @property
    def name(self) -> str:
        """What the command line calls it: its id, or the file that it is found in."""
        return self.source or self.id

    def settings(self, tier: str, changes: Sequence[str] = ()) -> Any:
        """A tier's settings with `key=value` changes; `ValueError` for an unknown tier or key, or a bad value."""
        if tier not in self.tiers:
            raise ValueError(unknown("tier", tier, list(self.tiers)))
        settings = self.tiers[tier]
        kinds = typing.get_type_hints(type(settings))
        new: dict[str, Any] = {}
        for change in changes:
            key, equals, text = change.partition("=")
            if not equals:
                raise ValueError(f"expected key=value after --set, got {change!r}")
            if key not in kinds:
                raise ValueError(unknown("setting", key, [f.name for f in fields(settings)]))
            new[key] = _parse(key, kinds[key], text)
        return replace(settings, **new)


def experiments() -> dict[str, Experiment]:
    """Every registered experiment by its id: `EXPERIMENT` of each module under `pliant.papers`."""
    import pliant.papers

    found = {}
    for info in pkgutil.walk_packages(pliant.papers.__path__, "pliant.papers."):
        experiment = getattr(importlib.import_module(info.name), "EXPERIMENT", None)
        if experiment is not None:
            found[experiment.id] = experiment
    return dict(sorted(found.items()))


def find(id: str) -> Experiment:
    """The experiment with this id, or that of a file `.py` with a constant EXPERIMENT.

    Raises `ValueError` with the nearest match for an unknown id, and for a file that holds none.
    """
    if id.endswith(".py"):
        return _of_file(Path(id))
    known = experiments()
    if id not in known:
        raise ValueError(unknown("experiment", id, list(known)))
    return known[id]


def _of_file(path: Path) -> Experiment:
    found = getattr(module(path), "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        got = "none" if found is None else type(found).__name__
        raise ValueError(f"expected a constant EXPERIMENT, a pliant.experiment.Experiment, in {path}, got {got}")
    if found.id in experiments():
        raise ValueError(f"{path}: the id {found.id!r} is taken, by an experiment of pliant's: choose another one")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", found.id) or ".." in found.id:
        raise ValueError(f"{path}: expected an id such as mine/study, got {found.id!r}")
    if not isinstance(found.tiers, Mapping):
        raise ValueError(f'{path}: expected settings by tier, such as {{"laptop": Settings()}}, got {found.tiers!r}')
    for tier, settings in found.tiers.items():
        if not is_dataclass(settings) or isinstance(settings, type) or not re.fullmatch(r"\w+", tier):
            raise ValueError(f"{path}: expected tiers by name with settings that are frozen dataclasses, got {tier!r}")
    return replace(found, source=str(path))


def _parse(key: str, kind: Any, text: str) -> Any:
    """A setting from the command line, by its annotation."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    try:
        if origin is tuple:
            return tuple(inner[0](part) for part in text.strip("()").split(",") if part.strip())
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int:
            return int(text.replace("_", ""))
        return kind(text)
    except (ValueError, KeyError):
        wanted = f"comma-separated {inner[0].__name__}s" if origin is tuple else f"a value of type {kind.__name__}"
        raise ValueError(f"expected {wanted} for {key}, got {text!r}") from None
