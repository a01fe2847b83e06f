"""P2-E6: regression onto large values costs a bandit's network its plasticity; a head over bins can keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from pliant.claims import Claim, Effect
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.heads import Head, Scalar, TwoHot
from pliant.interventions import Chain, LayerNorm
from pliant.papers.agents import Agents, change, fits, less
from pliant.papers.memorisation import WEAR, whole
from pliant.plots import Lines, Trend
from pliant.results import Results
from pliant.rl import largest_value
from pliant.trials import Numbers, ProbeLoss, Steps, ValueLearning, When

HEADS = {"scalar": "regression", "two_hot": "two-hot", "smoothed": "smoothed two-hot"}
WAYS = {"none": "no intervention", "both": "layer norm + L2"}
KEPT = 0.05  # a rise of the probe loss that counts as none; the constant predictor's loss is 0.5
SPIKE = 10  # times the median loss make a spike, as of update norms in P1


@dataclass(frozen=True)
class Settings(Agents):
    """Settings of the bandit.

    Args:
        data: of all agents.
        gammas: the discounts; the last one is that of the long run and of the other start.
        l2: strength of L2.
        width: of a bin, at every discount.
        margin: of the support beyond 0 and 1 / (1 - gamma), which holds the probe's targets.
        smoothing: of the smoothed two-hot's labels.
        long: how many times as many target updates the long run has.
        often: optimizer steps between looks at the loss, where spikes are looked for.
    """

    data: str = "mnist"
    hidden: tuple[int, ...] = (64, 64)
    epsilon: float = 1.0
    gammas: tuple[float, ...] = (0.0, 0.9, 0.99)
    l2: float = 1e-6
    width: float = 1.0
    margin: float = 2.0
    smoothing: float = 0.01
    targets: int = 2
    long: int = 2
    often: int = 5

    def head(self, name: str) -> Head:
        if name == "scalar":
            return Scalar()
        low, high = -self.margin, largest_value(self.gamma) + self.margin
        return TwoHot(low, high, round((high - low) / self.width) + 1, self.smoothing if name == "smoothed" else 0.0)

    def chain(self, name: str) -> Chain:
        both = Chain(LayerNorm(), whole(self.l2))
        return {"none": Chain(), "layer_norm": Chain(LayerNorm()), "both": both}[name]

    def probe(self, head: str, at: Sequence[int] = (), points: int = 21) -> ProbeLoss:
        return super().probe("two_hot" if head == "smoothed" else head, at, points)


def name(gamma: float, head: str, way: str) -> str:
    """The arm of a discount, a head and an intervention.

    >>> name(0.99, "two_hot", "both")
    'gamma_0.99_two_hot_both'
    """
    return f"gamma_{gamma:g}_{head}_{way}"


def middle(head: str) -> str:
    """The arm of a head over bins that begins in the middle of its support, with layer norm and L2."""
    return f"middle_{head}"


def far(head: str, way: str) -> str:
    """The arm of the long run."""
    return f"long_{head}_{way}"


def setup(settings: Settings) -> Setup:
    """Every head at every discount, with layer norm and L2 and without; the other start; the long run."""
    arms = {}

    def agent(gamma: float, head: str, way: str, longer: int = 1) -> ValueLearning:
        of = replace(settings, gamma=gamma, target_updates=settings.target_updates * longer)
        on_the_way = tuple(of.num_steps * part // 3 for part in (1, 2)) if longer > 1 else ()
        inside = Numbers(WEAR, When(every=max(1, of.num_steps // 20), ends=False), min(of.num_images, 1024))
        spikes = (Steps(When(every=settings.often, ends=False)),) if gamma == 0 else ()
        measures = (of.probe(head, on_the_way), inside, *spikes)
        return of.trial(settings.data, "mlp", head=head, intervention=way, measures=measures)

    for gamma, head, way in product(settings.gammas, HEADS, WAYS):
        arms[name(gamma, head, way)] = Arm(f"gamma {gamma:g}, {HEADS[head]}, {WAYS[way]}", agent(gamma, head, way))
    small, large = settings.gammas[0], settings.gammas[-1]
    for head in ("two_hot", "smoothed"):
        said = f"gamma {large:g}, {HEADS[head]}, layer norm + L2, begins in the middle"
        arms[middle(head)] = Arm(said, replace(agent(large, head, "both"), begin=None))
    for head, way in product(("scalar", "two_hot"), ("layer_norm", "both")):
        said = f"layer norm, L2 of {settings.l2 if way == 'both' else 0:g}"
        arms[far(head, way)] = Arm(f"long, {HEADS[head]}, {said}", agent(large, head, way, settings.long))
    series = {
        f"{HEADS[head]}, {said}": {gamma: name(gamma, head, way) for gamma in settings.gammas}
        for head, (way, said) in product(HEADS, WAYS.items())
    }
    classified = tuple(name(0, head, way) for head, way in product(("two_hot", "smoothed"), WAYS))
    begun = (*(name(large, head, "both") for head in HEADS), middle("two_hot"), middle("smoothed"))
    longest = tuple(far(head, way) for head, way in product(("scalar", "two_hot"), ("layer_norm", "both")))
    updates = (settings.target_period, "target update")
    return Setup(
        arms=arms,
        plots=(
            Trend("probe_loss", "change of the probe loss", "discount", series, "change"),
            Trend("probe_loss", "initial probe loss", "discount", series, "first"),
            Lines("probe_loss", "probe loss, long run", over="step", arms=longest, unit=updates),
            *(
                (Lines("batch_loss", "loss, discount 0", over="step", log=True, arms=classified, unit=updates),)
                * (small == 0)
            ),
            Lines(
                "value",
                f"mean largest value, layer norm + L2, discount {large:g}",
                over="step",
                arms=begun,
                unit=updates,
            ),
            Lines(
                "norm_ratio",
                "parameter norm / initial norm, long run",
                over="step",
                log=True,
                arms=longest,
                unit=updates,
            ),
        ),
        table=(
            Column("initial\nloss", "probe_loss", "first"),
            Column("final\nloss", "probe_loss"),
            Column("accuracy", "accuracy"),
            Column("value", "value", digits=1),
            Column("dead", "dead"),
            Column("linear-\nized", "linearized"),
            Column("norm\nratio", "norm_ratio", digits=1),
        ),
        claims=_claims(settings),
        deviations=(
            "P2 does not state network, optimizer, batch size, steps, target period, support, bins and smoothing "
            f"here; ours: an MLP with hidden layers of {', '.join(map(str, settings.hidden))}, Adam, {settings.lr:g}, "
            f"batches of {settings.batch_size}, {settings.num_steps:,} steps with a target update every "
            f"{settings.target_period}, {settings.num_images:,} images a seed.",
            f"Values grow by at most 1 a target update: {settings.target_updates} of them reach at most "
            f"{100 * (1 - large**settings.target_updates):.0f} % of 1 / (1 - gamma) at {large:g}.",
            f"Bins of {settings.width:g}, from {-settings.margin:g} to 1 / (1 - gamma) + {settings.margin:g}, so that "
            "the support holds the probe's targets; smoothing "
            f"{settings.smoothing:g}, which draws values towards the middle of the support. The probe of the smoothed "
            "head is two-hot without smoothing, whose targets it could not reach otherwise.",
            "Heads over bins begin at 0, as regression does, by a constant on the output layer's biases; arms of their "
            "own begin in the middle of the support, where untrained ones do.",
            f"L2 of {settings.l2:g} on all parameters, those of normalisers, too.",
            "Which loss spikes at a discount of 0 we do not know: claims are on that of training, looked at every "
            f"{settings.often} steps of its second half, and on the probe's, whose start a saturated softmax spoils.",
            f"A spike is {SPIKE} times the median, as of P1's update norms: chosen after a pilot on seeds 100 and 101, "
            "in which no loss rose by a whole nat, our first guess.",
            f"Probes: {settings.targets} targets, {settings.steps:,} steps, "
            f"{min(settings.examples, settings.num_images):,} examples, a fresh optimizer, all outputs.",
            f"Data: {settings.data} (P2: CIFAR-10), standardised.",
        ),
    )


def _late(results: Results, arm: str) -> np.ndarray:
    """The batch losses of the second half of training, `(seeds, looks)`."""
    _, values = results.curve(arm, "batch_loss")
    return values[:, values.shape[1] // 2 :]


def spike(arm: str) -> Effect:
    """How far the largest batch loss of the second half of training lies above the median one, in nats."""
    return lambda r: _late(r, arm).max(1) - np.median(_late(r, arm), axis=1)


def ready(arm: str, said: str) -> tuple[Claim, Claim]:
    """Preconditions: a fresh network fits the probe, and the agent learned, so that there is something to lose."""
    learns = Claim(
        f"the agent learns which actions pay, to an accuracy of 0.5 ({said})",
        lambda r: r.last(arm, "accuracy"),
        0.5,
        ours=True,
    )
    return fits(arm, said), learns


def _claims(settings: Settings) -> tuple[Claim, ...]:
    small, large = settings.gammas[0], settings.gammas[-1]
    scalar = name(large, "scalar", "both")
    made = [
        Claim(
            f"Regression with layer norm and L2 loses plasticity at a discount of {large:g} (change of the probe "
            "loss).",
            change(scalar),
            given=ready(scalar, "regression"),
            checklist=(40,),
        ),
        Claim(
            f"It loses more at a discount of {large:g} than at {small:g}.",
            less(change(scalar), change(name(small, "scalar", "both"))),
            given=ready(scalar, "regression"),
            checklist=(40,),
        ),
    ]
    for head in ("two_hot", "smoothed"):
        for arm, where in ((name(large, head, "both"), "begun at 0"), (middle(head), "begun in the middle")):
            said = f"{HEADS[head]}, {where}"
            made += [
                Claim(
                    f"With layer norm and L2, {said}, loses none of it at {large:g} ({KEPT:g} minus the change).",
                    lambda r, arm=arm: KEPT - change(arm)(r),
                    ours=True,
                    given=ready(arm, said),
                    checklist=(40,),
                ),
                Claim(
                    f"With layer norm and L2, {said}, loses less than regression at {large:g}.",
                    less(change(scalar), change(arm)),
                    given=(*ready(scalar, "regression"), *ready(arm, said)),
                    checklist=(40,),
                ),
            ]
    made += [
        Claim(
            f"Layer norm and L2 lower what {HEADS[head]} loses at {large:g}.",
            less(change(name(large, head, "none")), change(name(large, head, "both"))),
            given=ready(name(large, head, "both"), HEADS[head]),
        )
        for head in HEADS
    ]
    made += [
        Claim(
            f"In the long run, {HEADS[head]} with layer norm and L2 ends with a lower probe loss than with layer norm "
            "alone.",
            less(change(far(head, "layer_norm")), change(far(head, "both"))),
            given=ready(far(head, "both"), HEADS[head]),
        )
        for head in ("scalar", "two_hot")
    ]
    if small == 0:
        plain, smooth = name(0, "two_hot", "none"), name(0, "smoothed", "none")
        spikes = Claim(
            f"At a discount of 0 the loss of two-hot spikes (peak over median above {SPIKE}, base-10 logarithm).",
            lambda r: np.log10(_late(r, plain).max(1) / np.median(_late(r, plain), axis=1)),
            threshold=np.log10(SPIKE),
            ours=True,
            checklist=(41,),
        )
        rises = Claim("At a discount of 0 the probe loss of two-hot rises.", change(plain), checklist=(41,))
        made += [
            spikes,
            Claim(
                "Label smoothing removes the spike (peak less median, in nats: two-hot's less smoothed two-hot's).",
                less(spike(plain), spike(smooth)),
                given=(spikes,),
                checklist=(41,),
            ),
            replace(rises, given=ready(plain, "two-hot")),
            Claim(
                "Label smoothing lowers that rise.",
                less(change(plain), change(smooth)),
                given=(*ready(smooth, "smoothed two-hot"), rises),
                checklist=(41,),
            ),
        ]
    return tuple(made)


EXPERIMENT = Experiment(
    id="lyle2024/bandit",
    title="Regression onto large values costs plasticity; a head over bins, with layer norm and L2, keeps it",
    figure="P2 figures 5 (bandit) and 21",
    references=("lyle2024", "schrittwieser2020", "ba2016"),
    tiers={
        "smoke": Settings(
            data="digits", num_images=120, hidden=(8, 8), batch_size=16, target_period=5, target_updates=2, targets=2,
            steps=3, examples=40, width=2.0, long=2,
        ),
        "laptop": Settings(),
        "paper": Settings(
            data="cifar10", num_images=50_000, hidden=(512, 512), batch_size=512, target_period=1000,
            target_updates=200, act_every=1, targets=10, steps=2000, examples=10_000, width=0.25, often=100,
        ),
    },
    setup=setup,
)  # fmt: skip
