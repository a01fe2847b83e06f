"""P2-E8: which axis is normalised matters, the mean's more than the standard deviation's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pliant.claims import Claim
from pliant.experiment import Arm, Experiment, Setup
from pliant.interventions import BatchNorm, Chain, Intervention, LayerNorm, MixedNorm
from pliant.papers.memorisation import Memorisation, average, fits, looks, table, whole
from pliant.plots import Lines
from pliant.results import Results

NORMS: dict[str, tuple[str, Intervention]] = {
    "layer_norm": ("layer norm", LayerNorm()),
    "batch_norm": ("batch norm", BatchNorm()),
    "hybrid": ("mean over the batch, deviation over units", MixedNorm(mean="batch", std="layer")),
    "mirror": ("mean over units, deviation over the batch", MixedNorm(mean="layer", std="batch")),
}
MARGIN = 0.02  # of accuracy


@dataclass(frozen=True)
class Settings(Memorisation):
    """Settings of axes; `l2` is the strength in all arms."""

    num_tasks: int = 101
    l2: float = 1e-5


def setup(settings: Settings) -> Setup:
    """Layer norm, batch norm, and the two that take the mean over one axis and the deviation over the other."""
    trial, l2 = settings.trial(looks()), whole(settings.l2)
    return Setup(
        arms={name: Arm(said, replace(trial, chain=Chain(norm, l2))) for name, (said, norm) in NORMS.items()},
        plots=(
            Lines("accuracy", "accuracy at the end of a task", limits=(0, 1.02)),
            Lines("linearized", "linearized units (share)", limits=(0, 1.02)),
            Lines("dead", "dead units (share)", limits=(0, 1.02)),
            Lines("norm_ratio", "parameter norm / initial norm", log=True),
        ),
        table=table(),
        claims=CLAIMS,
        deviations=(
            f"{settings.every:,} steps a task (P2: 50,000), {settings.num_examples:,} images, batches of "
            f"{settings.batch_size}, an MLP with hidden layers of {', '.join(map(str, settings.hidden))} (P2: MLP, "
            "CNN and ResNet-18 of unstated sizes).",
            f"L2 of {settings.l2:g}, as in P2, on normalisers' scales and offsets, too; P2 does not say.",
            "Batch statistics are the batch's own, when accuracy is measured, too: then of up to 1,024 images.",
            "In the hybrids the variance is around its own mean, not around the one that is subtracted; P2 gives no "
            "formula.",
            f"Data: {settings.data} (P2: CIFAR-10), standardised.",
        ),
    )  # fmt: skip


def _beside(other: str, threshold: float, text: str) -> Claim:
    def difference(r: Results) -> np.ndarray:
        return average("hybrid")(r) - average(other)(r)

    return Claim(
        text,
        difference,
        threshold,
        ours=threshold != 0,
        given=(fits("hybrid", "the hybrid fits its"),),
        checklist=(42,),
    )


CLAIMS = (
    _beside(
        "layer_norm", -MARGIN,
        f"Batch norm's mean with layer norm's deviation is at most {MARGIN} below layer norm in accuracy, averaged "
        "over 100 relabellings.",
    ),
    _beside(
        "batch_norm", -MARGIN,
        f"Batch norm's mean with layer norm's deviation is at most {MARGIN} below batch norm in accuracy, averaged "
        "over 100 relabellings.",
    ),
    _beside(
        "mirror", 0.0,
        "Batch norm's mean with layer norm's deviation is above its mirror, layer norm's mean with batch norm's "
        "deviation, in accuracy, averaged over 100 relabellings.",
    ),
)  # fmt: skip

EXPERIMENT = Experiment(
    id="lyle2024/axes",
    title="Which axis is normalised matters: batch norm's mean with layer norm's deviation is the most robust",
    figure="P2 appendix F, figure 25",
    references=("lyle2024", "ba2016", "ioffe2015"),
    tiers={
        "smoke": Settings(data="digits", hidden=(16, 16), num_examples=100, batch_size=32, every=10, num_tasks=3),
        "laptop": Settings(num_examples=500, batch_size=64, every=150),
        "paper": Settings(data="cifar10", net="cnn", num_examples=50_000, batch_size=512, every=50_000),
    },
    setup=setup,
)
