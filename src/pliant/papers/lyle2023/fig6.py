"""P1 figures 6 and 8 to 11: interventions, heads and networks, and how much plasticity an agent loses with each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from pliant.claims import Claim
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.papers.agents import INTERVENTIONS, SAID, Agents, change, final, fits, less
from pliant.plots import Cells, Lines

HEADS = ("scalar", "two_hot")
FEW = ("none", "reset", "perturb")  # of the two larger networks
MARGIN = 0.05  # of a loss whose constant predictor has 0.5

PAPER = {  # initial and final probe loss; figure 10 (CIFAR-10) and 11 (MNIST): ResNet, ViT, CNN, MLP
    ("cifar10", "scalar"): {
        "none": ((0.01, 0.21), (0.28, 0.41), (0.16, 0.47), (0.40, 0.66)),
        "reset": ((0.01, 0.01), (0.26, 0.30), (0.15, 0.50), (0.37, 0.47)),
        "weight_decay": ((0.01, 0.27), (0.24, 0.41), (0.14, 0.47), (0.36, 0.64)),
        "spectral_norm": (None, None, (0.13, 0.54), (0.38, 0.81)),
        "layer_norm": (None, None, (0.01, 0.25), (0.30, 0.55)),
        "perturb": ((0.01, 0.80), (0.27, 0.50), (0.14, 0.70), (0.39, 1.00)),
    },
    ("cifar10", "two_hot"): {
        "none": ((0.08, 0.20), (0.03, 0.09), (0.08, 0.17), (0.48, 0.49)),
        "reset": ((0.05, 0.23), (0.03, 0.22), (0.11, 0.25), (0.46, 0.49)),
        "weight_decay": ((0.05, 0.27), (0.05, 0.05), (0.07, 0.16), (0.43, 0.49)),
        "spectral_norm": (None, None, (0.12, 0.31), (0.48, 0.48)),
        "layer_norm": (None, None, (0.01, 0.01), (0.38, 0.43)),
        "perturb": ((0.06, 0.14), (0.04, 0.14), (0.08, 0.22), (0.45, 0.49)),
    },
    ("mnist", "scalar"): {
        "none": ((0.00, 0.32), (0.39, 0.45), (0.20, 0.47), (0.25, 0.59)),
        "reset": ((0.00, 0.02), (0.41, 0.41), (0.22, 0.79), (0.28, 0.39)),
        "weight_decay": ((0.00, 0.37), (0.37, 0.45), (0.23, 0.48), (0.27, 0.58)),
        "spectral_norm": (None, None, (0.18, 0.58), (0.28, 0.68)),
        "layer_norm": (None, None, (0.04, 0.35), (0.17, 0.60)),
        "perturb": ((0.00, 0.66), (0.37, 0.49), (0.20, 0.62), (0.28, 0.62)),
    },
    ("mnist", "two_hot"): {
        "none": ((0.12, 0.31), (0.12, 0.23), (0.25, 0.23), (0.23, 0.27)),
        "reset": ((0.10, 0.21), (0.10, 0.15), (0.20, 0.20), (0.24, 0.25)),
        "weight_decay": ((0.05, 0.38), (0.09, 0.19), (0.22, 0.24), (0.21, 0.29)),
        "spectral_norm": (None, None, (0.27, 0.36), (0.26, 0.33)),
        "layer_norm": (None, None, (0.02, 0.04), (0.10, 0.18)),
        "perturb": ((0.07, 0.13), (0.13, 0.26), (0.22, 0.30), (0.20, 0.29)),
    },
}  # fmt: skip
CHANGE = {  # figures 8 and 9, as printed: their roundings differ from those of the initial and final losses
    ("cifar10", "scalar"): {
        "none": (0.20, 0.13, 0.31, 0.27),
        "reset": (0.00, 0.04, 0.36, 0.10),
        "weight_decay": (0.26, 0.17, 0.34, 0.28),
        "spectral_norm": (None, None, 0.41, 0.43),
        "layer_norm": (None, None, 0.24, 0.25),
        "perturb": (0.79, 0.23, 0.56, 0.61),
    },
    ("cifar10", "two_hot"): {
        "none": (0.12, 0.05, 0.09, 0.02),
        "reset": (0.18, 0.19, 0.14, 0.03),
        "weight_decay": (0.21, 0.00, 0.09, 0.06),
        "spectral_norm": (None, None, 0.19, 0.01),
        "layer_norm": (None, None, 0.00, 0.05),
        "perturb": (0.08, 0.11, 0.14, 0.04),
    },
    ("mnist", "scalar"): {
        "none": (0.32, 0.06, 0.27, 0.34),
        "reset": (0.01, 0.00, 0.57, 0.11),
        "weight_decay": (0.37, 0.08, 0.25, 0.31),
        "spectral_norm": (None, None, 0.39, 0.40),
        "layer_norm": (None, None, 0.32, 0.43),
        "perturb": (0.66, 0.11, 0.42, 0.34),
    },
    ("mnist", "two_hot"): {
        "none": (0.20, 0.11, -0.02, 0.04),
        "reset": (0.11, 0.05, 0.00, 0.01),
        "weight_decay": (0.33, 0.09, 0.02, 0.07),
        "spectral_norm": (None, None, 0.09, 0.06),
        "layer_norm": (None, None, 0.03, 0.07),
        "perturb": (0.06, 0.14, 0.09, 0.09),
    },
}  # fmt: skip
NETS = ("resnet", "vit", "cnn", "mlp")  # the order of the columns of both


@dataclass(frozen=True)
class Settings(Agents):
    """Settings of figure 6; `cells` are pairs of data set and network, as in mnist-mlp."""

    cells: tuple[str, ...] = ("mnist-mlp", "cifar10-mlp", "mnist-cnn", "cifar10-cnn", "cifar10-resnet", "cifar10-vit")


def name(data: str, net: str, head: str, intervention: str) -> str:
    """The arm of a cell.

    >>> name("mnist", "mlp", "two_hot", "none")
    'mnist_mlp_two_hot_none'
    """
    return f"{data}_{net}_{head}_{intervention}"


def published(data: str, net: str, head: str, intervention: str) -> tuple[float, float] | None:
    """The paper's initial and final loss, where it has them.

    >>> published("cifar10", "mlp", "scalar", "perturb"), published("mnist", "vit", "scalar", "optimizer")
    ((0.39, 1.0), None)
    """
    row = PAPER.get((data, head), {}).get(intervention)
    return row[NETS.index(net)] if row else None


def printed(of: str, data: str, net: str, head: str, intervention: str) -> float | None:
    """The paper's number in a cell of the grid: of the initial loss, the final one, or the change.

    >>> printed("change", "cifar10", "mlp", "scalar", "none"), printed("last", "cifar10", "mlp", "scalar", "none")
    (0.27, 0.66)
    """
    if of == "change":
        row = CHANGE.get((data, head), {}).get(intervention)
        return row[NETS.index(net)] if row else None
    losses = published(data, net, head, intervention)
    return None if losses is None else losses[of == "last"]


def setup(settings: Settings) -> Setup:
    """Agents on the true-label MDP: every network with every head and intervention."""
    cells = [tuple(cell.split("-")) for cell in settings.cells]
    if wrong := [cell for cell in settings.cells if cell.count("-") != 1 or cell.split("-")[1] not in SAID]:
        raise ValueError(f"expected cells such as mnist-mlp or cifar10-cnn, got {wrong[0]!r}")
    arms = {}
    for (data, net), head, intervention in product(cells, HEADS, INTERVENTIONS):
        if net in ("resnet", "vit") and intervention not in FEW:
            continue
        label = f"{SAID.get(data, data)}, {SAID[net]}, {SAID[head]}, {INTERVENTIONS[intervention]}"
        measures = (settings.probe(head),)
        trial = settings.trial(data, net, head=head, intervention=intervention, measures=measures)
        arms[name(data, net, head, intervention)] = Arm(label, trial)
    headings = tuple(f"{SAID.get(data, data)},\n{SAID[net]}" for data, net in cells)

    def grid(of: str, title: str, limits: tuple[float, float]) -> Cells:
        rows, paper = {}, {}
        for head, intervention in product(HEADS, INTERVENTIONS):
            label = f"{SAID[head]}, {INTERVENTIONS[intervention]}"
            names = [name(data, net, head, intervention) for data, net in cells]
            values = [printed(of, data, net, head, intervention) for data, net in cells]
            rows[label] = tuple(arm if arm in arms else None for arm in names)
            paper[label] = tuple(None if v is None else f"{v:.2f}" for v in values)
        return Cells("probe_loss", title, headings, rows, limits, of=of, paper=paper, ordered=True)  # type: ignore[arg-type]

    return Setup(
        arms=arms,
        plots=(
            grid("change", "change of the probe loss", (-0.1, 0.6)),
            grid("first", "initial probe loss", (0.0, 0.6)),
            grid("last", "final probe loss", (0.0, 1.0)),
            Lines(
                "value",
                "mean largest value, no intervention",
                over="step",
                arms=tuple(arm for arm in arms if arm.endswith("_none")),
            ),
        ),
        table=(
            Column("initial\nloss", "probe_loss", "first"),
            Column("final\nloss", "probe_loss"),
            Column("accuracy", "accuracy"),
            Column("value", "value", digits=1),
        ),
        claims=CLAIMS,
        deviations=(
            *settings.deviations(),
            "The true-label MDP (P1 does not say over which of its MDPs figure 6 is).",
            f"MLP {settings.hidden} (P1: (512, 512)); CNN with {settings.channels} channels and "
            f"{settings.cnn_hidden} units (P1: (64, 64), (256, 256)); ResNet-18 with {settings.resnet_width:g} of its "
            f"channels; ViT: patches of {settings.vit[0]}, {settings.vit[1]} features, {settings.vit[2]} units (P1: 3, "
            "256, 1024).",
            f"Two-hot: {settings.bins} bins on {settings.head('two_hot').low:g} to "  # type: ignore[attr-defined]
            f"{settings.head('two_hot').high:g}, beginning at value 0; shrink and perturb: {settings.shrink:g} and "  # type: ignore[attr-defined]
            f"{settings.perturb:g}; P1 gives none of these.",
            "Resetting the optimizer's state alone is a row of ours: P1 mentions it without numbers.",
            "With the MLP on MNIST two-hot loses more than regression. On seeds 100 and 101 its probe loss still rises "
            "from 0.03 to 0.48 beginning in the middle of the support, from 0.02 to 0.47 with 441 bins, from 0.00 to "
            "0.38 with probes of 2,000 steps: none of the three is the cause.",
            "One cell at twice the size, seeds 100 and 101: with (256, 256) units the MLP's probe loss on MNIST, "
            "regression, rises from 0.00 to 0.20 and 0.18, as it does with (128, 128).",
            "Resetting the ViT's last layer costs plasticity at a target period of 1,000, too (10 updates, seeds 100 "
            "and 101): its probe loss rises from 0.12 to 0.31, without an intervention to 0.19. The agents then leave "
            "chance (accuracy 0.20 and 0.30, without it 0.64 and 0.62).",
        ),
    )


def _what(data: str, net: str, head: str = "scalar") -> str:
    return f"{SAID[net]} on {SAID[data]}, {SAID[head]}"


def _can(data: str, net: str, head: str = "scalar", intervention: str = "none") -> Claim:
    return fits(name(data, net, head, intervention), f"{_what(data, net, head)}, {INTERVENTIONS[intervention]}")


def _values(data: str, net: str, *cells: tuple[str, str]) -> str:
    """The paper's initial and final losses of some cells."""
    found = [published(data, net, head, intervention) for head, intervention in cells]
    return ", ".join(f"{v[0]:.2f} to {v[1]:.2f}" for v in found if v) or "direction only"


def _claims() -> list[Claim]:
    made = []
    for data, net in product(("mnist", "cifar10"), ("mlp", "cnn")):
        made.append(
            Claim(
                f"The probe loss rises over training ({_what(data, net)}).",
                change(name(data, net, "scalar", "none")),
                paper=_values(data, net, ("scalar", "none")),
                given=(_can(data, net),),
                checklist=(7,),
                expected=0.2,
            )
        )
    for data, net in (("mnist", "mlp"), ("cifar10", "mlp"), ("mnist", "cnn"), ("cifar10", "cnn"), ("cifar10", "vit")):
        made.append(
            Claim(
                f"Two-hot loses less than regression ({SAID[net]} on {SAID[data]}).",
                less(change(name(data, net, "scalar", "none")), change(name(data, net, "two_hot", "none"))),
                paper=_values(data, net, ("scalar", "none"), ("two_hot", "none")),
                given=(_can(data, net), _can(data, net, "two_hot")),
                checklist=(16,),
                expected=0.2,
            )
        )
    for data in ("mnist", "cifar10"):
        best = name(data, "cnn", "two_hot", "layer_norm")
        can = _can(data, "cnn", "two_hot", "layer_norm")
        paper = _values(data, "cnn", ("two_hot", "layer_norm"))
        made += [
            Claim(
                f"Two-hot with layer norm: the CNN's probe loss rises by less than {MARGIN} on {SAID[data]} "
                f"({MARGIN} minus the rise).",
                lambda r, arm=best: MARGIN - change(arm)(r),
                paper=paper, ours=True, given=(can,), checklist=(17,),
            ),
            Claim(
                f"Two-hot with layer norm: the CNN's probe loss ends below 0.1 on {SAID[data]} (0.1 minus the loss).",
                lambda r, arm=best: 0.1 - final(arm)(r),
                paper=paper, ours=True, given=(can,), checklist=(17,),
            ),
            Claim(
                f"Layer norm lowers the final probe loss of the CNN with regression on {SAID[data]}.",
                less(final(name(data, "cnn", "scalar", "none")), final(name(data, "cnn", "scalar", "layer_norm"))),
                paper=_values(data, "cnn", ("scalar", "none"), ("scalar", "layer_norm")),
                given=(_can(data, "cnn"),),
                checklist=(18,),
                expected=0.2,
            ),
        ]  # fmt: skip
    for net in ("mlp", "cnn", "resnet"):
        cell = ("cifar10", net)
        made += [
            Claim(
                f"Shrink and perturb ends at a higher probe loss than no intervention, with regression ({SAID[net]} on "
                "CIFAR-10).",
                less(final(name(*cell, "scalar", "perturb")), final(name(*cell, "scalar", "none"))),
                paper=_values(*cell, ("scalar", "perturb"), ("scalar", "none")),
                given=(_can(*cell),),
                checklist=(19,),
                expected=0.3,
            ),
            Claim(
                f"With two-hot, shrink and perturb ends at most {MARGIN} above none ({SAID[net]} on CIFAR-10).",
                less(final(name(*cell, "two_hot", "none")), final(name(*cell, "two_hot", "perturb"))),
                threshold=-MARGIN,
                paper=_values(*cell, ("two_hot", "perturb"), ("two_hot", "none")),
                ours=True,
                given=(_can(*cell, "two_hot"),),
                checklist=(19,),
            ),
        ]
    made.append(
        Claim(
            "Shrink and perturb ends at a higher probe loss than no intervention, with regression (MLP on MNIST).",
            less(final(name("mnist", "mlp", "scalar", "perturb")), final(name("mnist", "mlp", "scalar", "none"))),
            paper=_values("mnist", "mlp", ("scalar", "perturb"), ("scalar", "none")),
            given=(_can("mnist", "mlp"),),
            expected=0.1,
        )
    )
    for (data, net), (intervention, said) in product(
        product(("mnist", "cifar10"), ("mlp", "cnn")),
        {"weight_decay": "Weight decay of 1e-5", "optimizer": "Resetting the optimizer's state"}.items(),
    ):
        arm, none = name(data, net, "scalar", intervention), name(data, net, "scalar", "none")
        made.append(
            Claim(
                f"{said} alone does not reduce the rise of the probe loss by more than {MARGIN} ({_what(data, net)}).",
                less(change(arm), change(none)),
                threshold=-MARGIN,
                paper=_values(data, net, ("scalar", intervention), ("scalar", "none")),
                ours=True,
                given=(_can(data, net),),
                checklist=(20,),
            )
        )
    for net in ("resnet", "vit", "cnn"):
        arm, none = name("cifar10", net, "scalar", "reset"), name("cifar10", net, "scalar", "none")
        removed = net != "cnn"
        made.append(
            Claim(
                f"Resetting the last layer {'leaves' if removed else 'does not remove'} a rise of the probe loss "
                f"{'below' if removed else 'above'} {MARGIN} ({SAID[net]} on CIFAR-10"
                f"{f'; {MARGIN} minus the rise' if removed else ''}).",
                (lambda r, arm=arm: MARGIN - change(arm)(r)) if removed else change(arm),
                threshold=0.0 if removed else MARGIN,
                paper=_values("cifar10", net, ("scalar", "reset")),
                ours=True,
                given=(
                    _can("cifar10", net),
                    Claim(f"without an intervention it rises ({SAID[net]})", change(none)),
                ),
                checklist=(21,),
            )
        )
    return made


CLAIMS = tuple(_claims())

EXPERIMENT = Experiment(
    id="lyle2023/fig6",
    title="Interventions, heads and networks: how much plasticity an agent loses with each",
    figure="P1 figures 6 and 8 to 11",
    references=("lyle2023", "nikishin2022", "ash2020"),
    tiers={
        "smoke": Settings(
            num_images=120, hidden=(16, 16), batch_size=16, target_period=10, target_updates=3, bins=23, targets=2,
            steps=3, examples=40, cells=("digits-mlp",),
        ),
        "laptop": Settings(),
        "paper": Settings(
            num_images=50_000, hidden=(512, 512), channels=(64, 64), cnn_hidden=(256, 256), resnet_width=1.0,
            vit=(3, 256, 1024), batch_size=512, target_period=1000, target_updates=100, act_every=1, bins=221,
            targets=10, steps=2000, examples=10_000,
        ),
    },
    setup=setup,
)  # fmt: skip
