"""Does acting on the answer help? Networks are aged and asked for causes, and trained anew with each of eight cures.

The analysis, written down before the first attribution was computed:

- The *loss* of a task is the mean over its course (so that what a reset forgets is paid for), on all examples of the
  task, up to the constant predictor's, as a share of that. What an arm *loses* is that of the last three tasks less
  that of the first; of a cured arm the smaller one of its own first loss and that without a cure is taken, so that a
  cure gains nothing by a first task that is easier, or by spoiling it. The *gain* of a cure is what is lost without it
  less what is lost with it. An agent has no tasks: its probe loss is compared, from the start to the end, and the
  accuracy of its policy that the cure costs is taken off.
- A situation counts where fresh networks learned its probe (to 0.8 of the constant predictor's loss) and the network
  without a cure lost more than 0.1 of that loss on it. (That fresh networks learn was asked of all situations together
  until the run at laptop tier was under way; nothing of it had been read then.)
- *Advice* is the cure of the mechanism with the largest share in the mean over half of the seeds (even places, then odd
  ones), the *best single cure* is that with the largest mean gain over the same half; both are scored on the other
  half, and averaged over the two. Claims are about situations: one number each, a paired t test over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pliant.claims import Checked, Claim
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.numbers import number
from pliant.papers.lyle2024.swiss_cheese import lost_share
from pliant.papers.toolbox.situations import SITUATIONS, pair
from pliant.plots import Cells
from pliant.probe.result import LEARNED
from pliant.results import Results
from pliant.waterfall import UNEXPLAINED
from pliant.words import unknown

LOST = 0.1  # of the constant predictor's loss
LAST = 3  # tasks at the end


@dataclass(frozen=True)
class Settings:
    """Settings of prescription.

    Args:
        data: a data set's name.
        hidden: widths of the hidden layers.
        channels: of the CNN's convolutions.
        num_examples: images a seed keeps.
        batch_size: examples a step.
        every: steps a task.
        num_tasks: tasks.
        target_period: of agents, optimizer steps between updates of the target network.
        target_updates: of agents, how many of these periods.
        targets: fresh targets of the probe.
        steps: of each refit.
        only: names of the situations; empty is all of them.
    """

    data: str = "digits"
    hidden: tuple[int, ...] = (64, 64)
    channels: tuple[int, ...] = (8, 16)
    num_examples: int = 500
    batch_size: int = 64
    every: int = 200
    num_tasks: int = 25
    target_period: int = 50
    target_updates: int = 60
    targets: int = 3
    steps: int = 300
    only: tuple[str, ...] = ()


def arm(situation: str, cure: str) -> str:
    """The name of an arm.

    >>> arm("gelu", "l2")
    'gelu-l2'
    """
    return f"{situation}-{cure}"


def setup(settings: Settings) -> Setup:
    """Each situation without a cure, with each of eight, with those of two mechanisms, and with layer norm and L2."""
    for name in settings.only:
        if name not in SITUATIONS:
            raise ValueError(unknown("situation", name, list(SITUATIONS)))
    chosen = {name: s for name, s in SITUATIONS.items() if not settings.only or name in settings.only}
    arms, cured = {}, {}
    for name, situation in chosen.items():
        for cure, treatment in situation.treatments(settings).items():
            label = f"{situation.label}: {treatment.label}"
            arms[arm(name, cure)] = Arm(label, situation.trial(settings, cure))
        cured[name] = tuple(situation.cures(settings))
    headings = tuple(dict.fromkeys(cure for cures in cured.values() for cure in cures))
    taken, given, advised = {}, {}, {}
    for name, situation in chosen.items():
        parts = [m in (*situation.mechanisms, "lost", UNEXPLAINED) for m in TAKEN]
        taken[situation.label] = tuple(
            partial(lost_share, arm=arm(name, "none"), column=column) if there else None
            for column, there in zip(TAKEN.values(), parts, strict=True)
        )
        given[situation.label] = tuple(
            partial(gain, name=arm(name, cure)) if cure in cured[name] else None for cure in headings
        )
        advised[situation.label] = tuple(partial(scored, name=name, score=score) for score in CHOICES.values())
    unit = "[of the constant predictor's loss]"
    return Setup(
        arms=arms,
        plots=(
            Cells("lost", f"loss of plasticity, and what took it {unit}", tuple(TAKEN), taken, ordered=True),
            Cells(
                "lost", f"what a cure gives back {unit}", tuple(HEADINGS[cure] for cure in headings), given,
                (-0.5, 1.0), ordered=True,
            ),
            Cells(
                "lost", f"gain on seeds that were not chosen on {unit}", tuple(CHOICES), advised, (-0.5, 1.0),
                ordered=True,
            ),
        ),
        table=(Column("lost on\nthe probe", "lost"),),
        claims=claims(tuple(chosen)),
        deviations=(
            "An experiment of ours: no paper asks whether advice by attribution helps.",
            "One strength a cure, those of toolbox/cures; none was tuned for a situation.",
            "An agent's gain is that of its probe, less the accuracy of its policy that the cure costs: agents have no "
            "sequence of tasks.",
            f"Data: {settings.data}, standardised, {settings.num_examples} images a seed; nets of "
            f"{' and '.join(map(str, settings.hidden))} units.",
        ),
    )  # fmt: skip


TAKEN = {
    "lost": "lost", "units": "lost/units", "norm growth": "lost/norm growth", "output layer": "lost/output layer",
    "target scale": "lost/target scale", "optimizer state": "lost/optimizer state",
    UNEXPLAINED: f"lost/{UNEXPLAINED}",
}  # fmt: skip
HEADINGS = {
    "layer_norm": "layer norm", "nap": "NaP", "redo": "ReDo", "l2": "L2", "rescale": "norm rescaling",
    "reset_last": "reset last layer", "optimizer_reset": "optimizer reset", "tuned": "tuned optimizer",
    "shrink": "shrink and perturb", "bins": "HL-Gauss",
}  # fmt: skip


def _of(name: str) -> str:
    """The situation of an arm."""
    return name.partition("-")[0]


def losses(results: Results, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The loss of the first task and of the last ones, as shares of the constant predictor's, `(seeds,)` each."""
    situation = SITUATIONS[_of(name)]
    if situation.agent:
        ends = [edge(name, "probe_loss") / edge(name, "probe_baseline") for edge in (results.first, results.last)]
        first, last = (np.fmin(end, 1.0) for end in ends)
        return first, last
    results.last(name, situation.column)  # Missing, where it is
    firsts, lasts = [], []
    for seed in results.seeds_of(name):
        table = results.tables[name, seed]
        values, task = np.fmin(table[situation.column] / situation.constant, 1.0), table["task"]
        firsts.append(values[task == 0].mean())
        lasts.append(values[task > task.max() - LAST].mean())
    return np.array(firsts), np.array(lasts)


def gain(results: Results, name: str) -> np.ndarray:
    """What a cure gives back, `(seeds,)`."""
    none = arm(_of(name), "none")
    (begun, end), (first, last) = losses(results, none), losses(results, name)
    found = (end - begun) - (last - np.fmin(first, begun))
    if SITUATIONS[_of(name)].agent:
        found = found - np.fmax(0.0, results.last(none, "accuracy") - results.last(name, "accuracy"))
    return found


@dataclass(frozen=True)
class Choice:
    """What was chosen on half of the seeds of a situation: the cures of the two largest shares, and the best one."""

    first: str
    second: str
    best: str


def choose(results: Results, name: str, seeds: np.ndarray) -> Choice:
    """The choice on some seeds, given by their places."""
    situation = SITUATIONS[name]
    shares = [results.last(arm(name, "none"), TAKEN[m])[seeds] for m in situation.mechanisms]
    order = np.argsort([-np.nan_to_num(np.nanmean(s), nan=-np.inf) for s in shares], kind="stable")
    first, second = (situation.prescribed(situation.mechanisms[i]) for i in order[:2])
    gains = {cure: gain(results, arm(name, cure))[seeds].mean() for cure in singles(name)}
    return Choice(first, second, max(gains, key=lambda cure: gains[cure]))


def singles(name: str) -> tuple[str, ...]:
    """The eight cures of a situation."""
    return tuple(SITUATIONS[name].cures(Settings()))


def _advised(results: Results, name: str, choice: Choice) -> np.ndarray:
    return gain(results, arm(name, choice.first))


def _best(results: Results, name: str, choice: Choice) -> np.ndarray:
    return gain(results, arm(name, choice.best))


def _median(results: Results, name: str, choice: Choice) -> np.ndarray:
    return np.median([gain(results, arm(name, c)) for c in singles(name) if c != choice.first], axis=0)


def _two(results: Results, name: str, choice: Choice) -> np.ndarray:
    """Both cures, in the order in which their mechanisms are listed."""
    order = [SITUATIONS[name].prescribed(m) for m in SITUATIONS[name].mechanisms]
    both = sorted((choice.first, choice.second), key=order.index)
    return gain(results, arm(name, pair(*both)))


def _fixed(results: Results, name: str, choice: Choice) -> np.ndarray:
    return gain(results, arm(name, SITUATIONS[name].fixed))


Scored = Callable[[Results, str, Choice], np.ndarray]
CHOICES: dict[str, Scored] = {
    "cure of the largest share": _advised,
    "cures of the two largest": _two,
    "best single cure": _best,
    "median of the others": _median,
    "layer norm + L2": _fixed,
}


def scored(results: Results, name: str, score: Scored) -> np.ndarray:
    """The gain of every seed of a situation, by what was chosen on the half of the seeds that it is not in."""
    places = np.arange(len(results.seeds_of(arm(name, "none"))))
    found = np.full(len(places), np.nan)
    for half in (0, 1):
        chosen, other = places[places % 2 == half], places[places % 2 != half]
        if len(chosen) and len(other):
            found[other] = score(results, name, choose(results, name, chosen))[other]
    return found


def left_out(results: Results, name: str) -> str:
    """Why a situation does not count; empty where it does."""
    none = arm(name, "none")
    baseline, fresh = (np.nanmean(results.last(none, column)) for column in ("probe_baseline", "probe_fresh"))
    if fresh > LEARNED * baseline:
        return "does not count: fresh networks did not learn its probe"
    if np.nanmean(lost_share(results, none)) <= LOST:
        return "is too little to count"
    return ""


@dataclass(frozen=True)
class Across(Claim):
    """A claim about situations: `effect` has one number for each that counts."""

    def check(self, results: Results) -> Checked:
        found = super().check(results)
        said = {"one seed": "fewer than two situations lost plasticity", "a seed diverged": "one seed"}
        return replace(found, reason=said.get(found.reason, found.reason))


def claims(names: tuple[str, ...]) -> tuple[Claim, ...]:
    """The claims about these situations."""

    def across(one: Scored, other: Scored, part: float = 1.0) -> Callable[[Results], np.ndarray]:
        def effect(results: Results) -> np.ndarray:
            found = [
                scored(results, name, one).mean() - part * scored(results, name, other).mean()
                for name in names
                if not left_out(results, name)
            ]
            return np.array(found or [np.nan])

        return effect

    return (
        Across(
            "Across situations, the cure of the largest share gains more than the median of the other single cures.",
            across(_advised, _median), ours=True,
        ),
        Across(
            "The cure of the largest share gains at least 90 % of the best single cure's gain (what is beyond it).",
            across(_advised, _best, 0.9), ours=True,
        ),
        Across(
            "The cures of the two largest shares together gain more than that of the largest alone.",
            across(_two, _advised), ours=True,
        ),
        Across(
            "Over situations, the cures of the two largest shares gain more than layer norm with L2, a fixed choice.",
            across(_two, _fixed), ours=True,
        ),
    )  # fmt: skip


def sentences(results: Results) -> dict[str, str]:
    """What was found in each situation, in plain words; what each cure gave back stands in the table."""
    return {name: _summary(results, _of(name)) for name in results.arms if name.partition("-")[2] == "none"}


def _summary(results: Results, name: str) -> str:
    none = arm(name, "none")
    taken = np.nanmean(lost_share(results, none))
    begin = f"lost {number(float(taken), 2)} of the constant predictor's loss on its probe"
    missing = [cure for cure in SITUATIONS[name].treatments(Settings()) if arm(name, cure) not in results.arms]
    reason = left_out(results, name)
    if reason or missing or len(results.seeds_of(none)) < 2:
        return f"{begin}{reason and f', which {reason}'}."
    choices = choose(results, name, np.arange(len(results.seeds_of(none))))
    gains = ", ".join(
        f"{said} {number(float(scored(results, name, score).mean()), 2)}" for said, score in CHOICES.items()
    )
    first, second = (SITUATIONS[name].treatments(Settings())[cure].label for cure in (choices.first, choices.second))
    return f"{begin}; advice over all seeds: {first}, then {second}; gains: {gains}."


EXPERIMENT = Experiment(
    id="toolbox/prescription",
    title="Does acting on the causes help? The cure of the largest share, against all others",
    figure="ours; a test of the advice",
    references=("lyle2024", "lyle2023"),
    tiers={
        "smoke": Settings(
            hidden=(16, 16), channels=(4, 4), num_examples=64, batch_size=32, every=8, num_tasks=3, target_period=5,
            target_updates=2, targets=2, steps=4, only=("relu", "norm_offset"),
        ),
        "laptop": Settings(),
        "paper": Settings(
            data="mnist", hidden=(512, 512), channels=(64, 64), num_examples=10_000, batch_size=128, every=2000,
            num_tasks=30, target_period=1000, target_updates=100, targets=10, steps=2000,
        ),
    },
    setup=setup,
    sentences=sentences,
)  # fmt: skip
