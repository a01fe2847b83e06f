"""What works here: every intervention alone and with layer norm, on labels that are drawn again and again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pliant.claims import Claim
from pliant.experiment import Arm, Experiment, Setup
from pliant.interventions import (
    L2,
    Activation,
    AdamRel,
    BatchNorm,
    Chain,
    ContinualBackprop,
    CReLU,
    FeatureNormPenalty,
    FourierFeatures,
    GradientNormPenalty,
    HareAndTortoise,
    InFeR,
    Intervention,
    L2Init,
    LayerNorm,
    MixedNorm,
    NormalizeAndProject,
    OptimizerReset,
    Parseval,
    PlasticityInjection,
    ReDo,
    Reset,
    RMSNorm,
    ShrinkAndPerturb,
    SoftShrinkAndPerturb,
    SpectralNorm,
    SpectralRegulariser,
    Wasserstein,
    WeightClipping,
    WeightDecay,
    WeightNorm,
    WeightNormRescale,
)
from pliant.interventions.contrib import (
    FIRE,
    CChain,
    OutputNorm,
    ProximalFeatures,
    SelectiveReinit,
    SelfNormalizedResets,
)
from pliant.interventions.wrappers import Own
from pliant.optim import SAM, UPGD, Adam, Optimizer
from pliant.papers.memorisation import Memorisation, above, fell, fits, looks, table
from pliant.plots import Cells
from pliant.words import unknown


@dataclass(frozen=True)
class Settings(Memorisation):
    """Settings of cures.

    Args:
        only: names of the cures that are compared; empty is all of them.
        add: cures of your own beside them, each `package.module:name`, a class of interventions or a function of
            nothing that returns one.
    """

    every: int = 300
    num_tasks: int = 11
    only: tuple[str, ...] = ()
    add: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cure:
    """One row of the heat map: interventions, or another optimizer."""

    name: str
    label: str
    interventions: tuple[Intervention, ...] = ()
    optimizer: Optimizer = field(default_factory=Adam)

    @property
    def kind(self) -> str:
        """Name of the class that makes the difference."""
        return type(self.interventions[-1] if self.interventions else self.optimizer).__name__

    @property
    def normalises(self) -> bool:
        """Whether it normalises preactivations itself, so that layer norm is not put beside it."""
        return any(isinstance(i, _NORMALISERS) for i in self.interventions)


_NORMALISERS = (LayerNorm, BatchNorm, RMSNorm, MixedNorm, NormalizeAndProject)


def cures(lr: float = 1e-3, every: int = 300) -> tuple[Cure, ...]:
    """Every intervention with one setting each, at a learning rate and a number of steps a task.

    Values are the papers' where these have some, the field's usual ones otherwise. The strengths of L2 and L2 to init
    are the best of three (1e-5, 1e-4, 1e-3) on seeds 100 and 101, which are not reported; nothing was tuned on those
    that are.
    """
    adam = Adam(lr=lr)

    def cure(name: str, label: str, *interventions: Intervention, optimizer: Optimizer = adam) -> Cure:
        return Cure(name, label, interventions, optimizer)

    return (
        cure("none", "no intervention"),
        cure("layer_norm", "layer norm", LayerNorm()),
        cure("batch_norm", "batch norm", BatchNorm()),
        cure("rms_norm", "RMS norm", RMSNorm()),
        cure("batch_mean_layer_std", "BN mean, LN std", MixedNorm(mean="batch", std="layer")),
        cure("layer_mean_batch_std", "LN mean, BN std", MixedNorm(mean="layer", std="batch")),
        cure("weight_norm", "weight norm", WeightNorm()),
        cure("spectral_norm", "spectral norm", SpectralNorm(num_iterations=5)),
        cure("leaky_relu", "leaky ReLU", Activation("leaky_relu")),
        cure("gelu", "GELU", Activation("gelu")),
        cure("tanh", "tanh", Activation("tanh")),
        cure("crelu", "CReLU", CReLU()),
        cure("fourier", "deep Fourier features", FourierFeatures()),
        cure("injection", "plasticity injection", PlasticityInjection(layers=1)),
        cure("output_norm", "normalised features", OutputNorm()),
        cure("l2", "L2", L2(1e-3)),
        cure("l2_init", "L2 to init", L2Init(1e-3)),
        cure("wasserstein", "Wasserstein to init", Wasserstein(1e-3)),
        cure("spectral_reg", "spectral regulariser", SpectralRegulariser(1e-3, power=2)),
        cure("parseval", "Parseval", Parseval(1e-3, scale=1.0)),
        cure("feature_norm", "feature norm", FeatureNormPenalty(1e-3)),
        cure("gradient_norm", "gradient norm", GradientNormPenalty(1e-2)),
        cure("infer", "InFeR", InFeR()),
        cure("c_chain", "C-CHAIN", CChain(1e-2)),
        cure("proximal", "proximal features", ProximalFeatures(1e-3, event="task_switch")),
        cure("weight_decay", "weight decay", WeightDecay(0.1)),
        cure("weight_clipping", "weight clipping", WeightClipping(kappa=2.0)),
        cure("rescale", "weight-norm rescaling", WeightNormRescale()),
        cure("nap", "Normalize-and-Project", NormalizeAndProject(scales="project")),
        cure("redo", "ReDo", ReDo(tau=0.025, every=every)),
        cure("cbp", "continual backprop", ContinualBackprop()),
        cure("snr", "self-normalized resets", SelfNormalizedResets(p=0.05, history=20)),
        cure("swr", "selective weight re-init", SelectiveReinit(fraction=0.01, every=every)),
        cure("soft_sp", "soft shrink and perturb", SoftShrinkAndPerturb()),
        cure("sp", "shrink and perturb", ShrinkAndPerturb(shrink=0.5, perturb=0.5)),
        cure("reset_last", "reset last layer", Reset("last")),
        cure("reset_all", "reset all layers", Reset("all")),
        cure("optimizer_reset", "optimizer reset", OptimizerReset()),
        cure("adam_rel", "Adam-rel", AdamRel()),
        cure("fire", "FIRE", FIRE()),
        cure("hare", "Hare and Tortoise", HareAndTortoise(decay=0.999, every=every)),
        cure("tuned_adam", "tuned Adam (P1)", optimizer=Adam(lr=lr, betas=(0.9, 0.9), eps=1e-9, eps_root=1e-3)),
        cure("sam", "SAM", optimizer=SAM(adam, rho=0.05)),
        cure("upgd", "UPGD", optimizer=UPGD(lr=0.01)),
    )


def setup(settings: Settings) -> Setup:
    """Two arms a cure: alone, and with layer norm where it does not normalise itself."""
    known = {cure.name: cure for cure in cures(settings.lr, settings.every)}
    for name in settings.only:
        if name not in known:
            raise ValueError(unknown("cure", name, list(known)))
    chosen = [cure for cure in known.values() if not settings.only or cure.name in settings.only]
    for path in settings.add:
        name = path.partition(":")[2]
        if not name or name.lower() in {cure.name for cure in chosen}:
            got = "which has no name after a colon" if not name else "whose name another cure has"
            raise ValueError(f"expected add to be package.module:name, of a name of its own, got {path!r}, {got}")
        chosen.append(Cure(name.lower(), name, (Own(path),), Adam(lr=settings.lr)))
    trial = settings.trial(looks())
    arms, rows = {}, {}
    for cure in chosen:
        both = None if cure.normalises else f"ln+{cure.name}"
        alone = replace(trial, optimizer=cure.optimizer, chain=Chain(*cure.interventions))
        arms[cure.name] = Arm(cure.label, alone)
        if both is not None and cure.name != "none":
            chain = Chain(LayerNorm(), *cure.interventions)
            arms[both] = Arm(f"layer norm + {cure.label}", replace(alone, chain=chain))
        rows[cure.label] = (cure.name, "layer_norm" if cure.name == "none" else both)
    return Setup(
        arms=arms,
        plots=(Cells("accuracy", "accuracy at the end of the last task", ("alone", "with layer norm"), rows),),
        table=table(),
        claims=tuple(claim for needed, claim in CLAIMS if set(needed) <= set(arms)),
        deviations=(
            "An experiment of ours, on P2's task; one setting a method, not tuned to it: a low row says that this "
            "setting does not work here, not that the method cannot.",
            f"Data: {settings.data}, standardised; net: {settings.net}; {settings.num_tasks} tasks of {settings.every} "
            "steps.",
        ),
    )


def _falls(arm: str, label: str) -> tuple[tuple[str, ...], Claim]:
    return (arm,), Claim(
        f"With {label} alone, accuracy falls from the first task to the last.",
        fell(arm),
        given=(fits(arm, f"{label} fits its"),),
        checklist=(36,),
    )


def _below(arm: str, label: str, line: int) -> tuple[tuple[str, ...], Claim]:
    return (arm, "ln+l2"), Claim(
        f"Layer norm and L2 together end above {label}.",
        above("ln+l2", arm),
        checklist=(line,),
    )


CLAIMS = (
    _falls("l2", "L2"),
    _falls("redo", "ReDo"),
    _falls("leaky_relu", "leaky ReLU"),
    _below("feature_norm", "the feature-norm penalty", 38),
    _below("rescale", "weight-norm rescaling", 38),
    _below("infer", "InFeR", 39),
    _below("gradient_norm", "the gradient-norm penalty", 39),
)

EXPERIMENT = Experiment(
    id="toolbox/cures",
    title="What works here: every intervention alone and with layer norm",
    figure="ours; P2's random labels drawn again and again",
    references=("lyle2024",),
    tiers={
        "smoke": Settings(
            data="digits",
            hidden=(16, 16),
            num_examples=100,
            batch_size=32,
            every=20,
            num_tasks=2,
            only=("none", "layer_norm", "l2", "redo"),
        ),
        "laptop": Settings(),
        "paper": Settings(data="cifar10", net="cnn", num_examples=10_000, every=2000, num_tasks=30),
    },
    setup=setup,
)
