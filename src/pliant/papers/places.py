"""What the experiments on places of cameras share: settings, arms, plots, and claims about the gap between arms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.claims import Claim, trend
from pliant.data.cameras import COMPOSITED
from pliant.data.iwildcam import SIDES
from pliant.experiment import Column, Setup
from pliant.optim import Adam
from pliant.papers.memorisation import WEAR, compared, network
from pliant.plots import Lines
from pliant.results import Results
from pliant.tasks import Domains
from pliant.trials import Fit, HeldOut, Numbers, Supervised

PAPER_PLACES, PAPER_STEPS = 20, 2000  # of P2
ACCURACY = "held_out_accuracy"


@dataclass(frozen=True)
class Settings:
    """Settings of networks that go from place to place.

    Args:
        data: iwildcam (128 x 128) or iwildcam-32, from the folder of WILDS in PLIANT_DATA; cameras or cameras-digits,
            composited.
        net: mlp, cnn, resnet18, vit, or `package.module:function`, a function of (input shape, number of outputs).
        hidden: widths of the hidden layers of the mlp.
        num_examples: images of a place that a seed trains on.
        num_held_out: images of other sequences of the place.
        batch_size: images a step.
        every: steps a place.
        num_tasks: places.
        lr: of Adam.
        l2: strength of L2.
    """

    data: str = "cameras"
    net: str = "mlp"
    hidden: tuple[int, ...] = (128, 128)
    num_examples: int = 400
    num_held_out: int = 200
    batch_size: int = 32
    every: int = 2000
    num_tasks: int = 20
    lr: float = 1e-3
    l2: float = 1e-4

    @property
    def whole(self) -> bool:
        """Whether this is P2's experiment, as far as it is known, and not a stand-in for it."""
        long = self.num_tasks >= PAPER_PLACES and self.every >= PAPER_STEPS
        return self.data == "iwildcam" and self.net == "resnet18" and long

    def trial(self) -> Supervised:
        """A plain network, from place to place."""
        if self.data not in (*SIDES, *COMPOSITED):
            known = ", ".join((*SIDES, *COMPOSITED))
            raise ValueError(f"expected --set data= with places, one of {known}, got {self.data}")
        return Supervised(
            Domains(self.num_examples, self.batch_size, self.every, self.num_tasks, self.num_held_out),
            self.data,
            network(self.net, self.hidden),
            Adam(self.lr),
            measures=(
                Fit(examples=self.num_examples),
                HeldOut(examples=self.num_held_out),
                Numbers(WEAR, examples=min(256, self.num_examples)),
            ),
        )


def setup(settings: Settings, about: tuple[str, ...] = ()) -> Setup:
    """No intervention, L2, layer norm, and both; `about` are deviations that the experiment has beside the common."""
    return Setup(
        arms=compared(settings.trial(), settings.l2),
        plots=(
            Lines(ACCURACY, "accuracy, held out, at the end of a place", limits=(0, 1.02)),
            Lines(ACCURACY, "its difference from no intervention", against="none"),
            Lines("accuracy", "accuracy, training images of the place", limits=(0, 1.02)),
            Lines("dead", "dead units (share)", limits=(0, 1.02)),
            Lines("linearized", "linearized units (share)", limits=(0, 1.02)),
            Lines("norm_ratio", "parameter norm / initial norm", log=True),
        ),
        table=(
            Column("first\nplace", ACCURACY, "first"),
            Column("last\nplace", ACCURACY),
            Column("always\nthe same", "held_out_constant"),
            Column("last,\ntraining", "accuracy"),
            Column("dead", "dead"),
            Column("linear-\nized", "linearized"),
            Column("norm\nratio", "norm_ratio", digits=1),
        ),
        claims=claims(settings),
        deviations=(
            *about,
            f"{settings.num_tasks} places of {settings.every:,} steps (P2: 20 of 2,000), each seed in an order of its "
            "own, so that how far a network has come is not how difficult a place is; P2 does not say in which order.",
            f"A seed trains on {settings.num_examples} images of a place; accuracy is that on {settings.num_held_out} "
            "others, of other sequences, at the end of its steps. P2's accuracy is relative to a baseline, we know not "
            "which: the differences are those from no intervention.",
            f"P2 does not state the network, batch size, learning rate and L2 here: {settings.net}, "
            f"{settings.batch_size}, Adam {settings.lr:g}, {settings.l2:g} (normalisers' scales and offsets included).",
        ),
    )  # fmt: skip


def gap(r: Results) -> np.ndarray:
    """How much more accurate layer norm with L2 is than no intervention, at the ends of places, `(seeds, places)`."""
    return r.ends("both", ACCURACY) - r.ends("none", ACCURACY)


def quarter(values: np.ndarray) -> int:
    """How many of the places are a quarter of them, at least one."""
    return max(1, values.shape[1] // 4)


def claims(settings: Settings) -> tuple[Claim, ...]:
    """That networks learn a place, and how the gap goes on from place to place."""
    evidence, beside = ((45,), ()) if settings.whole else ((), (45,))
    learns = tuple(
        Claim(
            f"{said} learns its first place: held-out accuracy above that of always the same answer.",
            lambda r, arm=arm: r.first(arm, ACCURACY) - r.first(arm, "held_out_constant"),
            ours=True,
        )
        for arm, said in (("none", "The plain network"), ("both", "The network with layer norm and L2"))
    )

    def ends(r: Results) -> np.ndarray:
        values = gap(r)
        return values[:, -quarter(values) :].mean(1)

    def wears(r: Results) -> np.ndarray:
        values = r.ends("none", "accuracy")
        return values[:, : quarter(values)].mean(1) - values[:, -quarter(values) :].mean(1)

    return (
        *learns,
        Claim(
            "The gap in held-out accuracy between layer norm with L2 and the plain network grows with the number of "
            "places (Spearman's rho of gap and place in the order).",
            lambda r: trend(gap(r)),
            given=learns,
            checklist=evidence,
            beside=beside,
        ),
        Claim(
            "Over the last quarter of the places, layer norm with L2 is more accurate, held out, than the plain "
            "network.",
            ends,
            ours=True,
            given=learns,
            beside=(45,),
        ),
        Claim(
            "The plain network fits the training images of the last quarter of the places worse than those of the "
            "first quarter.",
            wears,
            ours=True,
            given=learns[:1],
            beside=(45,),
        ),
    )


SMOKE = Settings(
    data="cameras-digits", hidden=(16, 16), num_examples=40, num_held_out=30, batch_size=10, every=10, num_tasks=4
)
