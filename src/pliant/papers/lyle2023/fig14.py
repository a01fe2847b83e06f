"""P1 figure 14: how sharply the loss bends around an agent's CNN, with layer norm and without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.claims import Claim, Effect
from pliant.diagnostics import Sharpness
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.papers.agents import INTERVENTIONS, SAID, Agents
from pliant.plots import Lines
from pliant.trials import Numbers, When

ITERATIONS = 30


@dataclass(frozen=True)
class Settings(Agents):
    """Settings of figure 14.

    Args:
        data: of all agents.
        products: of the Hessian with a vector, for each eigenvalue.
        batch: examples the Hessian is taken of.
    """

    data: str = "cifar10"
    num_images: int = 500
    target_updates: int = 30
    products: int = 20
    batch: int = 128


def name(mdp: str, intervention: str) -> str:
    """The arm of an MDP and an intervention.

    >>> name("true", "layer_norm")
    'true_layer_norm'
    """
    return f"{mdp}_{intervention}"


def setup(settings: Settings) -> Setup:
    """The CNN with regression on true and on random labels, with layer norm and without."""
    every = max(1, settings.num_steps // ITERATIONS)
    sharp = Numbers((Sharpness(steps=settings.products),), When(every=every, ends=False), settings.batch)
    arms = {}
    for mdp in ("true", "random"):
        for intervention in ("none", "layer_norm"):
            trial = settings.trial(settings.data, "cnn", mdp=mdp, intervention=intervention, measures=(sharp,))
            arms[name(mdp, intervention)] = Arm(f"{SAID[mdp]}, {INTERVENTIONS[intervention]}", trial)
    return Setup(
        arms=arms,
        plots=(
            Lines("sharpness", "largest Hessian eigenvalue", over="step", log=True, marks={"P1, true": 500.0}),
            Lines("accuracy", "accuracy", over="step", limits=(0, 1.02)),
            Lines("value", "mean largest value", over="step"),
        ),
        table=(
            Column("sharpness,\nfirst", "sharpness", "first", digits=1),
            Column("sharpness,\nlast", "sharpness", digits=1),
            Column("accuracy", "accuracy"),
            Column("value", "value", digits=1),
        ),
        claims=CLAIMS,
        deviations=(
            *settings.deviations()[:3],
            f"CNN with {settings.channels} channels and {settings.cnn_hidden} units (P1: (64, 64), (256, 256)) on "
            f"{settings.data}; P1 does not name the data set.",
            f"An iteration is {every} optimizer steps here, {settings.target_updates} target updates in all; the "
            f"Hessian is that of {settings.batch} examples, by {settings.products} products of Lanczos.",
        ),
    )


def grown(arm: str) -> Effect:
    """How many times larger the largest eigenvalue became, as a base-2 logarithm."""
    return lambda r: np.log2(r.last(arm, "sharpness") / r.first(arm, "sharpness"))


CLAIMS = (
    *(
        Claim(
            f"Without layer norm the largest Hessian eigenvalue rises ({SAID[mdp]}; base-2 logarithm of the ratio).",
            grown(name(mdp, "none")),
            paper=f"to about {top}",
            checklist=(23,),
        )
        for mdp, top in (("true", 500), ("random", 200))
    ),
    *(
        Claim(
            f"With layer norm it stays within twice its start ({SAID[mdp]}; 1 minus the ratio's base-2 logarithm).",
            lambda r, mdp=mdp: 1 - grown(name(mdp, "layer_norm"))(r),
            paper="stays low",
            ours=True,
            checklist=(23,),
        )
        for mdp in ("true", "random")
    ),
    Claim(
        "The gap in growth between the two is larger with true labels than with random ones.",
        lambda r: (
            grown(name("true", "none"))(r)
            - grown(name("true", "layer_norm"))(r)
            - grown(name("random", "none"))(r)
            + grown(name("random", "layer_norm"))(r)
        ),
        checklist=(23,),
    ),
)

EXPERIMENT = Experiment(
    id="lyle2023/fig14",
    title="How sharply the loss bends around an agent's network, with layer norm and without",
    figure="P1 figure 14",
    references=("lyle2023",),
    tiers={
        "smoke": Settings(
            data="digits", num_images=100, channels=(4, 4), cnn_hidden=(8, 8), batch_size=16, target_period=10,
            target_updates=3, products=3, batch=20,
        ),
        "laptop": Settings(),
        "paper": Settings(
            num_images=50_000, channels=(64, 64), cnn_hidden=(256, 256), batch_size=512, target_period=1000,
            target_updates=150, act_every=1, products=80, batch=512,
        ),
    },
    setup=setup,
)  # fmt: skip
