"""P1 figures 12, 13, 15 and 16: what each intervention does to the task itself; and figure 20's statistic, of these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.claims import Claim, Resampled
from pliant.diagnostics import GradientCovariance
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.papers.agents import INTERVENTIONS, SAID, Agents, less
from pliant.plots import Lines
from pliant.plots.scatter import rank_correlation
from pliant.results import Results
from pliant.trials import Numbers, When

SHOWN = ("none", "layer_norm", "weight_decay", "reset", "perturb")
EXAMPLES = 64  # of the gradients' cosines
CHANCE = 0.2  # the checklist's bound on what is no more than chance, of ten actions


@dataclass(frozen=True)
class Settings(Agents):
    """Settings of figure 12; `data` and `net` are those of all agents."""

    data: str = "mnist"
    net: str = "mlp"
    num_images: int = 200


def setup(settings: Settings) -> Setup:
    """Agents on the random-label MDP under each intervention, on the true-label MDP without."""
    arms = {}
    cosines = Numbers((GradientCovariance(),), When(ends=False, at=(settings.num_steps,)), EXAMPLES)
    for intervention in SHOWN:
        trial = settings.trial(
            settings.data, settings.net, mdp="random", intervention=intervention, measures=(cosines,)
        )
        arms[intervention] = Arm(INTERVENTIONS[intervention], trial)
    arms["two_hot"] = Arm("two-hot", settings.trial(settings.data, settings.net, mdp="random", head="two_hot"))
    arms["true"] = Arm("no intervention, true labels", settings.trial(settings.data, settings.net))
    return Setup(
        arms=arms,
        plots=(
            Lines("accuracy", "accuracy (greedy action = state)", over="step", limits=(0, 1.02), marks={"chance": 0.1}),
            Lines("td_error", "squared TD error", over="step", log=True),
            Lines("value", "mean largest value", over="step"),
        ),
        table=(
            Column("accuracy", "accuracy"),
            Column("TD error", "td_error", digits=3),
            Column("value", "value", digits=1),
            Column("mean\ncosine\nsize", "gradient_degeneracy"),
        ),
        claims=CLAIMS,
        deviations=(
            *settings.deviations()[:3],
            f"Random labels of {settings.num_images} images, which an {SAID[settings.net]} of this size can memorise "
            f"in {settings.num_steps:,} steps (P1: the whole data set, over 200 iterations); {settings.data}.",
            f"Shrink and perturb: {settings.shrink:g} and {settings.perturb:g}, which P1 does not give. Of the "
            "interventions, the target network sees none.",
            "Two-hot is shown, and nothing is claimed of it.",
            f"P1's statistic of gradients is of Atari agents; here of {EXAMPLES} transitions of agents on random "
            "labels.",
        ),
    )


def accuracy(results: Results, arm: str) -> np.ndarray:
    """The share of right greedy actions, the mean over the last quarter of the measurements, a seed."""
    _, values = results.curve(arm, "accuracy")
    return values[:, -max(1, values.shape[1] // 4) :].mean(1)


LEARNS = Claim(
    "without an intervention random labels are learned to 0.5", lambda r: accuracy(r, "none"), 0.5, ours=True
)

FAILS = Claim(
    "with shrink and perturb they are not, by 0.2 of accuracy",
    lambda r: accuracy(r, "none") - accuracy(r, "perturb"),
    0.2,
    ours=True,
)


def _at_chance(arm: str, sentence: str, paper: str) -> Claim:
    return Claim(sentence, lambda r: CHANCE - accuracy(r, arm), paper=paper, given=(LEARNS,), checklist=(22,))


def _less_accurate(arm: str, what: str) -> Claim:
    return Claim(
        f"{what} is less accurate on random labels than no intervention.",
        less(lambda r: accuracy(r, "none"), lambda r: accuracy(r, arm)),
        given=(LEARNS,),
    )


def _by_agent(results: Results) -> np.ndarray:
    """Accuracy and the mean size of the cosines of every agent on random labels, `(arms, seeds, 2)`."""
    return np.stack(
        [np.stack([accuracy(results, arm), results.last(arm, "gradient_degeneracy")], axis=1) for arm in SHOWN]
    )


CLAIMS = (
    Claim(
        "Without an intervention accuracy on random labels exceeds 0.5.",
        lambda r: accuracy(r, "none"),
        threshold=0.5,
        paper="0.8 (MNIST), 0.6 (CIFAR-10)",
        checklist=(22,),
    ),
    Claim(
        "With layer norm it exceeds 0.5, too.",
        lambda r: accuracy(r, "layer_norm"),
        threshold=0.5,
        paper="0.8 (MNIST), 1.0 (CIFAR-10)",
        checklist=(22,),
    ),
    _at_chance(
        "perturb",
        f"Shrink and perturb keeps it at chance: at most {CHANCE} ({CHANCE} minus accuracy).",
        "0.18 (MNIST), 0.14 (CIFAR-10)",
    ),
    _at_chance(
        "reset", f"So does resetting the last layer ({CHANCE} minus accuracy).", "0.20 (MNIST), 0.18 (CIFAR-10)"
    ),
    _less_accurate("perturb", "Shrink and perturb"),
    _less_accurate("reset", "Resetting the last layer"),
    Resampled(
        "Agents that fail have larger gradient cosines: accuracy and their mean size correlate negatively over all "
        "agents "
        "on random labels (minus Spearman's correlation).",
        _by_agent,
        given=(LEARNS, FAILS),
        checklist=(25,),
        statistic=lambda values: -rank_correlation(*values.reshape(-1, 2).T),
    ),
)

EXPERIMENT = Experiment(
    id="lyle2023/fig12",
    title="What each intervention does to the task itself",
    figure="P1 figures 12, 13, 15 and 16, and the statistic of figure 20",
    references=("lyle2023", "nikishin2022", "ash2020"),
    tiers={
        "smoke": Settings(
            data="digits", num_images=100, hidden=(16, 16), batch_size=16, target_period=10, target_updates=3, bins=23,
        ),
        "laptop": Settings(),
        "paper": Settings(
            num_images=50_000, hidden=(512, 512), batch_size=512, target_period=1000, target_updates=1000, act_every=1,
            bins=221,
        ),
    },
    setup=setup,
)  # fmt: skip
