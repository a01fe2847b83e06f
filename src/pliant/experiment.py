"""Experiments as code that can fail: settings by tier, arms, what is measured, how it is drawn, and claims."""

from __future__ import annotations

import importlib
import pkgutil
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from pliant.claims import Claim
from pliant.results import Results
from pliant.words import unknown

if typing.TYPE_CHECKING:  # keeps `pliant list` free of torch
    from torch import nn

    from pliant.causes import Repair
    from pliant.diagnostics.base import Diagnostic
    from pliant.interventions import Chain
    from pliant.optim import Optimizer
    from pliant.probe import Probe
    from pliant.tasks import Task

TIERS = ("smoke", "laptop", "paper")


@dataclass(frozen=True)
class Arm:
    """One curve of a figure: what is trained how, and a sentence on what it is.

    `task` is its own, of as many steps, where it does not share that of the others.
    """

    label: str
    optimizer: Optimizer
    chain: Chain
    task: Task | None = None


@dataclass(frozen=True)
class Probing:
    """What `pliant.disentangle` measures of every seed, as columns.

    `lost` is the final probe loss less that of fresh networks, `lost/<repair>` what each mechanism took of it, which
    with `lost/unexplained` sums to `lost`; `probe_baseline` is the constant predictor's loss. Refits use the arm's
    optimizer, with its state, without the arm's interventions.

    Args:
        probe: the targets.
        repairs: the mechanisms.
        tasks: at the end of which tasks, counted from 0.
        targets: how many.
        steps: of each refit.
        batch_size: of the refits.
        examples: how many of each seed's examples are the inputs, at most.
    """

    probe: Probe
    repairs: tuple[Repair, ...]
    tasks: tuple[int, ...]
    targets: int
    steps: int
    batch_size: int = 128
    examples: int = 1024

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all refits of a seed, at most: repairs that find nothing to do are left out."""
        return len(self.tasks) * self.targets * (2 ** len(self.repairs) + 1) * self.steps


@dataclass(frozen=True)
class Setup:
    """What one tier of an experiment runs, measures, draws and claims.

    Args:
        task: the stream of tasks.
        data: name of a data set, or a path of an .npz file.
        net: a function of (input shape, number of outputs) that builds the network.
        arms: by name; the first is the baseline.
        diagnostics: measured at the end of every task and at every `measure_every` steps.
        measure_every: 0 measures at task ends only.
        dense: for so many steps after a switch, the update norm and the batch loss are kept at every step.
        evaluate: how many of each seed's examples accuracy and diagnostics look at, at most.
        standardize: inputs with mean 0 and variance 1 a channel; otherwise scaled to [0, 1].
        panels: what the figure shows.
        heat_map: what it shows instead, where there are too many arms for lines.
        areas: what it shows instead, where a quantity has parts.
        probing: what is asked about causes, and when.
        claims: what the paper says.
        deviations: where we depart from the paper.
    """

    task: Task
    data: str
    net: Callable[[tuple[int, ...], int], nn.Module]
    arms: dict[str, Arm]
    diagnostics: tuple[Diagnostic, ...]
    claims: tuple[Claim, ...]
    panels: tuple[Panel, ...]
    deviations: tuple[str, ...]
    columns: tuple[Column, ...] = ()
    heat_map: HeatMap | None = None
    areas: Areas | None = None
    probing: Probing | None = None
    measure_every: int = 0
    dense: int = 0
    evaluate: int = 4096
    standardize: bool = True


@dataclass(frozen=True)
class Panel:
    """One set of axes: a metric over tasks or steps, a line an arm, bands over seeds.

    Args:
        column: the metric.
        label: of the vertical axis, with units.
        over: `"task"` draws values at task ends, `"step"` all that was measured.
        log: logarithmic vertical axis.
        limits: of the vertical axis.
        marks: values the paper reports, by text.
    """

    column: str
    label: str
    over: Literal["task", "step"] = "task"
    log: bool = False
    limits: tuple[float, float] | None = None
    marks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class HeatMap:
    """A cell an arm, coloured by a metric at the end of the last task, mean over seeds.

    Args:
        column: the metric.
        label: what it is, with units.
        headings: of the columns.
        rows: the arms of each row by its label, None where there is no such arm; drawn in the order of the first.
        limits: of the colours.
    """

    column: str
    label: str
    headings: tuple[str, ...]
    rows: Mapping[str, tuple[str | None, ...]]
    limits: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Areas:
    """A set of axes an arm: the parts of a quantity on top of each other, means over seeds; negative parts below 0.

    Args:
        label: of the vertical axis, with units.
        parts: columns by what they are called; empty where they were not measured.
    """

    label: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """One column of the closing table: a metric at the end of the first or the last task, over seeds."""

    heading: str
    column: str
    task: Literal["first", "last"] = "last"
    digits: int = 2


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
        sentences: one plain sentence an arm, said of the results.
    """

    REGISTERED_BY: ClassVar[str] = "a module constant EXPERIMENT under pliant.papers"

    id: str
    title: str
    figure: str
    references: tuple[str, ...]
    tiers: Mapping[str, Any]
    setup: Callable[[Any], Setup]
    sentences: Callable[[Results], dict[str, str]] | None = None

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
        settings = replace(settings, **new)
        for key in settings.without_effect(new) if hasattr(settings, "without_effect") else ():
            warnings.warn(f"--set {key} has no effect with the other settings", stacklevel=2)
        return settings


def experiments() -> dict[str, Experiment]:
    """Every registered experiment by its id: `EXPERIMENT` of each module under `pliant.papers`."""
    import pliant.papers

    found = {}
    for info in pkgutil.walk_packages(pliant.papers.__path__, "pliant.papers."):
        module = importlib.import_module(info.name)
        experiment = getattr(module, "EXPERIMENT", None)
        if experiment is not None:
            found[experiment.id] = experiment
    return dict(sorted(found.items()))


def find(id: str) -> Experiment:
    """The experiment with this id; `ValueError` with the nearest match otherwise."""
    known = experiments()
    if id not in known:
        raise ValueError(unknown("experiment", id, list(known)))
    return known[id]


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
