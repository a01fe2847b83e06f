"""P2-E4: norms, sharpness and the neural tangent kernel, as three kinds of training wear a network out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from pliant.claims import Claim, Effect, trend
from pliant.diagnostics import EmpiricalNTK, Observation, ParameterNorm, Sharpness
from pliant.diagnostics._examples import as_tensor, outputs_of_one, trained
from pliant.diagnostics._shared import given
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.functional import kernels
from pliant.interventions import Activation, Chain
from pliant.papers.memorisation import Memorisation
from pliant.plots import Lines, Matrix
from pliant.results import Results
from pliant.tasks import OffsetNoise
from pliant.trials import Arrays, Fit, Numbers, When

ARMS = {
    "offset": "regression far from zero",
    "relu": "random labels, ReLU",
    "leaky_relu": "random labels, leaky ReLU",
}
BATCH = 64  # inputs of the kernels, as in P2


@dataclass(frozen=True)
class Settings(Memorisation):
    """Settings of kernels.

    Args:
        offset: of the regression targets, around which lies noise of variance 1 that is drawn again with every task.
        looks: tasks at whose ends kernels are computed, evenly spaced; the first and the last are among them.
    """

    num_tasks: int = 20
    offset: float = 100.0
    looks: int = 4


def ntk(seen: Observation) -> Tensor:
    """The empirical neural tangent kernel, summed over outputs, in units of its largest entry; inputs in the order of
    their targets, `(inputs, inputs)`."""
    function, x, y = outputs_of_one(seen), given(seen.x, "x"), given(seen.y, "y")
    num_outputs = as_tensor(given(seen.network, "network")(seen.params, x))[0].numel()
    _, trace = kernels.ntk(lambda p, one: function(p, *one), trained(seen), (x, None), num_outputs)
    order = y.flatten().argsort(stable=True)
    return (trace[order][:, order] / trace.abs().amax().clamp(min=1e-30)).to(x)


def setup(settings: Settings) -> Setup:
    """Regression on noise around a large mean, and random labels under ReLU and leaky ReLU, all as long."""
    start = When(first=1, ends=False, tasks=(0,))
    ends = When(tasks=tuple(sorted({round(t) for t in np.linspace(0, settings.num_tasks - 1, settings.looks)})))
    needs = frozenset({"network", "x", "y"})
    each = Numbers((ParameterNorm(), Sharpness()), examples=256)
    measures = (
        Fit(examples=1024),
        each,
        replace(each, when=start),
        *(
            measure
            for when in (start, ends)
            for measure in (
                Numbers((EmpiricalNTK(),), when, examples=BATCH),
                Arrays({"ntk": ntk}, needs, when, examples=BATCH),
            )
        ),
    )
    trial = settings.trial(measures)
    noise = OffsetNoise(
        settings.num_examples, settings.batch_size, settings.every, settings.num_tasks, offset=settings.offset
    )
    trials = {
        "offset": replace(trial, task=noise),
        "relu": trial,
        "leaky_relu": replace(trial, chain=Chain(Activation("leaky_relu"))),
    }
    layers = [f"hidden.{i}" for i in range(len(settings.hidden))] + ["output"] if settings.net == "mlp" else []
    return Setup(
        arms={name: Arm(said, trials[name]) for name, said in ARMS.items()},
        plots=(
            Lines("parameter_norm", "parameter norm", log=True),
            Lines("sharpness", "sharpness", log=True),
            Lines("ntk_rank", "effective rank of the eNTK, 64 inputs", over="step"),
            Lines("ntk_off_diagonal_rank", "effective rank of the eNTK beside its diagonal", over="step"),
            Lines("ntk_top_share", "largest eigenvalue / trace of the eNTK", over="step", limits=(0, 1.02)),
            Lines("ntk_uneven", "eNTK less a diagonal and a constant (share)", over="step", limits=(0, 1.02)),
            *(Lines(f"norm_ratio/{layer}.weight", f"norm of {layer} / initial", log=True) for layer in layers),
            Matrix("ntk", "eNTK / its largest entry", {said: name for name, said in ARMS.items()}, moments=(0, 1, -1)),
        ),
        table=(
            Column("norm\nratio", "norm_ratio", digits=1),
            Column("sharp-\nness", "sharpness", digits=0),
            Column("rank,\n1st task", "ntk_rank", "first", digits=1),
            Column("rank,\nlast", "ntk_rank", digits=1),
            Column("beside diag.,\n1st task", "ntk_off_diagonal_rank", "first", digits=1),
            Column("beside diag.,\nlast", "ntk_off_diagonal_rank", digits=1),
        ),
        claims=CLAIMS,
        deviations=(
            "P2 does not state network, batch size, learning rate and steps here; ours are in the settings: "
            f"{settings.num_examples:,} images, {settings.num_tasks} tasks of {settings.every:,} steps, hidden "
            f"layers of {', '.join(map(str, settings.hidden))}.",
            f"Regression: noise of variance 1 around {settings.offset:g}, drawn again with every task, as labels "
            "are; P2 does not say whether its large-mean regression is stationary.",
            "Sharpness is that of the regression to the current outputs plus noise (P1), on up to 256 images. On "
            "random labels it falls as units die (with leaky ReLU: are linearized); that of the loss, too (seed 100).",
            "Of several outputs the kernels are summed (the trace kernel); P2 does not say. The first kernel is that "
            "after one step.",
            f"Data: {settings.data} (P2: CIFAR-10), standardised.",
        ),
    )  # fmt: skip


def _along(arm: str) -> Effect:
    """The rank correlation of parameter norm and sharpness over the ends of tasks."""

    def correlation(r: Results) -> np.ndarray:
        norms, sharp = r.ends(arm, "parameter_norm"), r.ends(arm, "sharpness")
        ordered = np.take_along_axis(sharp, norms.argsort(axis=1, kind="stable"), axis=1)
        return trend(ordered)

    return correlation


def _lost(arm: str, column: str = "ntk_rank", place: int = -1) -> Effect:
    """How far the kernel's effective rank fell from the first step on, as a base-2 logarithm."""

    def halvings(r: Results) -> np.ndarray:
        _, values = r.curve(arm, column)
        return np.log2(values[:, 0] / values[:, place])

    return halvings


CLAIMS = (
    *(
        Claim(
            f"{said}: parameter norm and sharpness at the ends of tasks have a rank correlation above 0.5.",
            _along(arm),
            threshold=0.5,
            ours=True,
            checklist=(34,),
        )
        for arm, said in ARMS.items()
    ),
    *(
        Claim(
            f"{said}: the effective rank of the empirical NTK falls from the first step to the last (base-2 "
            "logarithm).",
            _lost(arm),
            checklist=(35,),
        )
        for arm, said in ARMS.items()
    ),
    *(
        Claim(
            f"Within the first task the effective rank falls further in regression far from zero than with {ARMS[arm]} "
            "(base-2 logarithms).",
            lambda r, arm=arm: _lost("offset", place=1)(r) - _lost(arm, place=1)(r),
            checklist=(35,),
        )
        for arm in ("relu", "leaky_relu")
    ),
)

EXPERIMENT = Experiment(
    id="lyle2024/kernels",
    title="However a network is worn out, its tangent kernel collapses; far from zero it does so at once",
    figure="P2 figure 3",
    references=("lyle2024", "lyle2023"),
    tiers={
        "smoke": Settings(
            data="digits", hidden=(16, 16), num_examples=100, batch_size=20, every=10, num_tasks=3, looks=2
        ),
        "laptop": Settings(num_examples=500, batch_size=64, every=300),
        "paper": Settings(data="cifar10", hidden=(512, 512), num_examples=50_000, batch_size=512, every=20_000),
    },
    setup=setup,
)
