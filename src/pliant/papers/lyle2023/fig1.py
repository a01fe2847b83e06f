"""P1 figure 1: Adam's default settings kill units after a change of labels; a faster second moment does not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pliant.claims import Claim
from pliant.diagnostics import DeadUnits, ParameterNorm
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.optim import Adam
from pliant.papers.memorisation import Memorisation
from pliant.plots import Lines
from pliant.results import Results
from pliant.trials import Fit, Numbers, Steps, When


@dataclass(frozen=True)
class Settings(Memorisation):
    """Settings of figure 1; `dense` steps after each switch keep every update norm."""

    dense: int = 100


def setup(settings: Settings) -> Setup:
    """Default and tuned Adam on random labels that are drawn again."""
    every = When(every=max(1, settings.every // 10))
    measures = (Fit(every), Numbers((DeadUnits(), ParameterNorm()), every), Steps(When(first=settings.dense)))
    trial = settings.trial(measures, standardize=False)
    default = Adam(settings.lr, betas=(0.9, 0.999), eps=1e-9)
    tuned = Adam(settings.lr, betas=(0.9, 0.9), eps=1e-9, eps_root=1e-3)
    return Setup(
        arms={
            "default": Arm("default Adam", replace(trial, optimizer=default)),
            "tuned": Arm("tuned Adam", replace(trial, optimizer=tuned)),
        },
        plots=(
            Lines("dead", "dead units (share)", over="step", limits=(0, 1.02)),
            Lines("accuracy", "accuracy", over="step", limits=(0, 1.02)),
            Lines("update_norm", "norm of one update", over="step", log=True),
        ),
        table=(
            Column("first task", "accuracy", "first"),
            Column("last task", "accuracy"),
            Column("dead", "dead"),
            Column("norm\nratio", "norm_ratio", digits=1),
        ),
        claims=CLAIMS,
        deviations=(
            "P1 does not state the batch size and the steps a task; ours are in the settings.",
            f"Network {settings.hidden} on {settings.num_examples} images (P1: (1024, 1024), 5000 images).",
            f"{settings.every * settings.num_tasks:,} steps (P1: 90,000).",
            "Pixels are scaled to [0, 1]; P1 does not say. The loss is the cross-entropy (P1: a classification loss).",
        ),
    )


def spike(results: Results, arm: str) -> np.ndarray:
    """Largest update norm right after a switch over the median of the rest, the mean over switches; one number a seed.

    Right after: within 100 steps, or within half of a shorter task.
    """
    found = []
    for seed in results.seeds_of(arm):
        table = results.tables[arm, seed]
        step, task, norms = table["step"], table["task"], table["update_norm"]
        into = step - np.array([step[task == t].min() for t in range(task.max() + 1)])[task]
        early = into < min(100, (into.max() + 1) // 2)
        peaks = [norms[early & (task == t)].max() for t in range(1, task.max() + 1)]
        found.append(np.mean(peaks) / np.median(norms[~early]))
    return np.array(found)


def _accuracies(results: Results, arm: str) -> np.ndarray:
    return results.ends(arm, "accuracy")


TUNED_FITS = Claim("tuned Adam fits its first task to 0.9", lambda r: _accuracies(r, "tuned")[:, 0], 0.9, ours=True)

CLAIMS = (
    Claim(
        "Default Adam kills more than half of the units.",
        lambda r: r.ends("default", "dead")[:, -1],
        threshold=0.5,
        paper="axis to 0.8",
        ours=True,
        checklist=(1,),
    ),
    Claim(
        "Default Adam's accuracy falls to below 0.3 (0.3 minus accuracy on the last task).",
        lambda r: 0.3 - _accuracies(r, "default")[:, -1],
        paper="trivial accuracy",
        ours=True,
        checklist=(1,),
    ),
    Claim(
        "Tuned Adam keeps dead units below 0.1 at the end of every task (0.1 minus the largest share).",
        lambda r: 0.1 - r.ends("tuned", "dead").max(axis=1),
        paper="stays alive",
        ours=True,
        given=(TUNED_FITS,),
        checklist=(2,),
    ),
    Claim(
        "Tuned Adam fits every task to within 0.1 of its first (worst task minus first).",
        lambda r: _accuracies(r, "tuned").min(axis=1) - _accuracies(r, "tuned")[:, 0],
        threshold=-0.1,
        paper="re-fits",
        ours=True,
        given=(TUNED_FITS,),
        checklist=(2,),
    ),
    Claim(
        "After a switch, default Adam's update norm peaks above 10 times its median.",
        lambda r: spike(r, "default"),
        threshold=10,
        paper="a spike",
        ours=True,
        checklist=(3,),
    ),
    Claim(
        "The spike is larger under default Adam than under tuned Adam (difference of peak over median).",
        lambda r: spike(r, "default") - spike(r, "tuned"),
        given=(TUNED_FITS,),
        checklist=(3,),
    ),
)

EXPERIMENT = Experiment(
    id="lyle2023/fig1",
    title="Adam's default settings lose plasticity when labels change; a faster second moment does not",
    figure="P1 figure 1",
    references=("lyle2023", "kingma2015"),
    tiers={
        "smoke": Settings(
            data="digits", hidden=(32, 32), num_examples=200, batch_size=32, every=60, num_tasks=3, dense=20
        ),
        "laptop": Settings(hidden=(256, 256), every=3000, num_tasks=8),
        "paper": Settings(hidden=(1024, 1024), num_examples=5000, batch_size=512, every=3000, num_tasks=30),
    },
    setup=setup,
)
