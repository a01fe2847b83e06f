"""What is made of stored runs: `pliant check | report | figure | compare | keep | ledger | cite | export`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from pliant.cli.parsing import FAILED, OK, Commands, as_json, command, out, selects
from pliant.experiment import find
from pliant.run.store import Store, latest
from pliant.words import unknown

if TYPE_CHECKING:
    from pliant.report.stored import Stored

RUN = "a run's folder, its name such as laptop-1a2b3c4d, or an experiment (or a file with one) for its newest run"


def add(commands: Commands) -> None:
    """Adds the commands."""
    about = "each claim of the paper: holds, fails or inconclusive; exit code 0 if all hold"
    checks = command(commands, "check", check, about, "pliant check lyle2024/swiss_cheese")
    selects(checks, None, RUN)
    checks.add_argument("--format", choices=["md", "latex"], help="the tables, for a paper")

    made = command(
        commands, "report", report, "write an HTML page: figure, table, claims, settings, references",
        "pliant report lyle2024/swiss_cheese",
        "pliant report --index",
    )  # fmt: skip
    selects(made, None, RUN, nargs="*")
    made.add_argument(
        "--to", type=Path, metavar="FILE", help="the page; default: beside the run or in OUT, of kept runs below runs/"
    )
    made.add_argument("--index", action="store_true", help="write an index page over all runs instead")

    about = "write one figure of a run as a file for a paper: PDF, SVG or PNG"
    example = "pliant figure lyle2024/swiss_cheese --plot accuracy --to accuracy.pdf --width 3.25in"
    drawn = command(commands, "figure", figure, about, example)
    selects(drawn, None, RUN)
    drawn.add_argument("--plot", metavar="NAME", help="a metric, or the number of a figure on the page; default: 1")
    drawn.add_argument("--to", type=Path, required=True, metavar="FILE", help="FILE.pdf, FILE.svg or FILE.png")
    drawn.add_argument("--width", default="6.75in", metavar="3.25in", help="default: 6.75in, a page's")

    about = "closing values of any runs, their differences over common seeds, one figure"
    two = command(
        commands, "compare", compare, about, "pliant compare laptop-1a2b3c4d laptop-5e6f7a8b --metric accuracy"
    )
    two.add_argument("runs", nargs="+", metavar="RUN", help=RUN)
    two.add_argument("--metric", action="append", default=[], metavar="M", help="a metric (repeatable)")
    two.add_argument("--format", choices=["md", "latex"], help="the tables, for a paper")
    two.add_argument("--html", type=Path, metavar="FILE", help="write a page")

    about = "a small copy of a run, from which everything is drawn and checked again"
    small = command(commands, "keep", keep, about, "pliant keep lyle2024/swiss_cheese")
    small.add_argument("runs", nargs="+", metavar="RUN", help=RUN)
    small.add_argument("--to", type=Path, default=Path("results"), metavar="DIR", help="default: results")

    about = "write every claim of both papers with our verdicts from stored results"
    written = command(commands, "ledger", ledger, about, "pliant ledger --out results")
    to = Path("docs/claims.md")
    written.add_argument("--to", type=Path, default=to, metavar="FILE", help="default: docs/claims.md")

    cited = command(commands, "cite", cite, "the BibTeX of experiments or runs", "pliant cite lyle2024/swiss_cheese")
    about = "experiments or run folders; all experiments by default"
    cited.add_argument("names", nargs="*", metavar="NAME", help=about)

    about = "write stored metrics for TensorBoard, Weights & Biases (offline) or MLflow"
    sent = command(commands, "export", export, about, "pliant export lyle2024/swiss_cheese --to tensorboard")
    selects(sent, None, RUN)
    sent.add_argument("--to", required=True, metavar="SINK", help="tensorboard, wandb or mlflow")
    sent.add_argument("--into", type=Path, metavar="DIR", help="where to; default: OUT/SINK")

    for one in (checks, made, drawn, two, small, written, sent):
        out(one)
    for one in (checks, made, two):
        as_json(one)


def run_named(given: argparse.Namespace, name: str) -> Stored:
    """The run in a folder, or of an experiment: its newest, or the one that --tier and --set name."""
    from pliant.report.stored import find_run, opened

    if name.endswith(".py") and not given.set:
        experiment = find(name)
        return opened(latest(given.out, experiment, given.tier), {experiment.id: experiment})
    if given.set:
        experiment, tier = find(name), given.tier or "laptop"
        store = Store(given.out, experiment, tier, experiment.settings(tier, given.set))
        if not (store.folder / "run.json").exists():
            raise ValueError(f"no such run: {store.command([], 5)}")
        return opened(store.folder, {experiment.id: experiment})
    return opened(find_run(name, given.out, given.tier))


def check(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.tables import claims_data, claims_grid, closing_grid, print_claims

    every, shown = [], []
    for name in given.ids:
        run = run_named(given, name)
        checked = run.checked()
        every += checked
        about = {"experiment": run.experiment.id, "folder": str(run.folder), "seeds": list(run.seeds)}
        shown.append({**about, "claims": claims_data(checked)})
        if given.format:
            tables = closing_grid(run.setup, run.results), claims_grid(checked)
            print(*(table.text(given.format) for table in tables), sep="\n")
        elif not given.json:
            about = f"  {run.tier} tier, {len(run.seeds)} seeds{f', {run.data}' if run.data else ''}"
            console.print(Text.assemble((run.experiment.id, "bold"), about), soft_wrap=True)
            print_claims(console, checked)
    if given.json:
        print(json.dumps(shown, indent=1))
    return OK if all(c.verdict == "holds" for c in every) else FAILED


def report(given: argparse.Namespace, console: Console) -> int:
    if given.index:
        from pliant.report.index import write_index

        print(write_index(given.out, given.to))
        return OK
    if not given.ids:
        raise ValueError("expected an experiment, got none: pliant report ID, or pliant report --index")
    runs = [run_named(given, name) for name in given.ids]
    if given.to is not None and len(runs) > 1:
        raise ValueError("--to is for the page of one run")
    written = [str(page_of(run, given.to or _beside(run))) for run in runs]
    print(json.dumps(written) if given.json else "\n".join(written))
    return OK


def _beside(run: Stored) -> Path:
    """Where the page of a run lies: in its folder, but for a kept run, which is committed, below `runs`."""
    folder = Path("runs", run.experiment.id, run.folder.name) if run.run.get("kept") else run.folder
    return folder / "report.html"


def figure(given: argparse.Namespace, console: Console) -> int:
    from pliant.plots.figures import sheets, write

    if len(given.ids) > 1:
        raise ValueError(f"expected one run, got {len(given.ids)}: pliant figure {given.ids[0]} --to FILE.pdf")
    run = run_named(given, given.ids[0])
    shown = sheets(run.setup.plots)
    wanted = str(given.plot or 1)
    named = {str(at): plots for at, plots in enumerate(shown, 1)}
    for plot in run.setup.plots:
        for name in plot.columns():
            named.setdefault(name, [plot])
    if wanted not in named:
        raise ValueError(unknown("plot", wanted, list(named)))
    text = given.width.removesuffix("in")
    try:
        inches = float(text)
    except ValueError:
        raise ValueError(f"expected a width in inches such as 3.25in, got {given.width!r}") from None
    write(given.to, run.experiment.title, named[wanted], run.results, run.setup.look, inches)
    print(given.to)
    return OK


def page_of(run: Stored, path: Path) -> Path:
    """Writes the page of a run; returns its path."""
    from pliant.report.page import page

    path.parent.mkdir(parents=True, exist_ok=True)
    checked = run.checked()
    path.write_text(page(run, checked), encoding="utf-8")
    return path


def compare(given: argparse.Namespace, console: Console) -> int:
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


def keep(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.keep import keep
    from pliant.report.stored import find_run, opened

    for name in given.runs:
        kept = keep(opened(find_run(name, given.out)), given.to)
        console.print(f"{escape(str(kept.folder))} ({kept.before:,} bytes -> {kept.after:,})", soft_wrap=True)
        if kept.stayed:
            console.print(f"beside {len(kept.stayed)} of the arms that were kept before")
        if kept.dropped:
            told = f"no longer kept, being trained otherwise in this version: {', '.join(kept.dropped)}"
            console.print(escape(told), soft_wrap=True)
    return OK


def ledger(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.ledger import write_ledger

    print(write_ledger(given.out, given.to))
    return OK


def cite(given: argparse.Namespace, console: Console) -> int:
    from pliant.report.stored import bibliography

    print(bibliography(given.names), end="")
    return OK


def export(given: argparse.Namespace, console: Console) -> int:
    from pliant.run.sinks import SINKS, tracked

    if given.to not in SINKS:
        raise ValueError(unknown("sink", given.to, list(SINKS)))
    chosen = [run_named(given, name) for name in given.ids]
    runs = [one for run in chosen for one in tracked(run.store, run.results)]
    folder = given.into or given.out / given.to
    folder.mkdir(parents=True, exist_ok=True)
    SINKS[given.to](runs, folder)
    console.print(f"{len(runs)} runs in {escape(str(folder))}", soft_wrap=True)
    return OK
