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
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from pliant.cli.bar import live
from pliant.cli.described import print_departures, print_numbers, print_units, print_weights
from pliant.cli.parsing import FAILED, OK, Commands, as_json, command
from pliant.cli.verdict import print_causes
from pliant.terminal import paragraph
from pliant.words import unknown

if TYPE_CHECKING:
    from pliant.cli.saved import Checkpoint

CANNOT_TELL = 3
CODES = {"healthy": OK, "lost": FAILED, "cannot tell": CANNOT_TELL}
CHOICES = {"loss": ("cross_entropy", "mse"), "probe": ("sines", "labels"), "optimizer": ("adam", "sgd", "rmsprop")}
FRESH = 3  # networks that were never trained, for the numbers
BUDGET = ("probe", "steps", "targets")  # any of them asks for the probe


def add(commands: Commands) -> None:
    """Adds the command."""
    made = command(
        commands, "diagnose", run,
        "measure a checkpoint; exit code 0: plasticity is there, 1: lost, 3: cannot tell, 2: a bad call",
        "pliant diagnose --checkpoint model.pt",
        "pliant diagnose --checkpoint model.pt --model net:build --data batch.npz --loss cross_entropy --fresh",
    )  # fmt: skip
    made.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE",
        help="of torch.save, safetensors, a Stable-Baselines3 zip, or a folder of save_pretrained"
    )  # fmt: skip
    made.add_argument("--key", metavar="A.B", help="where the network is in it, if it holds several")
    made.add_argument("--model", metavar="MODULE:FUNCTION", help="what builds the module, as in net:build")
    made.add_argument(
        "--call", metavar="NAME", help="a method of the module, or module:function of it and x, in place of its forward"
    )
    made.add_argument("--data", type=Path, metavar="FILE", help="npz with inputs x and, for --loss, targets y")
    made.add_argument("--loss", metavar="|".join(CHOICES["loss"]), help="measure gradients and curvature too")
    made.add_argument("--fresh", action="store_true", help="refit it and fresh networks: what is lost, and why")
    made.add_argument(
        "--probe", metavar="|".join(CHOICES["probe"]), help="what is fitted; default: labels with cross_entropy"
    )
    made.add_argument("--steps", type=int, metavar="N", help="of each refit; chosen on control targets if left out")
    made.add_argument("--targets", type=int, metavar="K", help="how many, each with fresh networks (5)")
    made.add_argument(
        "--optimizer", metavar="|".join(CHOICES["optimizer"]), help="default: the checkpoint's with its state, or adam"
    )
    made.add_argument(
        "--lr", type=float, metavar="LR", help="learning rate (the checkpoint's before its schedule, or 0.001)"
    )
    made.add_argument(
        "--all", action="store_true", help="show all numbers, not only those that depart from fresh networks"
    )
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
    from pliant.cli import checkpoints, measuring, saved
    from pliant.modules import seeded

    checkpoint = saved.read(given.checkpoint, given.key)
    tensors = checkpoints.plain(checkpoint.tensors)
    said: dict[str, Any] = {"checkpoint": str(given.checkpoint)}
    batch = now = fresh = causes = None
    begun = {}
    if given.model:
        arrays = checkpoints.arrays(given.data) if given.data else None
        build = checkpoints.builder(given.model, arrays[0] if arrays else None, checkpoint.tensors)
        with seeded(0):
            model, *controls = (build() for _ in range(1 + FRESH))
        prefix = checkpoints.fill(model, checkpoint)
        said |= {"under": prefix} if prefix else {}
        tensors, begun = model.state_dict(), controls[0].state_dict()
        if arrays:
            batch = measuring.batch(model, *arrays, given)
            now = measuring.measured(model, controls[0], batch)
            fresh = measuring.reference(controls, batch)
            said |= {"measured": now, "fresh": {name: found._asdict() for name, found in fresh.items()}}
        if probing:
            assert batch is not None
            optimizer, how = measuring.optimizer(model, checkpoint, given)
            probe = measuring.probe(batch, given)
            with _shown() as on_progress:
                causes = measuring.causes(model, build, batch, optimizer, probe, given, on_progress)
            said |= {"optimizer": how.format(causes.probed.lr), "probe_targets": repr(probe)}
            said["causes"] = causes.to_dict()
    weights = measuring.weights(tensors, begun)
    verdict = "cannot tell" if causes is None else causes.verdict
    if given.page and causes is not None:
        from pliant.report import causes_page

        causes_page.write(causes, given.page, given.checkpoint.name)
    if given.json:
        print(json.dumps(_finite({**said, "weights": weights, "verdict": verdict}), indent=1))
        return CODES[verdict]
    if causes is None:
        _print_hint(console, given, checkpoint)
    else:
        print_causes(console, causes)
        paragraph(console, f"probe: {said['probe_targets']}, with {said['optimizer']}", style="dim")
    if "under" in said:
        paragraph(console, f"read: the tensors under {said['under']}", style="dim")
    if now is not None and fresh is not None:
        print_departures(console, now, fresh, FRESH)
    if given.all or now is None:
        print_weights(console, weights)
    if given.all and now is not None and fresh is not None:
        print_units(console, now, fresh)
        print_numbers(console, now, fresh)
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


def _print_hint(console: Console, given: argparse.Namespace, checkpoint: Checkpoint) -> None:
    lacks = [f"--{name}" for name in ("model", "data") if getattr(given, name) is None]
    needs = f", which needs {' and '.join(lacks)}" if lacks else ""
    state = "; it has its optimizer's state, which the probe would carry" if checkpoint.optimizers else ""
    paragraph(console, f"cannot tell without --fresh{needs}{state}", style="bold yellow")
    paragraph(console, "Numbers describe the network; what it can still learn, only the probe says.", style="dim")


def _finite(value: Any) -> Any:
    """For JSON, which has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _shown() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; nothing in pipes."""
    columns = (TextColumn("refits"), BarColumn(bar_width=20), TextColumn("{task.completed} of {task.total}"))
    with live(*columns, TimeRemainingColumn(), TextColumn("left")) as bar:
        if bar is None:
            yield lambda done, of: None
            return
        task = bar.add_task("refits", total=1)
        yield lambda done, of: bar.update(task, completed=done, total=of)
