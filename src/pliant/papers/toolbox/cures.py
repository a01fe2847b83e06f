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
from pliant.interventions.base import MOMENTS
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
    """One row of the heat map: interventions, or another optimizer.

    Args:
        name: of its arm.
        setting: what tells it from another cure of its class.
        interventions: one or more.
        optimizer: what it is trained with.
    """

    name: str
    setting: str = ""
    interventions: tuple[Intervention, ...] = ()
    optimizer: Optimizer = field(default_factory=Adam)

    @property
    def kind(self) -> str:
        """Name of the class that makes the difference, of the class or function for one of somebody's own."""
        last = self.interventions[-1] if self.interventions else self.optimizer
        return last.path.partition(":")[2] if isinstance(last, Own) else type(last).__name__

    @property
    def label(self) -> str:
        """The class's name, with the setting where it has several rows."""
        if self.name == "none":
            return "no intervention"
        return f"{self.kind}({self.setting})" if self.setting else self.kind

    @property
    def group(self) -> str:
        """When it acts first, as `pliant interventions` has it."""
        if not self.interventions:
            return "" if self.name == "none" else "optimizer"
        last = self.interventions[-1]
        if isinstance(last, Own):
            return "your own"
        return next(word for moment, word in MOMENTS.items() if last.overrides(moment))

    @property
    def normalises(self) -> bool:
        """Whether it normalises preactivations itself, so that layer norm is not put beside it."""
        return any(isinstance(i, _NORMALISERS) for i in self.interventions)


WITH = ("alone", "with LayerNorm")
GROUPS = ("", *MOMENTS.values(), "optimizer", "your own")
_NORMALISERS = (LayerNorm, BatchNorm, RMSNorm, MixedNorm, NormalizeAndProject)


def cures(lr: float = 1e-3, every: int = 300) -> tuple[Cure, ...]:
    """Every intervention with one setting each, at a learning rate and a number of steps a task.

    Values are the papers' where these have some, the field's usual ones otherwise. The strengths of L2 and L2 to init
    are the best of three (1e-5, 1e-4, 1e-3) on seeds 100 and 101, which are not reported; nothing was tuned on those
    that are.
    """
    adam = Adam(lr=lr)

    def cure(name: str, *interventions: Intervention, setting: str = "", optimizer: Optimizer = adam) -> Cure:
        return Cure(name, setting, interventions, optimizer)

    return (
        cure("none"),
        cure("layer_norm", LayerNorm()),
        cure("batch_norm", BatchNorm()),
        cure("rms_norm", RMSNorm()),
        cure("batch_mean_layer_std", MixedNorm(mean="batch", std="layer"), setting="mean=batch"),
        cure("layer_mean_batch_std", MixedNorm(mean="layer", std="batch"), setting="mean=layer"),
        cure("weight_norm", WeightNorm()),
        cure("spectral_norm", SpectralNorm(num_iterations=5)),
        cure("leaky_relu", Activation("leaky_relu"), setting="leaky_relu"),
        cure("gelu", Activation("gelu"), setting="gelu"),
        cure("tanh", Activation("tanh"), setting="tanh"),
        cure("crelu", CReLU()),
        cure("fourier", FourierFeatures()),
        cure("injection", PlasticityInjection(layers=1)),
        cure("output_norm", OutputNorm()),
        cure("l2", L2(1e-3)),
        cure("l2_init", L2Init(1e-3)),
        cure("wasserstein", Wasserstein(1e-3)),
        cure("spectral_reg", SpectralRegulariser(1e-3, power=2)),
        cure("parseval", Parseval(1e-3, scale=1.0)),
        cure("feature_norm", FeatureNormPenalty(1e-3)),
        cure("gradient_norm", GradientNormPenalty(1e-2)),
        cure("infer", InFeR()),
        cure("c_chain", CChain(1e-2)),
        cure("proximal", ProximalFeatures(1e-3, event="task_switch")),
        cure("weight_decay", WeightDecay(0.1)),
        cure("weight_clipping", WeightClipping(kappa=2.0)),
        cure("rescale", WeightNormRescale()),
        cure("nap", NormalizeAndProject(scales="project")),
        cure("redo", ReDo(tau=0.025, every=every)),
        cure("cbp", ContinualBackprop()),
        cure("snr", SelfNormalizedResets(p=0.05, history=20)),
        cure("swr", SelectiveReinit(fraction=0.01, every=every)),
        cure("soft_sp", SoftShrinkAndPerturb()),
        cure("sp", ShrinkAndPerturb(shrink=0.5, perturb=0.5)),
        cure("reset_last", Reset("last"), setting="last"),
        cure("reset_all", Reset("all"), setting="all"),
        cure("optimizer_reset", OptimizerReset()),
        cure("adam_rel", AdamRel()),
        cure("fire", FIRE()),
        cure("hare", HareAndTortoise(decay=0.999, every=every)),
        cure("tuned_adam", optimizer=Adam(lr=lr, betas=(0.9, 0.9), eps=1e-9, eps_root=1e-3), setting="tuned, P1"),
        cure("sam", optimizer=SAM(adam, rho=0.05)),
        cure("upgd", optimizer=UPGD(lr=0.01)),
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
        if not name or {name.lower(), name} & {known for cure in chosen for known in (cure.name, cure.label)}:
            got = "which has no name after a colon" if not name else "whose name another cure has"
            raise ValueError(f"expected add to be package.module:name, of a name of its own, got {path!r}, {got}")
        chosen.append(Cure(name.lower(), interventions=(Own(path),), optimizer=Adam(lr=settings.lr)))
    trial = settings.trial(looks())
    arms, rows, groups = {}, {}, {}
    for cure in chosen:
        both = None if cure.normalises else f"ln+{cure.name}"
        alone = replace(trial, optimizer=cure.optimizer, chain=Chain(*cure.interventions))
        arms[cure.name] = Arm(cure.label, alone)
        if both is not None and cure.name != "none":
            chain = Chain(LayerNorm(), *cure.interventions)
            arms[both] = Arm(f"LayerNorm + {cure.label}", replace(alone, chain=chain))
        rows[cure.label] = (cure.name, "layer_norm" if cure.name == "none" else both)
        groups[cure.label] = cure.group
    groups = {label: group for kind in GROUPS for label, group in groups.items() if group == kind}
    return Setup(
        arms=arms,
        plots=(Cells("accuracy", "accuracy at the end of the last task", WITH, rows, groups=groups),),
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
