"""`pliant run`: what an experiment lacks is trained, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn

from pliant.cli.bar import live, span
from pliant.cli.parsing import FAILED, INTERRUPTED, OK, Commands, as_json, command, out, selects
from pliant.experiment import Setup
from pliant.run.store import Store
from pliant.words import unknown


def add(commands: Commands) -> None:
    """Adds the command."""
    made = command(
        commands, "run", run, "train an experiment's arms and seeds; what is there already is kept",
        "pliant run lyle2024/swiss_cheese --tier laptop --seeds 5",
        "pliant run lyle2024/swiss_cheese --set data=mine.npz --set net=my_module:build",
        "pliant run toolbox/cures --set data=mine.npz --set only=none,l2,redo --add my_module:MyCure",
        "pliant run my_study.py --tier smoke",
    )  # fmt: skip
    _options(made)


def _options(made: argparse.ArgumentParser) -> None:
    selects(made, "laptop", "an experiment, see `pliant list`, or a file with one")
    num_seeds(made)
    made.add_argument("--arms", metavar="A,B", help="only these arms, and what is added")
    added = "a cure of your own beside those of toolbox/cures: a class, or a function of nothing (repeatable)"
    made.add_argument("--add", action="append", default=[], metavar="MODULE:NAME", help=added)
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


def call(given: argparse.Namespace, ids: list[str], **changes: Any) -> argparse.Namespace:
    """A call of `run` on these experiments, made of another command's: all that it does not say is by default."""
    parser = argparse.ArgumentParser()
    _options(parser)
    return argparse.Namespace(**{**vars(parser.parse_args(["--", *ids])), **vars(given), "ids": ids, **changes})


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
    from pliant.study import prepare

    changes = [*given.set, *([f"add={','.join(given.add)}"] if given.add else [])]
    arms = given.arms.split(",") if given.arms else []
    return prepare(id, given.tier, changes, arms, given.out, given.device if given.engine == "local" else None)


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


def _plan(given: argparse.Namespace, console: Console, chosen: list[tuple[Store, Setup, list[str]]]) -> int:
    from pliant.run.progress import plan
    from pliant.run.sweep import estimate

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
        taken = estimate(setup, todo, given.device)
        told = f"about {_long(taken.seconds)} for {len(todo)} packs, measured on a few steps"
        if given.engine == "ray":
            told = (
                f"about {_long(taken.alone)} of one worker for {len(todo)} packs, at least {_long(taken.longest)} with "
                "many, measured here on a few steps"
            )
        console.print(f"  {told}", soft_wrap=True)
        size = f"{taken.memory / 2**30:.2f} GiB of memory, {taken.disk / 2**30:.2f} GiB of disk"
        console.print(f"  a pack takes up to {size} while it trains", soft_wrap=True)
    return OK


def _long(seconds: float) -> str:
    """A time in minutes, or in hours from two of them on."""
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


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
    from pliant.run.sweep import sweep
    from pliant.run.train import Interrupted

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
    from pliant.run.progress import plan
    from pliant.run.sinks import Live

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
