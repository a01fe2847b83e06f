"""`pliant list`: the experiments there are, or the runs that are stored."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from pliant.cli.parsing import OK, Commands, as_json, command, out
from pliant.experiment import Experiment, experiments
from pliant.terminal import paragraph


def add(commands: Commands) -> None:
    """Adds the command."""
    about = "every experiment: the figure it reproduces, its claims, its cost by tier"
    listed = command(commands, "list", show, about, "pliant list", "pliant list runs --out results")
    listed.add_argument(
        "what", nargs="?", choices=["experiments", "runs"], default="experiments", help="default: experiments"
    )
    out(listed)
    as_json(listed)


def show(given: argparse.Namespace, console: Console) -> int:
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
        console.print(Text.assemble((experiment.id, "bold"), f"  {experiment.title}"), soft_wrap=True)
        paragraph(console, f"reproduces {experiment.figure}; {len(described['claims'])} claims", "  ")
        costs = (_cost(tier, **cost) for tier, cost in described["tiers"].items())
        paragraph(console, ", ".join(costs), "  ")
        console.print()
    return OK


def _described(experiment: Experiment) -> dict[str, Any]:
    setups = {tier: experiment.setup(settings) for tier, settings in experiment.tiers.items()}
    return {
        "id": experiment.id,
        "title": experiment.title,
        "figure": experiment.figure,
        "claims": [claim.text for claim in next(iter(setups.values())).claims],
        "tiers": {
            tier: {
                "steps": max(arm.trial.num_steps for arm in s.arms.values()),
                "refit_steps": max(arm.trial.refits for arm in s.arms.values()),
                "arms": len(s.arms),
                "settings": asdict(experiment.tiers[tier]),
            }
            for tier, s in setups.items()
        },
    }


def _cost(tier: str, steps: int, refit_steps: int, arms: int, settings: dict[str, Any]) -> str:
    refits = f" (and {refit_steps:,} of refits)" if refit_steps else ""
    return f"{tier} {steps:,} steps{refits} x {arms} arms"
