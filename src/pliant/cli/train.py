"""`pliant run`: what an experiment lacks is trained, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn

from pliant.cite import bibtex, references_used
from pliant.cli.bar import live, span
from pliant.cli.parsing import FAILED, INTERRUPTED, OK, Commands, as_json, command, out, selects
from pliant.experiment import Experiment, Setup, find
from pliant.own import one_line
from pliant.run.store import Store
from pliant.words import unknown


def add(commands: Commands) -> None:
    """Adds the command."""
    made = command(
        commands, "run", run, "train an experiment's arms and seeds; what is there already is kept",
        "pliant run lyle2024/swiss_cheese --tier laptop --seeds 5",
        "pliant run lyle2024/swiss_cheese --set data=mine.npz --set net=my_module:build",
        "pliant run my_study.py --tier smoke",
    )  # fmt: skip
    selects(made, "laptop", "an experiment, see `pliant list`, or a file with one")
    num_seeds(made)
    made.add_argument("--arms", metavar="A,B", help="only these arms")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--engine", default="local", metavar="local|ray", help="this machine's cores, or a Ray cluster")
    made.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster; auto: this machine's; default: one of its own"
    )
    made.add_argument("--gpus-per-pack", type=float, metavar="N", help="with Ray, GPUs a pack; 0.25: four share one")
    made.add_argument("--rerun", action="store_true", help="train anew what is there already")
    made.add_argument("--dry-run", action="store_true", help="show the plan and an estimate of its time; train nothing")
    made.add_argument("--sink", metavar="SINK", help="send curves as packs finish to tensorboard, wandb or mlflow")
    out(made)
    as_json(made)


def num_seeds(made: argparse.ArgumentParser) -> None:
    """The option for how many seeds are trained."""
    made.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 .. N-1; default: 5")


def run(given: argparse.Namespace, console: Console) -> int:
    if given.seeds < 1:
        raise ValueError(f"expected --seeds to be at least 1, got {given.seeds}")
    _check_engine(given)
    _check_sink(given)
    chosen = [prepared(given, id) for id in given.ids]  # every mistake shows before anything is trained
    if given.dry_run:
        return _plan(given, console, chosen)
    codes = [_train(store, setup, arms, given, console) for store, setup, arms in chosen]
    return max(codes)


def prepared(given: argparse.Namespace, id: str) -> tuple[Store, Setup, list[str]]:
    """Where an experiment's run goes, what it does and its arms; `ValueError` for whatever is wrong with the call."""
    from pliant.run.identity import definition

    experiment = find(id)
    settings = experiment.settings(given.tier, given.set)
    own = id.endswith(".py")
    with one_line(f"{id}: setup") if own else nullcontext():
        setup = experiment.setup(settings)
        if not isinstance(setup, Setup):
            raise ValueError(f"expected a Setup, got {type(setup).__name__}: write return Setup(...)")
        bibtex(references_used(experiment, setup))
    arms = given.arms.split(",") if given.arms else list(setup.arms)
    for arm in arms:
        if arm not in setup.arms:
            raise ValueError(unknown("arm", arm, list(setup.arms)))
        definition(setup.arms[arm])
    _warn_without_effect(experiment, experiment.tiers[given.tier], settings, arms)
    if given.engine == "local":
        _check_device(given.device)
    if own:
        from pliant.run.rehearse import rehearse  # draws

        with one_line(id):
            rehearse(experiment, setup, arms)
    else:
        for arm in arms if ":" in getattr(settings, "net", "") else arms[:1]:
            setup.arms[arm].trial.start([0])
    return Store(given.out, experiment, given.tier, settings), setup, arms


def _warn_without_effect(experiment: Experiment, usual: Any, settings: Any, arms: Sequence[str]) -> None:
    """Warns of each setting that differs from its tier's, `usual`, though without it these arms were the same."""
    from pliant.run.identity import definition

    def trained(settings: Any) -> list[Any]:
        made = experiment.setup(settings).arms
        return [definition(made[arm]) if arm in made else None for arm in arms]

    for field in fields(settings):
        before = getattr(usual, field.name)
        if getattr(settings, field.name) != before:
            with suppress(ValueError):  # the other settings need it
                if trained(replace(settings, **{field.name: before})) == trained(settings):
                    warnings.warn(f"--set {field.name} has no effect on what is trained here", stacklevel=2)


def _check_engine(given: argparse.Namespace) -> None:
    if given.engine not in ("local", "ray"):
        raise ValueError(unknown("engine", given.engine, ["local", "ray"]))
    for option in ("address", "gpus_per_pack"):
        if given.engine == "local" and getattr(given, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')} is of no use without --engine ray")
    if given.gpus_per_pack is not None and (given.gpus_per_pack <= 0 or given.device == "cpu"):
        raise ValueError(f"expected --gpus-per-pack above 0, with --device cuda, got {given.gpus_per_pack:g}")


def _check_sink(given: argparse.Namespace) -> None:
    if given.sink is None:
        return
    from pliant.run.sinks import SINKS

    if given.sink not in SINKS:
        raise ValueError(unknown("sink", given.sink, list(SINKS)))
    SINKS[given.sink]([], given.out / given.sink)  # says if it is not installed


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def _plan(given: argparse.Namespace, console: Console, chosen: list[tuple[Store, Setup, list[str]]]) -> int:
    from pliant.run.sweep import estimate, plan

    for store, setup, arms in chosen:
        packs = plan(setup, arms, given.seeds)
        todo = [p for p in packs if given.rerun or store.complete(p.arm, list(p.seeds)) is None]
        steps = max(setup.arms[arm].trial.num_steps for arm in arms)
        console.print(
            f"[bold]{store.experiment.id}[/]  {steps:,} steps a pack, {escape(str(store.folder))}", soft_wrap=True
        )
        for pack in packs:
            console.print(
                f"  {pack.arm} seeds {pack.seeds[0]}-{pack.seeds[-1]}: {'to do' if pack in todo else 'there'}"
            )
        seconds = estimate(setup, todo, given.device)
        console.print(f"  about {seconds / 60:.1f} minutes for {len(todo)} packs, measured on a few steps")
    return OK


def _train(store: Store, setup: Setup, arms: list[str], given: argparse.Namespace, console: Console) -> int:
    start = time.perf_counter()
    code = trained(store, setup, arms, given)
    if code != OK:
        return code
    results = store.results(arms, list(range(given.seeds)))
    if given.json:
        print(json.dumps({"folder": str(store.folder), "seconds": time.perf_counter() - start}))
    else:
        from pliant.report.tables import print_closing

        print_closing(console, setup, results)
        console.print(escape(str(store.folder)), soft_wrap=True)
    return OK


def trained(store: Store, setup: Setup, arms: list[str], given: argparse.Namespace, first: int = 0) -> int:
    """Trains what is missing, saying so on standard error; returns the exit code."""
    from pliant.run.sweep import Interrupted, sweep

    told = Console(stderr=True, highlight=False)
    sink = _sink(store, setup, arms, given)
    try:
        with _shown(store.experiment.id) as bar:

            def on_progress(progress: Any) -> None:
                bar(progress)
                sink(progress)

            done = sweep(
                store, setup, arms, given.seeds, first=first, device=given.device, rerun=given.rerun,
                engine=_engine(given), on_progress=on_progress,
            )  # fmt: skip
    except Interrupted:
        again = store.command(arms, given.seeds)
        told.print(f"stopped; what was done is kept. To go on: {escape(again)}", soft_wrap=True)
        return INTERRUPTED
    if done.kept:
        told.print(f"{done.kept} of {done.packs} packs were there already")
    for pack, error in done.failed.items():
        told.print(f"[red]failed[/] {pack.arm} seeds {pack.seeds}: {escape(error.splitlines()[-1])}", soft_wrap=True)
        with suppress(OSError):  # of a full disk the line above has told
            (store.folder / f"error-{pack.arm}-{pack.seeds[0]}.txt").write_text(error + "\n", encoding="utf-8")
    if done.failed:
        folder = escape(str(store.folder))
        told.print(f"{len(done.failed)} of {done.packs} packs failed; their errors are in {folder}", soft_wrap=True)
        return FAILED
    return OK


def _engine(given: argparse.Namespace) -> Any:
    if given.engine == "local":
        return None
    from pliant.run.ray import Cluster

    return partial(Cluster, address=given.address, gpus_per_pack=given.gpus_per_pack)


def _sink(store: Store, setup: Setup, arms: list[str], given: argparse.Namespace) -> Callable[[Any], None]:
    """Where the curves of finished packs go besides the store."""
    if given.sink is None:
        return lambda progress: None
    from pliant.run.sinks import Live
    from pliant.run.sweep import plan

    return Live(given.sink, store, plan(setup, arms, given.seeds), given.out / given.sink, rerun=given.rerun)


@contextmanager
def _shown(title: str) -> Iterator[Callable[[Any], None]]:
    """A bar on a terminal, with packs and the time left; nothing in pipes."""
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=10), TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[said]}"),
    )  # fmt: skip
    with live(*columns) as bar:
        if bar is None:
            yield lambda progress: None
            return
        task = bar.add_task(escape(title.rsplit("/", 1)[-1]), total=None, said="starting")

        def on_progress(progress: Any) -> None:
            said = f"{progress.kept + progress.finished} of {progress.packs} packs"
            if progress.failed:
                said += f", [red]{len(progress.failed)} failed[/]"
            left = progress.left()
            said += ", starting" if left is None else f", {span(left)} left"
            bar.update(task, total=progress.total, completed=progress.done, said=said)

        yield on_progress
