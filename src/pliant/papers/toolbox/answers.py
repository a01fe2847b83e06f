"""The known answers of planted: the mechanism of every cause, network by network, and the claims that it is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import numpy as np

from pliant.causes import (
    EVERY,
    HiddenSchedule,
    LogitScale,
    Norm,
    NormaliserScales,
    OptimizerState,
    Preactivations,
    Spectra,
    TargetScale,
    Units,
)
from pliant.claims import Claim
from pliant.papers.lyle2024 import swiss_cheese
from pliant.results import Results
from pliant.waterfall import UNEXPLAINED

NORM = "layer norm"
NETS = {"mlp": "MLP", "cnn": "CNN", "transformer": "transformer"}
SHIFTED = "shifted-mlp"
LABELS = {
    "units": "three quarters of the units killed",
    "norm": "weights times {growth:g}",
    "shift": "preactivations shifted",
    "hidden": "weights before normalisers times 30",
    "spectrum": "weights of one direction",
    "scales": "normalisers divided by 30",
    "logits": "output layer times 30",
    "target scale": "head shifted",
    "optimizer": "stale moments",
}
PARTS = {name: f"lost/{name}" for name in (*(repair.name for repair in EVERY), UNEXPLAINED)}


def arm(cause: str, net: str, normed: bool) -> str:
    """The name of an arm.

    >>> arm("units", "mlp", False), arm("units", "cnn", True)
    ('units-mlp', 'units-cnn-norm')
    """
    return f"{cause}-{net}{'-norm' if normed else ''}"


def growth(net: str, normed: bool) -> float:
    """How many times larger weights are where that is planted.

    Times 30, the outputs of a transformer without layer norm come near 1e6, where float32 is too coarse for the probe.
    """
    return 10.0 if net == "transformer" and not normed else 30.0


def label(cause: str, net: str, normed: bool) -> str:
    """What is planted, in words.

    >>> label("norm", "mlp", False), label("norm", "transformer", False)
    ('weights times 30', 'weights times 10')
    """
    return LABELS[cause].format(growth=growth(net, normed))


def causes(net: str, normed: bool) -> dict[str, str]:
    """What can be planted in a network: the mechanism of each cause."""
    plain = {"norm": Norm.name, "shift": Preactivations.name}
    layers = {"hidden": HiddenSchedule.name, "scales": NormaliserScales.name} if normed else plain
    if normed and net == "transformer":  # a normaliser follows neither its hidden layer nor queries and keys
        layers |= plain
    shared = {
        "spectrum": Spectra.name,
        "logits": LogitScale.name,
        "target scale": TargetScale.name,
        "optimizer": OptimizerState.name,
    }
    return {"units": Units.name, **layers, **shared}


def _lead(arm: str, mechanism: str) -> Callable[[Results], np.ndarray]:
    """How much more a mechanism took than any other, as a share of what an arm lost, one a seed."""

    def lead(results: Results) -> np.ndarray:
        taken = {repair.name: results.last(arm, f"lost/{repair.name}") for repair in EVERY}
        others = np.max([values for name, values in taken.items() if name != mechanism], axis=0)
        return (taken[mechanism] - others) / results.last(arm, "lost")

    return lead


def _planted(name: str, healthy: str, mechanism: str, what: str) -> Claim:
    works = swiss_cheese.fresh_learn(healthy, name)
    lost = Claim(
        f"{what} cost plasticity: more than 0.1 of the constant predictor's loss.",
        partial(swiss_cheese.lost_share, arm=name),
        threshold=0.1,
        ours=True,
    )
    text = f"{what}: {mechanism} takes the largest share (its lead over the next)."
    return Claim(text, _lead(name, mechanism), ours=True, given=(works, lost))


def _shifted() -> tuple[Claim, ...]:
    """Of the arm that was trained on shifted targets: nobody planted what took its plasticity."""
    lead = _planted(SHIFTED, arm("healthy", "mlp", False), TargetScale.name, "MLP, trained on targets shifted by 100")
    rest = Claim(
        "Of what training on targets shifted by 100 cost, less than half stays unexplained (what is left of the half).",
        lambda r: 0.5 - r.last(SHIFTED, f"lost/{UNEXPLAINED}") / r.last(SHIFTED, "lost"),
        ours=True,
        given=lead.given,
    )
    return lead, rest


def claims(nets: Sequence[str]) -> tuple[Claim, ...]:
    """Each planted cause is found, in every network; where nothing was planted, little is lost."""
    found, healthy, planted = [], [], []
    for net, normed in product(nets, (False, True)):
        name, well = NETS[net] + (f" with {NORM}" if normed else ""), arm("healthy", net, normed)
        of_net = causes(net, normed)
        for cause, mechanism in of_net.items():
            what = f"{name}, {label(cause, net, normed)}"
            found.append(_planted(arm(cause, net, normed), well, mechanism, what))
        healthy.append(well)
        planted.append([arm(cause, net, normed) for cause in of_net])
    if "mlp" in nets:
        found.extend(_shifted())
    works = tuple(swiss_cheese.fresh_learn(well, *names) for well, names in zip(healthy, planted, strict=True))
    return (
        *found,
        Claim(
            "With nothing planted, the loss of plasticity stays below 0.1 of the constant predictor's loss (what is "
            "left in the network that lost most).",
            lambda r: 0.1 - np.max([swiss_cheese.lost_share(r, name) for name in healthy], axis=0),
            ours=True,
            given=works,
        ),
        Claim(
            "Each planted cause costs more than training alone (the mildest one).",
            lambda r: np.min(
                [
                    np.min([swiss_cheese.lost_share(r, name) for name in names], axis=0)
                    - swiss_cheese.lost_share(r, well)
                    for well, names in zip(healthy, planted, strict=True)
                ],
                axis=0,
            ),
            ours=True,
            given=works,
        ),
    )
