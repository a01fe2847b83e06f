"""P2-E5 and E7's core: layer norm and L2 have different holes; stacked, they keep a network learning."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pliant.causes import Norm, OptimizerState, OutputLayer, Units
from pliant.causes.words import remarks, treatment
from pliant.claims import Claim
from pliant.diagnostics import (
    DeadUnits,
    FeatureRanks,
    LinearizedUnits,
    ParameterNorm,
    PredictiveEntropy,
    RelativeUpdate,
)
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.functional.statistics import interval
from pliant.interventions import L2, Chain, LayerNorm
from pliant.papers.memorisation import Memorisation, above, compared, complementary, fell, fits, keeps, looks, table
from pliant.plots import Lines, Waterfalls
from pliant.probe import FreshLabels
from pliant.probe.result import LEARNED, MARGIN
from pliant.results import Results
from pliant.trials import Mechanisms, When
from pliant.waterfall import UNEXPLAINED


@dataclass(frozen=True)
class Settings(Memorisation):
    """Settings of swiss_cheese; `l2` is the strength in all arms that have it."""

    l2: float = 1e-4


@dataclass(frozen=True)
class Probed(Settings):
    """Settings with causes: at the last task, the plasticity of every network is measured and disentangled.

    Args:
        checkpoints: at how many tasks, evenly spaced, causes are asked for; the last is among them.
        targets: fresh labellings the probe is fitted to.
        steps: of each refit.
    """

    checkpoints: int = 1
    targets: int = 3
    steps: int = 300


def mechanisms(settings: Probed) -> Mechanisms:
    """Random labels for the same images, and the four mechanisms that a classifier has."""
    tasks = np.linspace(0, settings.num_tasks, settings.checkpoints + 1)[1:].round().astype(int) - 1
    return Mechanisms(
        FreshLabels(10),
        repairs=MECHANISMS,
        when=When(tasks=tuple(map(int, tasks))),
        targets=settings.targets,
        steps=settings.steps,
        batch_size=settings.batch_size,
        examples=settings.num_examples,
    )


DIAGNOSTICS = (
    DeadUnits(), LinearizedUnits(), FeatureRanks(), ParameterNorm(), RelativeUpdate(), PredictiveEntropy(),
)  # fmt: skip


def setup(settings: Settings) -> Setup:
    """Random labels that are drawn again: nothing, L2, layer norm, both, and both without L2 on scales and offsets."""
    asked = (mechanisms(settings),) if isinstance(settings, Probed) else ()
    trial = settings.trial((*looks(DIAGNOSTICS), *asked))
    bare = Chain(LayerNorm(), L2(settings.l2))
    return Setup(
        arms={
            **compared(trial, settings.l2),
            **({} if asked else {"both_weights": Arm("layer norm + L2 (norms left out)", replace(trial, chain=bare))}),
        },
        plots=(
            Lines("accuracy", "accuracy at the end of a task", limits=(0, 1.02)),
            Lines("dead", "dead units (share)", limits=(0, 1.02)),
            Lines("linearized", "linearized units (share)", limits=(0, 1.02)),
            Lines("norm_ratio", "parameter norm / initial norm", log=True),
            Lines("effective_rank", "effective rank of the features", log=True),
            Lines("relative_update", "relative update of one step", log=True),
            *((WATERFALLS,) if asked else ()),
        ),
        table=(*table(), Column("eff.\nrank", "effective_rank", digits=0)),
        claims=CLAIMS,
        deviations=(
            "P2 does not state network sizes, batch size, learning rate, steps a task or the number of images here; "
            "ours are in the settings.",
            f"L2 strength {settings.l2:g} (P2: 1e-5 suffices on CIFAR-10 with its own, unstated, task length).",
            "Layer norm has learned scales and offsets, and L2 covers them, too; P2 states neither. Without the "
            "latter, the pair slowly loses plasticity on digits (explored on seeds that are not reported); on "
            "other data the arm of lyle2024/swiss_cheese whose L2 is on weights and biases alone shows what it does.",
            f"Data: {settings.data} (P2: CIFAR-10), standardised; net: {settings.net} (P2: MLP, CNN, ResNet-18).",
        ),
    )


def lost_share(results: Results, arm: str, column: str = "lost") -> np.ndarray:
    """The plasticity that an arm lost, or a part of it, as a share of the constant predictor's loss, one a seed."""
    return results.last(arm, column) / results.last(arm, "probe_baseline")


def fresh_learn(*arms: str) -> Claim:
    """That fresh networks learn the probe of these arms, whose networks are of one kind: a precondition of verdicts.

    Where their loss was not recorded it is bounded: losses count up to the constant predictor's, so that fresh networks
    learned at least what any arm lost against them.
    """

    def learned(results: Results) -> np.ndarray:
        found = []
        for arm in arms:
            baseline = results.last(arm, "probe_baseline")
            known = "probe_fresh" in results.columns()
            part = baseline - results.last(arm, "probe_fresh") if known else results.last(arm, "lost")
            found.append(part / baseline)
        return np.max(found, axis=0)

    text = "Fresh networks learn the probe: they lose a fifth of the constant predictor's loss."
    return Claim(text, learned, threshold=1 - LEARNED, ours=True)


CLAIMS = (
    Claim("Without an intervention, accuracy falls from the first task to the last.", fell("none")),
    Claim(
        "With layer norm alone, accuracy falls from the first task to the last.",
        fell("layer_norm"),
        given=(fits("layer_norm", "layer norm alone fits its"),),
        checklist=(36,),
    ),
    Claim("Layer norm and L2 together end above no intervention.", above("both", "none")),
    Claim("Layer norm and L2 together end above L2 alone.", above("both", "l2")),
    Claim("Layer norm and L2 together end above layer norm alone.", above("both", "layer_norm")),
    keeps("both"),
    *complementary(),
)


def sentences(results: Results) -> dict[str, str]:
    """What happened to each arm, in plain words, from its numbers alone."""
    causes = {arm: _causes(results, arm) if "lost" in results.columns() else "" for arm in results.arms}
    return {arm: f"{_sentence(results, arm)}\n{causes[arm]}".rstrip() for arm in results.arms}


MECHANISMS = (Units(), Norm(), OutputLayer(), OptimizerState())  # those that a classifier has
HAVE = {"l2": ("L2",), "layer_norm": ("LayerNorm",), "both": ("LayerNorm", "L2")}
PARTS = {name: f"lost/{name}" for name in (*(repair.name for repair in MECHANISMS), UNEXPLAINED)}
WATERFALLS = Waterfalls("loss on new labels [nats]", "nats", PARTS)


def _causes(results: Results, arm: str) -> str:
    """What the probe says of an arm at its last task: what each mechanism took, and what to do, over seeds."""
    lost = results.last(arm, "lost")
    if not np.isfinite(lost).all():
        return ""
    fall, gap = WATERFALLS.of(results, arm), interval(lost)
    baseline = results.last(arm, "probe_baseline").mean()
    if fall.fresh > LEARNED * baseline:
        reached = f"loss {fall.fresh:.2f} of {baseline:.2f}"
        return f"Cannot tell what it lost: fresh networks did not learn new labels either ({reached}); take more steps."
    ends = f" [{gap.low:.2f}, {gap.high:.2f}]" if len(lost) > 1 else ""
    if gap.mean < MARGIN * baseline or gap.low <= 0:
        return f"On new labels it is as good as fresh networks ({gap.mean:+.2f} nats{ends}): nothing to treat."
    took = [
        f"{bar.name} {fall.amount(bar.part.mean)} ({fall.percent[bar.name]}%)"
        for bar in fall.bars
        if fall.percent.get(bar.name)
    ]
    small = [bar for bar in fall.bars if not bar.part.high < 0 and round(bar.part.mean, fall.digits) < 0]
    took += [f"{bar.name} -{fall.amount(bar.part.mean)}" for bar in small]  # with the remarks, all that sums to it
    said = [f"On new labels it lost {gap.mean:.2f} nats{ends} against fresh networks: {', '.join(took)}"]
    said += [*remarks(fall, MECHANISMS), "; ".join(treatment(fall, MECHANISMS, HAVE.get(arm, ())))]
    return "\n".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said)


def _sentence(results: Results, arm: str) -> str:
    diverged = [seed for (name, seed) in results.diverged() if name == arm]
    if diverged:
        return f"diverged with seed {', '.join(map(str, diverged))}: no loss is finite any more."
    start, end = results.first(arm, "accuracy").mean(), results.last(arm, "accuracy").mean()
    dead, linear = results.last(arm, "dead").mean(), results.last(arm, "linearized").mean()
    grown = results.last(arm, "norm_ratio").mean()
    if start - end > 0.1:
        inside = [f"{dead:.0%} of its units are dead"] if dead > 0.1 else []
        inside += [f"{linear:.0%} are linearized"] if linear > 0.1 else []
        inside += [f"its parameters have grown to {grown:.1f} times their initial norm"] if grown > 1.5 else []
        lost = "lost the ability to learn" if end < start / 2 else "is losing the ability to learn"
        return f"{lost}, {start:.2f} to {end:.2f}: {', '.join(inside) or 'nothing measured here shows why'}."
    if end - start > 0.1:
        return f"learned better as it went, {start:.2f} to {end:.2f}."
    if start < 0.8:
        return f"lost nothing ({start:.2f} to {end:.2f}), but it never learned well."
    return f"kept learning: {start:.2f} on the first task, {end:.2f} on the last."


EXPERIMENT = Experiment(
    id="lyle2024/swiss_cheese",
    title="Layer norm and L2 have different holes: alone each fails, together they keep a network learning",
    figure="P2 figures 4 and 5 (their core), on an MLP",
    references=("lyle2024", "ba2016"),
    tiers={
        "smoke": Settings(
            data="digits", hidden=(32, 32), num_examples=200, batch_size=32, every=40, num_tasks=4, l2=1e-3
        ),
        "demo": Probed(data="digits", l2=1e-3),
        "laptop": Settings(),
        "paper": Settings(data="cifar10", hidden=(512, 512), num_examples=50_000, every=50_000, num_tasks=20, l2=1e-5),
    },
    setup=setup,
    sentences=sentences,
)
