"""An experiment run from Python, as `pliant run` does: every mistake shows before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pliant.cite import bibtex, references_used
from pliant.experiment import Experiment, Setup, find
from pliant.own import one_line
from pliant.report.stored import Stored, opened
from pliant.run.store import Store
from pliant.words import first_line, unknown


def train(
    id: str,
    *,
    tier: str = "laptop",
    seeds: int = 5,
    arms: Sequence[str] = (),
    out: str | Path = "runs",
    device: str = "cpu",
    **settings: Any,
) -> Stored:
    """Trains what an experiment lacks, with settings changed, and opens the run; what is there already is kept.

    It is the run of `pliant run`: a second call trains nothing, a killed one goes on, `pliant report` shows it. Call it
    below `if __name__ == "__main__":`, as it starts processes.

    Args:
        id: an experiment, or a file with one.
        tier: smoke, laptop or paper.
        seeds: how many, from 0 on.
        arms: only these, and what is added; by default all.
        out: where runs are kept.
        device: cpu or cuda.
        settings: of the experiment.

    Raises `ValueError` for whatever is wrong with the call, and where some of it failed.

    >>> run = train("toolbox/cures", tier="smoke", arms=["l2", "redo"], add=["my_module:MyCure"])  # doctest: +SKIP
    >>> run.results.last("mycure", "accuracy")  # one number a seed  # doctest: +SKIP
    array([0.41, 0.38, 0.44, 0.4 , 0.42])
    """
    from pliant.run.sweep import sweep

    if seeds < 1:
        raise ValueError(f"expected seeds to be at least 1, got {seeds}")
    changes = [f"{name}={_text(value)}" for name, value in settings.items()]
    store, setup, chosen = prepare(id, tier, changes, arms, Path(out), device)
    done = sweep(store, setup, chosen, seeds, device=device)
    for pack, error in done.failed.items():
        raise ValueError(f"{pack.arm} seeds {pack.seeds} failed: {error.splitlines()[-1]}")
    experiment = store.experiment
    return opened(store.folder, {experiment.id: experiment})


def prepare(
    id: str, tier: str, changes: Sequence[str], arms: Sequence[str], out: Path, device: str | None
) -> tuple[Store, Setup, list[str]]:
    """Where an experiment's run goes, what it does and its arms; `ValueError` for whatever is wrong with the call.

    Args:
        id: an experiment, or a file with one.
        tier: smoke, laptop or paper.
        changes: of its settings, `key=value`.
        arms: only these, and those that the setting `add` brings; empty is all.
        out: where runs are kept.
        device: of this machine; None where it is not this machine that trains.
    """
    from pliant.run.identity import definition

    experiment = find(id)
    settings = experiment.settings(tier, changes)
    file = id.endswith(".py")
    with one_line(f"{id}: setup") if file else nullcontext():
        setup = experiment.setup(settings)
        if not isinstance(setup, Setup):
            raise ValueError(f"expected a Setup, got {type(setup).__name__}: write return Setup(...)")
        bibtex(references_used(experiment, setup))
    added = _added(experiment, settings, setup)
    chosen = [*arms, *(arm for arm in added if arm not in arms)] if arms else list(setup.arms)
    for arm in chosen:
        if arm not in setup.arms:
            raise ValueError(unknown("arm", arm, list(setup.arms)))
        with one_line(f"{id}: arm {arm!r}") if file else nullcontext():
            definition(setup.arms[arm])
    _warn_without_effect(experiment, experiment.tiers[tier], settings, chosen if arms else [])
    if device is not None:
        _check_device(device)
    own = added + (chosen[:1] if ":" in getattr(settings, "task", "") else [])
    if file or own:
        from pliant.run.rehearse import rehearse  # draws

        with one_line(id):
            rehearse(experiment, setup, chosen if file else own)
    if not file:
        net = getattr(settings, "net", "")
        for arm in chosen if isinstance(net, str) and ":" in net else chosen[:1]:
            setup.arms[arm].trial.start([0])
    return Store(out, experiment, tier, settings), setup, chosen


def _added(experiment: Experiment, settings: Any, setup: Setup) -> list[str]:
    """The arms that the setting `add` brings."""
    if not getattr(settings, "add", ()):
        return []
    without = experiment.setup(replace(settings, add=())).arms
    return [arm for arm in setup.arms if arm not in without]


def _warn_without_effect(experiment: Experiment, usual: Any, settings: Any, arms: Sequence[str]) -> None:
    """Warns of each setting that differs from its tier's, `usual`, though without it these arms (none for all) were the
    same."""
    from pliant.run.identity import definition

    def trained(settings: Any) -> list[Any]:
        made = experiment.setup(settings).arms
        return [(arm, definition(made[arm])) if arm in made else None for arm in arms or made]

    for field in fields(settings):
        before = getattr(usual, field.name)
        if getattr(settings, field.name) != before:
            with suppress(ValueError):  # the other settings need it
                if trained(replace(settings, **{field.name: before})) == trained(settings):
                    warnings.warn(f"--set {field.name} has no effect on what is trained here", stacklevel=3)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {first_line(error)}") from None


def _text(value: Any) -> str:
    """A setting as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
