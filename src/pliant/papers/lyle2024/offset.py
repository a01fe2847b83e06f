"""P2-E1: targets far from zero, though they never change, cost a network its ability to learn others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from pliant.claims import Claim, Effect, NoEffect, trend
from pliant.diagnostics import DeadUnits, FeatureOffset, LinearizedUnits, Observation, OutputBiasNorm
from pliant.diagnostics._shared import given
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.functional.ranks import singular_values
from pliant.heads import Head, Scalar, TwoHot
from pliant.interventions import Chain, LayerNorm
from pliant.nets import MLP
from pliant.optim import Adam
from pliant.plots import Cells, Profile, Trend
from pliant.results import Results
from pliant.tasks import Waves
from pliant.trials import Arrays, Fit, Numbers, Supervised, When

NETS = {"plain": "squared error", "layer_norm": "layer norm", "two_hot": "two-hot head"}
AFTER = {"zero": "zero offset", "same": "same offset"}
STEP = (8.0, 16.0, 32.0)  # with 0, the offsets of the paper's main comparison


@dataclass(frozen=True)
class Settings:
    """Settings of the offset experiment.

    Args:
        data: a data set's name, or the path of an .npz file; only its inputs are used.
        hidden: widths of the hidden layers.
        num_examples: images a seed keeps.
        batch_size: examples a step.
        pretrain: steps on targets with an offset.
        finetune: steps on fresh targets afterwards.
        lr: learning rate of Adam.
        offsets: of the targets of pretraining, the first being the reference.
        frequency: of the targets' sine.
        low: lower end of the two-hot head's support.
        high: its upper end.
        bins: how many it has.
    """

    data: str = "cifar10"
    hidden: tuple[int, ...] = (128, 128)
    num_examples: int = 2000
    batch_size: int = 128
    pretrain: int = 3000
    finetune: int = 1000
    lr: float = 1e-3
    offsets: tuple[float, ...] = (0.0, 8.0, 16.0, 32.0, 100.0)
    frequency: float = 1e5
    low: float = -10.0
    high: float = 110.0
    bins: int = 121


def spectrum(seen: Observation) -> Tensor:
    """The singular values of the penultimate features, largest first."""
    return singular_values(given(seen.trace, "trace").features)


def name(net: str, offset: float, after: str) -> str:
    """The arm of a net that was pretrained with an offset; without one, both kinds of fine-tuning are the same.

    >>> name("plain", 8.0, "zero"), name("plain", 0.0, "same")
    ('plain_8_zero', 'plain_0')
    """
    return f"{net}_{offset:g}_{after}" if offset else f"{net}_0"


def setup(settings: Settings) -> Setup:
    """Nets pretrained on targets with each offset, then fine-tuned on fresh targets without it and with it."""
    two_hot = TwoHot(settings.low, settings.high, settings.bins)
    heads: dict[str, Head] = {"plain": Scalar(), "layer_norm": Scalar(), "two_hot": two_hot}

    def trial(net: str, offset: float, after: str) -> Supervised:
        offsets = (offset, offset if after == "same" else 0.0)
        task = Waves(
            settings.num_examples, settings.batch_size, (settings.pretrain, settings.finetune), 2,
            frequency=settings.frequency, offset=offsets,
        )  # fmt: skip
        head = heads[net]
        measures = (
            Fit(When(every=max(1, settings.finetune // 10)), settings.num_examples, head),
            Numbers((FeatureOffset(), OutputBiasNorm(), DeadUnits(), LinearizedUnits()), examples=512),
            Arrays({"spectrum": spectrum}, frozenset({"trace"}), When(tasks=(0,)), examples=512),
        )
        chain = Chain(LayerNorm()) if net == "layer_norm" else Chain()
        return Supervised(
            task, settings.data, partial(MLP, hidden=settings.hidden), Adam(settings.lr), chain, head, measures
        )

    arms = {}
    for net, said in NETS.items():
        for offset in settings.offsets:
            for after, then in AFTER.items() if offset else [("zero", "zero offset")]:
                arms[name(net, offset, after)] = Arm(
                    f"{said}, offset {offset:g}, then {then}", trial(net, offset, after)
                )
    series = {
        f"{said}, then {then}": {offset: name(net, offset, after) for offset in settings.offsets}
        for net, said in NETS.items()
        for after, then in AFTER.items()
    }
    ends = (settings.offsets[0], settings.offsets[-1])
    return Setup(
        arms=arms,
        plots=(
            Trend("error", "squared error after fine-tuning", "offset while pretraining", series, log=True),
            Profile(
                "spectrum",
                "singular values of the features after pretraining",
                "number",
                {f"{said}, offset {c:g}": name(net, c, "zero") for net, said in NETS.items() for c in ends},
                log=True,
            ),
            Cells(
                "error",
                "squared error after fine-tuning",
                tuple(f"{said},\nthen\n{then}" for said in NETS.values() for then in AFTER.values()),
                {
                    f"offset {offset:g}": tuple(name(net, offset, after) for net in NETS for after in AFTER)
                    for offset in settings.offsets
                },
                ordered=True,
            ),
        ),
        table=(
            Column("error,\npretrained", "error", "first"),
            Column("error,\nfine-tuned", "error"),
            Column("s_1", "feature_top", "first", digits=0),
            Column("bias", "output_bias_norm", "first", digits=1),
            Column("linear-\nized", "linearized", "first"),
        ),
        claims=CLAIMS,
        deviations=(
            f"P2's appendix trains on 10,000 images with batches of 512; here {settings.num_examples:,} images and "
            f"batches of {settings.batch_size}.",
            f"P2 does not state steps and network of this experiment: {settings.pretrain:,} steps, then "
            f"{settings.finetune:,}; an MLP with hidden layers of {', '.join(map(str, settings.hidden))}.",
            f"Offset {settings.offsets[-1]:g} beside P2's 0 to 32, from its study of singular values.",
            f"Two-hot: {settings.bins} bins from {settings.low:g} to {settings.high:g}; P2 does not state them. Errors "
            "are those of the predicted values, whatever the head.",
            "The optimizer's state is carried from pretraining into fine-tuning; P2 does not say.",
            f"Data: {settings.data} (P2: MNIST in its text, CIFAR-10 in its appendix), standardised.",
        ),
    )


def _final(net: str, offset: float, after: str) -> Effect:
    return lambda r: r.last(name(net, offset, after), "error")


def _trend(net: str, after: str) -> Effect:
    """How monotonically the final error rises with the offset."""
    return lambda r: trend(np.stack([_final(net, offset, after)(r) for offset in (0.0, *STEP)], axis=1))


def _pretrained(net: str, offset: float, column: str) -> Effect:
    return lambda r: r.first(name(net, offset, "zero"), column)


def _spectra(r: Results, net: str, offset: float) -> np.ndarray:
    arm = name(net, offset, "zero")
    return np.stack([r.array(arm, "spectrum", seed)[1][-1] for seed in r.seeds_of(arm)])


def fall(spectra: np.ndarray) -> np.ndarray:
    """log2(s_1 / s_10) of each spectrum, at most 27: what is below 1e-8 of the largest is rounding, on some machines 0.

    NaN where all features are 0.

    >>> fall(np.array([[8.0] * 9 + [2.0], [1.0] + [0.0] * 9, [0.0] * 10])).round(1).tolist()
    [2.0, 26.6, nan]
    """
    first = np.where(spectra[:, 0] > 0, spectra[:, 0], np.nan)
    return np.log2(first / np.maximum(spectra[:, 9], 1e-8 * first))


def _decay(net: str, offset: float) -> Effect:
    """How far the tenth singular value lies below the first, as a base-2 logarithm."""
    return lambda r: fall(_spectra(r, net, offset))


def _top_ratio(net: str, offset: float) -> Effect:
    """How many times larger the first singular value is than with offset 0, as a base-10 logarithm."""
    top = "feature_top"
    return lambda r: np.log10(_pretrained(net, offset, top)(r) / _pretrained(net, 0.0, top)(r))


def _spread(r: Results) -> np.ndarray:
    """The standard deviation over the mean of the features' projections on their top direction."""
    constancy = _pretrained("plain", 100.0, "feature_constancy")(r)
    return np.sqrt(np.maximum(1 / constancy**2 - 1, 0))


LEARNS = Claim(
    "a network that was never pretrained far from zero halves the error of the constant predictor",
    lambda r: 0.25 - _final("plain", 0.0, "zero")(r),
    ours=True,
)
CLAIMS = (
    Claim(
        "The larger the offset of pretraining (0, 8, 16, 32), the larger the error on fresh targets around zero.",
        _trend("plain", "zero"),
        given=(LEARNS,),
        checklist=(26,),
    ),
    Claim(
        "The larger the offset of pretraining (0, 8, 16, 32), the larger the error on fresh targets with the same "
        "offset.",
        _trend("plain", "same"),
        given=(LEARNS,),
        checklist=(26,),
    ),
    Claim(
        "Offset 100 makes the features' first singular value more than 10 times that of offset 0 (base-10 logarithm).",
        _top_ratio("plain", 100.0),
        threshold=1.0,
        ours=True,
        checklist=(27,),
    ),
    Claim(
        "The output bias does not carry the offset: with offset 100 it stays below 50.",
        lambda r: 50.0 - _pretrained("plain", 100.0, "output_bias_norm")(r),
        ours=True,
        checklist=(27,),
    ),
    Claim(
        "With offset 100, the projection on the top direction is nearly the same for all inputs: its standard "
        "deviation is below 0.1 of its mean.",
        lambda r: 0.1 - _spread(r),
        ours=True,
        checklist=(28,),
    ),
    Claim(
        "Layer norm bounds the first singular value: from offset 0 to 100 it grows less than without (base-10 "
        "logarithm).",
        lambda r: _top_ratio("plain", 100.0)(r) - _top_ratio("layer_norm", 100.0)(r),
        checklist=(29,),
    ),
    Claim(
        "With layer norm, too, the singular values fall off faster with offset 100 than with 0 (s_1 over s_10, base-2 "
        "logarithm).",
        lambda r: _decay("layer_norm", 100.0)(r) - _decay("layer_norm", 0.0)(r),
        checklist=(29,),
    ),
    NoEffect(
        "Two-hot keeps s_1 over s_10 with offset 100 within a factor of 2 of that with 0 (difference of the base-2 "
        "logarithms).",
        lambda r: _decay("two_hot", 100.0)(r) - _decay("two_hot", 0.0)(r),
        threshold=1.0,
        ours=True,
        checklist=(29,),
    ),
)

EXPERIMENT = Experiment(
    id="lyle2024/offset",
    title="Targets far from zero, though they never change, cost a network its ability to learn others",
    figure="P2 figure 1 (left) and its appendix on offsets",
    references=("lyle2024", "lyle2023"),
    tiers={
        "smoke": Settings(
            data="digits", hidden=(16, 16), num_examples=100, batch_size=20, pretrain=40, finetune=20,
            offsets=(0.0, 100.0),
        ),
        "laptop": Settings(),
        "paper": Settings(hidden=(512, 512), num_examples=10_000, batch_size=512, pretrain=10_000, finetune=2_000),
    },
    setup=setup,
)  # fmt: skip
