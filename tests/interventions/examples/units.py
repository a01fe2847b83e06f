"""Resets of hidden units."""

from dataclasses import replace

from pliant.interventions import ContinualBackprop, ReDo
from pliant.interventions.contrib import SelfNormalizedResets
from tests.interventions.nets import Example
from tests.reference.interventions import units as naive

FED_AND_READ = {
    ("first", "second", "output"): (["first", "second"], ["second", "output"]),
    ("first", "second", "hidden", "output"): (["first", "second", "hidden"], ["second", "hidden", "output"]),
    ("stem", "inner", "back", "output"): (["inner", "back"], ["inner", "back", "output"]),
    ("embed", "query", "key", "value", "expand", "contract", "output"): (["expand"], ["contract"]),
}


def _all_units(net):
    """Weights and biases that feed units, weights that read them."""
    fed, read = FED_AND_READ[net.layers]
    return {f"{layer}.{kind}" for layer in fed for kind in ("weight", "bias")} | {f"{layer}.weight" for layer in read}


def _biases_too(net):
    """And the biases that take over a unit's mean."""
    return _all_units(net) | {name.replace("weight", "bias") for name in _all_units(net)}


EXAMPLES = {
    "ReDo": Example(
        ReDo(tau=1.0, every=4),
        lambda names: naive.ReDo(names, tau=1.0, every=4),
        touches=_all_units,
        idle_beside=("OutputNorm", "SpectralNorm", "WeightNorm"),
        warns=".* draws no units of act anew",  # of a residual stream
        whole=False,
        moments="touched",
        draws=True,
        vary=lambda method, member: replace(method, tau=method.tau * (1 - 0.2 * member)),
    ),
    "ReDo, Xavier, keeping moments": Example(
        ReDo(tau=0.9, every=3, incoming="xavier", moments="keep"),
        lambda names: naive.ReDo(names, tau=0.9, every=3, xavier=True, clear=False),
        touches=_all_units,
        warns=".* draws no units of act anew",
        whole=False,
        draws=True,
    ),
    "ContinualBackprop": Example(
        ContinualBackprop(rho=0.2, eta=0.8, maturity=1),
        lambda names: naive.ContinualBackprop(names, rho=0.2, eta=0.8, maturity=1),
        touches=_biases_too,
        shifts=lambda net: {name for name in _biases_too(net) if name.endswith("bias")},
        zero=ContinualBackprop(rho=0.0),
        idle_beside=("OutputNorm", "SpectralNorm", "WeightNorm"),
        warns=".* draws no units of act anew",  # of a residual stream
        whole=False,
        moments="touched",
        draws=True,
        vary=lambda method, member: replace(method, rho=method.rho * (1 + 0.5 * member)),
    ),
    "SelfNormalizedResets": Example(
        SelfNormalizedResets(p=0.5, history=2),
        lambda names: naive.SelfNormalizedResets(names, p=0.5, history=2),
        touches=_all_units,
        idle_beside=("OutputNorm", "SpectralNorm", "WeightNorm"),
        warns=".* draws no units of act anew",  # of a residual stream
        whole=False,
        moments="touched",
    ),
}
