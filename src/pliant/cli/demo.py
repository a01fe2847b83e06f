"""`pliant demo`: one experiment made small, told in sentences."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape

from pliant.cli.parsing import OK, Commands, command, out
from pliant.cli.results import page_of, run_named
from pliant.cli.train import call, num_seeds, run
from pliant.experiment import find

ID = "lyle2024/swiss_cheese"
READING = (
    "Lost is how much worse a network fits labels it has never seen than fresh networks do after as many steps. What "
    "each mechanism adds (units: those that are dead or linearized) sums to it; per cent are of all that adds."
)


def add(commands: Commands) -> None:
    """Adds the command."""
    about = "watch a network lose plasticity, and layer norm + L2 prevent it, offline"
    demo = command(commands, "demo", show, about, "pliant demo", "pliant demo --seeds 1    # a fifth of the time")
    num_seeds(demo)
    out(demo)


def show(given: argparse.Namespace, console: Console) -> int:
    given = call(given, [ID], tier="demo")
    task = find(ID).tiers["demo"]
    console.print(
        f"Small networks learn random labels for {task.num_examples} images of digits. The labels are drawn again "
        f"every {task.every} steps, {task.num_tasks} times in all: can a network still learn the last ones?\n"
    )
    code = run(given, console)
    if code != OK:
        return code
    made = run_named(given, ID)
    assert made.experiment.sentences is not None
    for arm, sentence in made.experiment.sentences(made.results).items():
        console.print(f"\n[bold]{made.setup.arms[arm].label}[/] {escape(sentence)}")
    console.print(f"\n{READING}\n", style="dim")
    console.print(escape(str(page_of(made, given.out / "demo" / "report.html"))))
    return OK
