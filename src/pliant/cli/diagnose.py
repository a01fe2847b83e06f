"""`pliant diagnose`: what a checkpoint has left of its plasticity, and where the rest went."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pliant.cli.parsing import FAILED, OK, Commands, as_json, command
from pliant.words import unknown

if TYPE_CHECKING:
    from pliant.causes import Causes
    from pliant.cli.checkpoints import Checkpoint
    from pliant.cli.measuring import Numbers

CANNOT_TELL = 3
CODES = {"healthy": OK, "lost": FAILED, "cannot tell": CANNOT_TELL}
CHOICES = {"loss": ("cross_entropy", "mse"), "probe": ("sines", "labels"), "optimizer": ("adam", "sgd", "rmsprop")}
BUDGET = ("probe", "steps", "targets")  # any of them asks for the probe
SITES = ("dead", "dormant", "linearized", "saturated", "one_sided", "active")  # columns of the table of units


def add(commands: Commands) -> None:
    """Adds the command."""
    made = command(
        commands, "diagnose", run,
        "measure a checkpoint; exit code 0: plasticity is there, 1: lost, 3: cannot tell, 2: a bad call",
    )  # fmt: skip
    made.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="safetensors, or of torch.save")
    made.add_argument("--model", metavar="MODULE:FUNCTION", help="what builds the module, as in net:build")
    made.add_argument("--call", metavar="NAME", help="the module's method to call, where it has no forward")
    made.add_argument("--data", type=Path, metavar="FILE", help="npz with inputs x and, for --loss, targets y")
    made.add_argument("--loss", metavar="|".join(CHOICES["loss"]), help="measure gradients and curvature too")
    made.add_argument("--fresh", action="store_true", help="refit it and fresh networks: what is lost, and why")
    made.add_argument(
        "--probe", metavar="|".join(CHOICES["probe"]), help="what is fitted; default: labels with cross_entropy"
    )
    made.add_argument("--steps", type=int, metavar="N", help="of each refit (500)")
    made.add_argument("--targets", type=int, metavar="K", help="how many, each with fresh networks (5)")
    made.add_argument(
        "--optimizer", metavar="|".join(CHOICES["optimizer"]), help="default: the checkpoint's with its state, or adam"
    )
    made.add_argument("--lr", type=float, metavar="LR", help="learning rate (the checkpoint's, or 0.001)")
    made.add_argument("--page", type=Path, metavar="FILE", help="write the causes as an HTML page")
    as_json(made)


def run(given: argparse.Namespace, console: Console) -> int:
    probing = given.fresh or any(getattr(given, name) is not None for name in BUDGET)
    _check(given, probing)
    try:
        return _diagnosed(given, console, probing)
    except (ValueError, KeyboardInterrupt):
        raise
    except Exception as error:  # 1 stands for a loss of plasticity, and nothing else may end so
        what = f"--model {given.model}" if given.model else f"--checkpoint {given.checkpoint}"
        raise ValueError(f"{what} cannot be measured: {type(error).__name__}: {error}".splitlines()[0]) from error


def _diagnosed(given: argparse.Namespace, console: Console, probing: bool) -> int:
    from pliant.cli import checkpoints, measuring
    from pliant.modules import seeded

    checkpoint = checkpoints.read(given.checkpoint)
    tensors = checkpoints.plain(checkpoint.tensors)
    said: dict[str, Any] = {"checkpoint": str(given.checkpoint)}
    batch = now = fresh = causes = None
    begun = {}
    if given.model:
        arrays = checkpoints.arrays(given.data) if given.data else None
        build = checkpoints.builder(given.model, arrays[0] if arrays else None, checkpoint.tensors)
        with seeded(0):
            model, control = build(), build()
        checkpoints.fill(model, checkpoint)
        tensors, begun = model.state_dict(), control.state_dict()
        if arrays:
            batch = measuring.batch(model, *arrays, given)
            now, fresh = (measuring.measured(m, control, batch, given.call) for m in (model, control))
            said |= {"measured": now, "fresh": fresh}
        if probing:
            assert batch is not None
            optimizer, how = measuring.optimizer(model, checkpoint, given)
            probe = measuring.probe(batch, given)
            said |= {"optimizer": how, "probe_targets": repr(probe)}
            with _live() as on_progress:
                causes = measuring.causes(model, build, batch, optimizer, probe, given, on_progress)
            said["causes"] = causes.to_dict()
    weights = measuring.weights(tensors, begun)
    verdict = "cannot tell" if causes is None else causes.verdict
    if given.page and causes is not None:
        from pliant.report import causes_page

        causes_page.write(causes, given.page, given.checkpoint.name)
    if given.json:
        print(json.dumps(_finite({**said, "weights": weights, "verdict": verdict}), indent=1))
        return CODES[verdict]
    _print_weights(console, weights)
    if now is not None and fresh is not None:
        _print_units(console, now, fresh)
        _print_numbers(console, now, fresh)
    if causes is None:
        _print_hint(console, given, checkpoint)
    else:
        console.print(Text(f"\nprobe: {said['probe_targets']}, with {said['optimizer']}", "dim"))
        print_causes(console, causes)
    return CODES[verdict]


def _check(given: argparse.Namespace, probing: bool) -> None:
    for name, choices in CHOICES.items():
        if getattr(given, name) not in (None, *choices):
            raise ValueError(unknown(name, getattr(given, name), list(choices)))
    for name, least in (("steps", 1), ("targets", 2)):
        value = getattr(given, name)
        if value is not None and value < least:
            raise ValueError(f"expected --{name} to be at least {least}, got {value}")
    if given.lr is not None and not (given.lr > 0 and math.isfinite(given.lr)):
        raise ValueError(f"expected --lr above 0, got {given.lr}")
    if given.call and not given.model:
        raise ValueError("--call is of no use without --model package.module:build, which builds the network")
    if given.data and not given.model:
        raise ValueError("--data is of no use without --model package.module:build, which builds the network")
    if (probing or given.loss) and not (given.model and given.data):
        asked = "--loss" if given.loss else "the probe"
        raise ValueError(f"{asked} needs --model package.module:build and --data batch.npz")
    if not probing and (name := next((n for n in ("optimizer", "lr", "page") if getattr(given, n) is not None), None)):
        raise ValueError(f"--{name} is of no use without --fresh")
    if given.page and not given.page.parent.is_dir():
        raise ValueError(f"--page {given.page}: there is no folder {given.page.parent}")


def print_causes(console: Console, causes: Causes) -> None:
    """The verdict, and a table of the repairs where something was lost."""
    style = {"lost": "bold red", "healthy": "bold green"}.get(causes.verdict, "bold yellow")
    console.print(Text(f"\n{causes.conclusion}", style))
    if causes.verdict != "lost":
        return
    table = _table(("repair", "left"), *((n, "right") for n in ("share", "95 %", "alone", "moved")), ("evidence", ""))
    order = sorted(range(len(causes.repairs)), key=lambda i: -causes.shares[causes.repairs[i].name].mean)
    for i in order:
        name, alone = causes.repairs[i].name, causes.alone(i)
        moved, recovers = f"{causes.changed[name]:.2f}", "" if alone is None else f"{alone:+.3f}"
        table.add_row(name, *_share(causes, name), recovers, moved, causes.told(name))
    table.add_row("unexplained", *_share(causes, "unexplained"), "", "", "")
    console.print()
    console.print(table)
    if causes.idle:
        console.print(Text(f"nothing to repair: {', '.join(causes.idle)}", "dim"))
    unit = causes.probed.unit
    console.print(Text(f"alone: what one repair recovers, in {unit}; moved: how far it moves the outputs", "dim"))
    if order and causes.shares[causes.repairs[order[0]].name].mean > 0:
        top = causes.repairs[order[0]]
        console.print(Text(f"\ntreat {top.mechanism} with: {top.cure}"))


def _share(causes: Causes, name: str) -> tuple[str, str]:
    share = causes.shares[name]
    if not math.isfinite(share.low):
        return f"{100 * share.mean:.0f} %", "-"
    return f"{100 * share.mean:.0f} %", f"{100 * share.low:.0f} to {100 * share.high:.0f} %"


def _print_weights(console: Console, weights: dict[str, Numbers]) -> None:
    against = any("norm_ratio" in found for found in weights.values())
    ranks = ("srank", "effective_rank", "stable_rank")
    names = ("norm", *(("fresh",) if against else ()), "top s.v.", "srank", "effective", "stable", "of")
    table = _table(("tensor", "left"), ("shape", "left"), *((name, "right") for name in names))
    for name, found in weights.items():
        numbers = [found["norm"], *((found.get("norm_ratio"),) if against else ()), found.get("spectral_norm")]
        cells = [_number(value) for value in (*numbers, *(found.get(rank) for rank in ranks), found.get("full_rank"))]
        if against and cells[1]:
            cells[1] = f"{cells[1]}x"
        table.add_row(name, "x".join(map(str, found["shape"])), *cells)
    console.print(table)
    ratio = "fresh: the norm over that of a fresh draw; " if against else ""
    console.print(Text(f"{ratio}s.v.: singular value; srank, effective and stable: ranks, of so many", "dim"))


def _print_units(console: Console, now: Numbers, fresh: Numbers) -> None:
    columns = [name for name in SITES if name in now]
    sites = [key.partition("/")[2] for key in now if columns and key.startswith(f"{columns[0]}/")]
    if not sites:
        return
    table = _table(("units at", "left"), *((name.replace("_", " "), "right") for name in columns))
    for site in sites:
        table.add_row(site, *(_percent(now.get(f"{name}/{site}")) for name in columns))
    table.add_section()
    table.add_row("all", *(_percent(now.get(name)) for name in columns), style="bold")
    table.add_row("in a fresh network", *(_percent(fresh.get(name)) for name in columns), style="dim")
    console.print()
    console.print(table)


def _print_numbers(console: Console, now: Numbers, fresh: Numbers) -> None:
    """What is said of the whole network; units have a table of their own."""
    table = _table(("number", "left"), ("here", "right"), ("fresh", "right"))
    for name, value in now.items():
        if "/" not in name and not name.endswith("_count") and name not in SITES:
            table.add_row(name, _number(value), _number(fresh.get(name)))
    console.print()
    console.print(table)
    console.print(Text("`pliant diagnostics` says what each is", "dim"))


def _print_hint(console: Console, given: argparse.Namespace, checkpoint: Checkpoint) -> None:
    lacks = [f"--{name}" for name in ("model", "data") if getattr(given, name) is None]
    needs = f", which needs {' and '.join(lacks)}" if lacks else ""
    state = "; it has its optimizer's state, which the probe would carry" if checkpoint.optimizer else ""
    console.print(Text(f"\ncannot tell without --fresh{needs}{state}", "bold yellow"))
    console.print(Text("These numbers describe the network; what it can still learn, only the probe says.", "dim"))


def _table(*columns: tuple[str, Any]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for at, (heading, justify) in enumerate(columns):
        made.add_column(heading, justify=justify or "left", overflow="fold", no_wrap=at > 0 and justify != "")
    return made


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    if 1e3 <= size < 1e5:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size == 0 or 1e-3 <= size < 1e3 else f"{value:.1e}"


def _percent(share: float | None) -> str:
    return "" if share is None or not math.isfinite(share) else f"{100 * share:.3g} %"


def _finite(value: Any) -> Any:
    """For JSON, which has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _live() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; nothing in pipes."""
    told = Console(stderr=True, highlight=False)
    if not told.is_terminal:
        yield lambda done, of: None
        return
    columns = (TextColumn("refits"), BarColumn(bar_width=20), TextColumn("{task.completed} of {task.total}"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=told, transient=True) as bar:
        task = bar.add_task("refits", total=1)
        yield lambda done, of: bar.update(task, completed=done, total=of)
