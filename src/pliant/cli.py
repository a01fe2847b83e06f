"""The command line: `pliant list | run | check | report | compare | keep | ledger | cite | export | demo | data`."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pliant.experiment import Experiment, Setup, check, experiments, find, unknown
from pliant.run.files import read_json
from pliant.run.store import Store, latest

OK, FAILED, BAD_CALL, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest match."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            options = [o for action in self._actions for o in action.option_strings]
            got = message.removeprefix("unrecognized arguments: ").split() or [""]
            message = unknown("argument", got[0], options)
        elif "invalid choice: " in message:
            got = message.split("invalid choice: ", 1)[1].split(" (", 1)[0].strip("'")
            choices = [c for a in self._actions if isinstance(a.choices, (dict, list)) for c in a.choices]
            message = unknown("command", got, choices)
        self.exit(BAD_CALL, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 failed, 2 a bad call, 130 after Ctrl-C."""
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    if rest:
        given.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"pliant: warning: {message}", file=sys.stderr)
            return given.run(given, Console(highlight=False))
    except ValueError as error:
        print(f"pliant: {error}", file=sys.stderr)
        return BAD_CALL
    except OSError as error:
        print(f"pliant: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("pliant: stopped", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pliant", description="Find out why your network stopped learning, and fix it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(name: str, run: Any, help: str, parent: Any = commands) -> argparse.ArgumentParser:
        made = parent.add_parser(name, help=help, description=help)
        made.set_defaults(run=run, parser=made)
        return made

    def selects(made: argparse.ArgumentParser, tier: str | None, needed: bool = True) -> None:
        made.add_argument("ids", nargs="+" if needed else "*", metavar="ID", help="an experiment, see `pliant list`")
        made.add_argument("--tier", default=tier, help="smoke, laptop or paper")
        made.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting (repeatable)"
        )

    listed = command("list", _list, "every experiment: the figure it reproduces, its claims, its cost by tier")
    run = command("run", _run, "train an experiment's arms and seeds; what is there already is kept")
    checks = command("check", _check, "each claim of the paper: holds, fails or inconclusive; exit code 0 if all hold")
    report = command("report", _report, "write an HTML page: figure, table, claims, settings, references")
    compare = command(
        "compare", _compare, "closing values of any runs, their differences over common seeds, one figure"
    )
    keep = command("keep", _keep, "a small copy of a run, from which everything is drawn and checked again")
    ledger = command("ledger", _ledger, "write every claim of both papers with our verdicts from stored results")
    cited = command("cite", _cite, "the BibTeX of experiments or runs")
    export = command("export", _export, "write stored metrics for TensorBoard, Weights & Biases (offline) or MLflow")
    demo = command("demo", _demo, "watch a network lose plasticity, and layer norm + L2 prevent it, offline")
    selects(run, "laptop")
    selects(checks, None)
    selects(report, None, needed=False)
    selects(export, None)
    for made in (run, demo):
        made.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 .. N-1")
    run.add_argument("--arms", metavar="A,B", help="only these arms")
    run.add_argument("--device", default="cpu", help="cpu or cuda")
    run.add_argument("--engine", default="local", metavar="local|ray", help="this machine's cores, or a Ray cluster")
    run.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster; auto: this machine's; default: one of its own"
    )
    run.add_argument("--gpus-per-pack", type=float, metavar="N", help="with Ray, GPUs a pack; 0.25: four share one")
    run.add_argument("--rerun", action="store_true", help="train anew what is there already")
    run.add_argument("--dry-run", action="store_true", help="show the plan with an estimate of its time; train nothing")
    export.add_argument("--to", required=True, metavar="SINK", help="tensorboard, wandb or mlflow")
    export.add_argument("--into", type=Path, metavar="DIR", help="where to; default: OUT/SINK")
    listed.add_argument(
        "what", nargs="?", choices=["experiments", "runs"], default="experiments", help="default: experiments"
    )
    report.add_argument("--index", action="store_true", help="write an index page over all runs instead")
    checks.add_argument("--format", choices=["md", "latex"], help="the tables, for a paper")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its end such as laptop-1a2b3c4d")
    compare.add_argument("--metric", action="append", default=[], metavar="M", help="a metric (repeatable)")
    compare.add_argument("--format", choices=["md", "latex"], help="the tables, for a paper")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write a page")
    keep.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its end such as laptop-1a2b3c4d")
    keep.add_argument("--to", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    ledger.add_argument(
        "--to", type=Path, default=Path("docs/claims.md"), metavar="FILE", help="default: docs/claims.md"
    )
    cited.add_argument(
        "names", nargs="*", metavar="NAME", help="experiments or run folders; all experiments by default"
    )
    for made in (listed, run, checks, report, compare, keep, ledger, export, demo):
        made.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept")
    for made in (listed, run, checks, report, compare):
        made.add_argument("--json", action="store_true", help="for programs")

    data = command("data", None, "data sets: list, fetch").add_subparsers(required=True, metavar="list|fetch")
    command("list", _data_list, "every data set, and whether it is here", data).add_argument(
        "--json", action="store_true", help="for programs"
    )
    command("fetch", _data_fetch, "fetch and verify data sets", data).add_argument("names", nargs="+", metavar="NAME")
    return parser


# -- experiments -------------------------------------------------------------------------------------------------------


def _list(given: argparse.Namespace, console: Console) -> int:
    if given.what == "runs":
        from pliant.report.listing import print_runs, runs

        kept = runs(given.out)
        print(json.dumps([asdict(run) for run in kept], indent=1)) if given.json else print_runs(console, kept)
        return OK
    found = experiments().values()
    if given.json:
        print(json.dumps([_described(e) for e in found], indent=1))
        return OK
    for experiment in found:
        described = _described(experiment)
        console.print(f"[bold]{experiment.id}[/]  {experiment.title}")
        console.print(f"  reproduces {experiment.figure}; {len(described['claims'])} claims")
        costs = (f"{tier} {cost['steps']:,} steps x {cost['arms']} arms" for tier, cost in described["tiers"].items())
        console.print(f"  {', '.join(costs)}\n")
    return OK


def _described(experiment: Experiment) -> dict[str, Any]:
    setups = {tier: experiment.setup(settings) for tier, settings in experiment.tiers.items()}
    return {
        "id": experiment.id,
        "title": experiment.title,
        "figure": experiment.figure,
        "claims": [claim.text for claim in next(iter(setups.values())).claims],
        "tiers": {
            tier: {"steps": s.task.num_steps, "arms": len(s.arms), "settings": asdict(experiment.tiers[tier])}
            for tier, s in setups.items()
        },
    }


def _run(given: argparse.Namespace, console: Console) -> int:
    if given.seeds < 1:
        raise ValueError(f"expected --seeds to be at least 1, got {given.seeds}")
    _check_engine(given)
    chosen = [_prepared(given, id) for id in given.ids]  # every mistake shows before anything is trained
    if given.dry_run:
        return _plan(given, console, chosen)
    codes = [_train(store, setup, arms, given, console) for store, setup, arms in chosen]
    return max(codes)


def _plan(given: argparse.Namespace, console: Console, chosen: list[tuple[Store, Setup, list[str]]]) -> int:
    from pliant.run.sweep import estimate, plan

    for store, setup, arms in chosen:
        packs = plan(arms, given.seeds)
        todo = [p for p in packs if given.rerun or store.complete(p.arm, list(p.seeds)) is None]
        console.print(
            f"[bold]{store.experiment.id}[/]  {setup.task.num_steps:,} steps a pack, {store.folder}", soft_wrap=True
        )
        for pack in packs:
            console.print(
                f"  {pack.arm} seeds {pack.seeds[0]}-{pack.seeds[-1]}: {'to do' if pack in todo else 'there'}"
            )
        seconds = estimate(setup, todo, given.device)
        console.print(f"  about {seconds / 60:.1f} minutes for {len(todo)} packs, measured on a few steps")
    return OK


def _prepared(given: argparse.Namespace, id: str) -> tuple[Store, Setup, list[str]]:
    from pliant.run.train import inputs

    experiment = find(id)
    settings = experiment.settings(given.tier, given.set)
    setup = experiment.setup(settings)
    arms = given.arms.split(",") if given.arms else list(setup.arms)
    for arm in arms:
        if arm not in setup.arms:
            raise ValueError(unknown("arm", arm, list(setup.arms)))
    if given.engine == "local":
        _check_device(given.device)
    setup.task.bind(inputs(setup), [0])
    return Store(given.out, experiment, given.tier, settings), setup, arms


def _check_engine(given: argparse.Namespace) -> None:
    if given.engine not in ("local", "ray"):
        raise ValueError(unknown("engine", given.engine, ["local", "ray"]))
    for option in ("address", "gpus_per_pack"):
        if given.engine == "local" and getattr(given, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')} is of no use without --engine ray")
    if given.gpus_per_pack is not None and (given.gpus_per_pack <= 0 or given.device == "cpu"):
        raise ValueError(f"expected --gpus-per-pack above 0, with --device cuda, got {given.gpus_per_pack:g}")


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def _train(store: Store, setup: Setup, arms: list[str], given: argparse.Namespace, console: Console) -> int:
    from pliant.run.sweep import Interrupted, sweep

    told = Console(stderr=True, highlight=False)
    start = time.perf_counter()
    try:
        with _live(told, store.experiment.id) as on_progress:
            done = sweep(
                store, setup, arms, given.seeds, device=given.device, rerun=given.rerun, engine=_engine(given),
                on_progress=on_progress,
            )  # fmt: skip
    except Interrupted:
        again = store.command(arms, given.seeds)
        told.print(f"stopped; what was done is kept. To go on: {again}", soft_wrap=True)
        return INTERRUPTED
    if done.kept:
        told.print(f"{done.kept} of {done.packs} packs were there already")
    for pack, error in done.failed.items():
        told.print(f"[red]failed[/] {pack.arm} seeds {pack.seeds}: {error.splitlines()[-1]}", soft_wrap=True)
        (store.folder / f"error-{pack.arm}-{pack.seeds[0]}.txt").write_text(error + "\n")
    if done.failed:
        told.print(
            f"{len(done.failed)} of {done.packs} packs failed; their errors are in {store.folder}", soft_wrap=True
        )
        return FAILED
    results = store.results(arms, list(range(given.seeds)))
    if given.json:
        print(json.dumps({"folder": str(store.folder), "seconds": time.perf_counter() - start}))
    else:
        from pliant.report.tables import print_closing

        print_closing(console, setup, results)
        console.print(f"{store.folder}", soft_wrap=True)
    return OK


def _engine(given: argparse.Namespace) -> Any:
    if given.engine == "local":
        return None
    from pliant.run.ray import Cluster

    return partial(Cluster, address=given.address, gpus_per_pack=given.gpus_per_pack)


@contextmanager
def _live(console: Console, title: str) -> Any:
    """A bar with rate and time left on a terminal; nothing in pipes."""
    if not console.is_terminal:
        yield lambda progress: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=10), TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]},"), TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title.rsplit("/", 1)[-1], total=None, rate="starting")
        start, first = time.perf_counter(), None

        def on_progress(progress: Any) -> None:
            nonlocal first
            first = progress.done if first is None else first
            rate = (progress.done - first) / (time.perf_counter() - start)
            packs = f"{progress.kept + progress.finished}/{progress.packs} packs, {len(progress.running)} running"
            failed = f", [red]{len(progress.failed)} failed[/]" if progress.failed else ""
            bar.update(
                task, total=progress.total, completed=progress.done, rate=f"{packs}{failed}, {rate:,.0f} steps/s"
            )

        yield on_progress


def _stored(given: argparse.Namespace, id: str) -> tuple[Store, Setup, Any, dict[str, Any]]:
    """The newest run of an experiment, or the one the options name, with its results."""
    experiment = find(id)
    if given.set:
        tier = given.tier or "laptop"
        store = Store(given.out, experiment, tier, experiment.settings(tier, given.set))
    else:
        if given.tier is not None:
            experiment.settings(given.tier)
        kept = read_json(latest(given.out, id, given.tier) / "settings.json")
        if kept is None:
            raise ValueError(f"{latest(given.out, id, given.tier)} has no readable settings.json: run it again")
        changes = [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in kept["settings"].items()]
        store = Store(given.out, experiment, kept["tier"], experiment.settings(kept["tier"], changes))
    run = read_json(store.folder / "run.json")
    if run is None:
        raise ValueError(f"no such run: {store.command([], 5)}")
    setup = experiment.setup(store.settings)
    return store, setup, store.results(run["arms"], run["seeds"]), run


def _claims(setup: Setup, results: Any) -> list:
    missing = [arm for arm in setup.arms if arm not in results.arms]
    if missing:
        raise ValueError(f"claims need all arms; missing: {', '.join(missing)}: run again without --arms")
    return check(setup.claims, results)


def _check(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.tables import claims_data, print_claims

    every, shown = [], []
    for id in given.ids:
        store, setup, results, run = _stored(given, id)
        checked = _claims(setup, results)
        every += checked
        shown.append(
            {"experiment": id, "folder": str(store.folder), "seeds": run["seeds"], "claims": claims_data(checked)}
        )
        if given.format:
            from pliant.report.tables import claims_grid, closing_grid

            print(closing_grid(setup, results).text(given.format), claims_grid(checked).text(given.format), sep="\n")
        elif not given.json:
            console.print(f"[bold]{id}[/]  {store.tier} tier, {len(run['seeds'])} seeds, {setup.data}")
            print_claims(console, checked)
    if given.json:
        print(json.dumps(shown, indent=1))
    return OK if all(c.verdict == "holds" for c in every) else FAILED


def _report(given: argparse.Namespace, console: Console) -> int:
    if given.index:
        from pliant.report.index import write_index

        print(write_index(given.out))
        return OK
    if not given.ids:
        raise ValueError("expected an experiment, got none: pliant report ID, or pliant report --index")
    written = [str(_page(*_stored(given, id))) for id in given.ids]
    print(json.dumps(written) if given.json else "\n".join(written))
    return OK


def _export(given: argparse.Namespace, console: Console) -> int:
    from pliant.run.sinks import SINKS, tracked

    if given.to not in SINKS:
        raise ValueError(unknown("sink", given.to, list(SINKS)))
    chosen = [tracked(store, results) for store, _, results, _ in (_stored(given, id) for id in given.ids)]
    folder = given.into or given.out / given.to
    folder.mkdir(parents=True, exist_ok=True)
    SINKS[given.to]([run for runs in chosen for run in runs], folder)
    console.print(f"{sum(map(len, chosen))} runs in {folder}", soft_wrap=True)
    return OK


def _page(store: Store, setup: Setup, results: Any, run: dict[str, Any], path: Path | None = None) -> Path:
    from pliant.report.page import page

    path = path or store.folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    checked = _claims(setup, results) if set(results.arms) == set(setup.arms) else []
    path.write_text(page(store.experiment, setup, store, results, checked, run), encoding="utf-8")
    return path


def _compare(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.compare import compare, comparison_data, grids, print_comparison
    from pliant.report.stored import find_run, opened

    made = compare([opened(find_run(name, given.out)) for name in given.runs], given.metric)
    if given.html:
        from pliant.report.compare_page import compare_page

        given.html.write_text(compare_page(made), encoding="utf-8")
    if given.json:
        print(json.dumps(comparison_data(made), indent=1))
    elif given.format:
        print("\n".join(grid.text(given.format) for grid in grids(made)))
    else:
        print_comparison(console, made)
    return OK


def _keep(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.keep import keep
    from pliant.report.stored import find_run, opened

    for name in given.runs:
        kept = keep(opened(find_run(name, given.out)), given.to)
        console.print(f"{kept.folder} ({kept.before:,} bytes -> {kept.after:,})", soft_wrap=True)
    return OK


def _ledger(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.ledger import write_ledger

    print(write_ledger(given.out, given.to))
    return OK


def _cite(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.stored import bibliography

    print(bibliography(given.names), end="")
    return OK


def _demo(given: argparse.Namespace, console: Console) -> int:
    given.ids, given.tier, given.set, given.arms = ["lyle2024/swiss_cheese"], "demo", [], None
    given.device, given.json, given.rerun, given.dry_run = "cpu", False, False, False
    given.engine, given.address, given.gpus_per_pack = "local", None, None
    task = find(given.ids[0]).tiers["demo"]
    console.print(
        f"Small networks learn random labels for {task.num_examples} images of digits. The labels are drawn again "
        f"every {task.every} steps, {task.num_tasks} times in all: can a network still learn the last ones?\n"
    )
    code = _run(given, console)
    if code != OK:
        return code
    store, setup, results, run = _stored(given, given.ids[0])
    assert store.experiment.sentences is not None
    for arm, sentence in store.experiment.sentences(results).items():
        console.print(f"[bold]{setup.arms[arm].label}[/] {sentence}")
    console.print(f"\n{_page(store, setup, results, run, given.out / 'demo' / 'report.html')}")
    return OK


# -- data --------------------------------------------------------------------------------------------------------------


def _data_list(given: argparse.Namespace, console: Console) -> int:
    from pliant.data import available

    infos = available()
    if given.json:
        print(json.dumps([asdict(info) for info in infos], indent=1, default=str))
        return OK
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "train", "test", "shape", "licence", "here"):
        table.add_column(heading)
    for i in infos:
        shape = "x".join(map(str, i.train_shape[1:]))
        here = "yes" if i.cached else "fetch from " + ", ".join(i.sources)
        table.add_row(i.name, f"{i.train_shape[0]:,}", f"{i.test_shape[0]:,}", shape, i.licence, here)
    console.print(table)
    return OK


def _data_fetch(given: argparse.Namespace, console: Console) -> int:
    from pliant.data import fetch

    for name in given.names:
        console.print(
            f"{name}: {fetch(name, progress=lambda line: console.print(line, soft_wrap=True))}", soft_wrap=True
        )
    return OK
