"""P1 figures 4, 17 and 18: how late checkpoints fit the probe: not stuck higher, but slower and less steadily."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from pliant.claims import Claim
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.papers.agents import INTERVENTIONS, SAID, Agents, fits
from pliant.plots import Lines, Profile
from pliant.results import Results

CHAINS = ("none", "layer_norm")
SHARES = (0.1, 0.2, 0.5)  # of the training, at which probes are fitted, beside both ends: P1's iterations 10, 20, 50
POINTS = 41


@dataclass(frozen=True)
class Settings(Agents):
    """Settings of figure 4; `data` and `kind` (mlp, cnn, ...) are those of all agents."""

    data: str = "cifar10"
    kind: str = "cnn"
    num_images: int = 500


def name(head: str, intervention: str) -> str:
    """The arm of a head and an intervention.

    >>> name("two_hot", "layer_norm")
    'two_hot_layer_norm'
    """
    return f"{head}_{intervention}"


def setup(settings: Settings) -> Setup:
    """The CNN with both heads, with layer norm and without, probed five times."""
    at = tuple(round(share * settings.num_steps) for share in SHARES)
    arms = {}
    for head, intervention in product(("scalar", "two_hot"), CHAINS):
        measures = (settings.probe(head, at, POINTS),)
        trial = settings.trial(settings.data, settings.kind, head=head, intervention=intervention, measures=measures)
        arms[name(head, intervention)] = Arm(f"{SAID[head]}, {INTERVENTIONS[intervention]}", trial)
    steps = tuple(float(s) for s in np.unique(np.linspace(0, settings.steps, POINTS).round()))
    return Setup(
        arms=arms,
        plots=(
            *(
                Profile(
                    "probe_curve",
                    f"probe loss ({arm.label})",
                    "step of the probe",
                    {"checkpoint": key},
                    steps,
                    moments=tuple(range(len(SHARES) + 2)),
                )
                for key, arm in arms.items()
            ),
            Lines("probe_loss", "final probe loss", over="step"),
            Lines("probe_rises", "share of steps at which the probe loss rises", over="step"),
        ),
        table=(
            Column("initial\nloss", "probe_loss", "first"),
            Column("final\nloss", "probe_loss"),
            Column("rises,\nfirst", "probe_rises", "first"),
            Column("rises,\nlast", "probe_rises"),
            Column("value", "value", digits=1),
        ),
        claims=CLAIMS,
        deviations=(
            *settings.deviations(),
            f"A CNN with {settings.channels} channels and {settings.cnn_hidden} units (P1: (64, 64), (256, 256)).",
            f"Rises are counted between {POINTS} moments of the probe, of the loss on all of its examples (P1 speaks "
            "of the minibatch's, too).",
            "Why the first checkpoint's loss rises more often (the run kept, CNN, regression): it comes down to the "
            "noise of its minibatches. All of its rises lie below a tenth of the constant predictor's loss, where it "
            "is two thirds of the time and the last checkpoint never; before that it has none, and the last "
            "checkpoint one, an overshoot at the start in which the loss grows by a quarter or more.",
        ),
    )


def curve(results: Results, arm: str, moment: int, share: float) -> np.ndarray:
    """The probe loss at a share of its steps, of the first (0) or the last (-1) moment, a seed."""
    found = [results.array(arm, "probe_curve", seed)[1][moment] for seed in results.seeds_of(arm)]
    return np.stack(found)[:, round(share * (len(found[0]) - 1))]


PLAIN = name("scalar", "none")
GIVEN = (fits(PLAIN, "CNN, regression"),)

CLAIMS = (
    Claim(
        "Late checkpoints fit the probe more slowly: half-way, its loss is higher than from the first one "
        "(regression).",
        lambda r: curve(r, PLAIN, -1, 0.5) - curve(r, PLAIN, 0, 0.5),
        given=GIVEN,
        checklist=(8,),
    ),
    Claim(
        "They do not plateau: from half-way to the end, the probe loss of late checkpoints still falls (regression).",
        lambda r: curve(r, PLAIN, -1, 0.5) - curve(r, PLAIN, -1, 1.0),
        given=GIVEN,
        checklist=(8,),
    ),
    Claim(
        "The probe loss of late checkpoints rises at more of its steps than that of the first one (regression).",
        lambda r: r.last(PLAIN, "probe_rises") - r.first(PLAIN, "probe_rises"),
        given=GIVEN,
        checklist=(9,),
    ),
    Claim(
        "The final probe loss rises over training (regression).",
        lambda r: r.last(PLAIN, "probe_loss") - r.first(PLAIN, "probe_loss"),
        paper="0.16 to 0.47 for the CNN on CIFAR-10",
        given=GIVEN,
        checklist=(7,),
        expected=0.2,
    ),
)

EXPERIMENT = Experiment(
    id="lyle2023/fig4",
    title="How late checkpoints fit the probe: slower and less steadily",
    figure="P1 figures 4, 17 and 18",
    references=("lyle2023",),
    tiers={
        "smoke": Settings(
            data="digits", kind="mlp", num_images=100, hidden=(8, 8), batch_size=16, target_period=10,
            target_updates=10, bins=23, targets=2, steps=4, examples=30,
        ),
        "laptop": Settings(),
        "paper": Settings(
            num_images=50_000, channels=(64, 64), cnn_hidden=(256, 256), batch_size=512, target_period=1000,
            target_updates=100, act_every=1, bins=221, targets=10, steps=2000, examples=10_000,
        ),
    },
    setup=setup,
)  # fmt: skip
