"""An experiment with numbers made by hand: nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pliant.claims import Claim
from pliant.diagnostics import DeadUnits
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import L2, Chain
from pliant.nets import MLP
from pliant.optim import Adam
from pliant.plots import Lines
from pliant.results import Results
from pliant.run.store import Store
from pliant.tasks import RandomLabels
from pliant.trials import Numbers, Supervised, When

RUN = {
    "arms": ["none", "l2"],
    "seeds": [0, 1, 2],
    "environment": {"torch": "2.13.0", "commit": "abc1234", "device": "cpu"},
}


@dataclass(frozen=True)
class Settings:
    """As small as settings can be."""

    data: str = "digits"
    hidden: tuple[int, ...] = (8, 8)
    l2: float = 0.5


def last(results: Results, arm: str) -> np.ndarray:
    return results.ends(arm, "accuracy")[:, -1]


CLAIMS = (
    Claim("L2 ends above nothing.", lambda r: last(r, "l2") - last(r, "none"), paper="0.3"),
    Claim("Nothing ends above L2.", lambda r: last(r, "none") - last(r, "l2")),
    Claim(
        "L2 ends above 0.99.",
        lambda r: last(r, "l2"),
        0.99,
        ours=True,
        given=(Claim("nothing reaches 2", lambda r: last(r, "none"), 2.0, ours=True),),
    ),
)
TRIAL = Supervised(
    RandomLabels(num_examples=8, batch_size=4, every=10, num_tasks=5), "digits", MLP, Adam(),
    measures=(Numbers((DeadUnits(),), When(every=5)),),
)  # fmt: skip


def arms(data: str = "digits") -> dict[str, Arm]:
    trial = replace(TRIAL, data=data)
    return {"none": Arm("no intervention", trial), "l2": Arm("L2 <b>&", replace(trial, chain=Chain(L2(0.5))))}


SETUP = Setup(
    arms=arms(),
    claims=CLAIMS,
    plots=(
        Lines("accuracy", "accuracy", limits=(0, 1), marks={"paper": 0.4}),
        Lines("norm", "norm", over="step", log=True),
    ),
    deviations=("P1 has <script>alert(1)</script> & more.",),
    table=(
        Column("first\ntask", "accuracy", "first"),
        Column("accu-\nracy", "accuracy"),
        Column("norm", "norm", digits=1),
    ),
)
EXPERIMENT = Experiment(
    id="made/up",
    title="Hand-made <numbers> & more",
    figure="P1 figure 0",
    references=("lyle2023",),
    tiers={"laptop": Settings()},
    setup=lambda settings: replace(SETUP, arms=arms(settings.data)),
    sentences=lambda results: dict.fromkeys(results.arms, "did <i>something</i>."),
)


def results(
    seeds: int = 3, every: int = 10, diverged: dict[tuple[str, int], int] | None = None, tasks: int = 5
) -> Results:
    """Both arms; the metric `norm` at every step, `accuracy` at task ends; NaN after `diverged`."""
    tables = {}
    for position, arm in enumerate(SETUP.arms):
        for seed in range(seeds):
            step = np.arange(1, every * tasks + 1)
            task = (step - 1) // every
            end = step % every == 0
            accuracy = 0.5 + 0.3 * position - 0.02 * task + 0.01 * (1 + position) * (seed - 1)
            norm = 1 + position + step / len(step) + 50 * (step % every == 1) + 0.05 * np.sin(step * (seed + 1))
            at = (diverged or {}).get((arm, seed), -1)
            gone = (step > at) & (at >= 0)
            tables[arm, seed] = {
                "step": step,
                "task": task,
                "end": end,
                "accuracy": np.where(end & ~gone, accuracy, np.nan),
                "norm": np.where(gone, np.nan, norm),
                "diverged_at": np.full(len(step), at),
            }
    return Results(tables)


def without_tasks(made: Results) -> Results:
    """The same numbers, of trials that have no tasks."""
    return Results({key: {n: v for n, v in t.items() if n not in ("task", "end")} for key, t in made.tables.items()})


def store(root: Path, settings: Settings | None = None) -> Store:
    """Where the run would lie."""
    return Store(root, EXPERIMENT, "laptop", settings or Settings())
