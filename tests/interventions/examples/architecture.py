"""What is built into the network."""

import torch

from pliant.interventions import (
    Activation,
    BatchNorm,
    CReLU,
    FourierFeatures,
    LayerNorm,
    MixedNorm,
    PlasticityInjection,
    RMSNorm,
    SpectralNorm,
    WeightNorm,
)
from pliant.interventions.contrib import OutputNorm
from tests.interventions.nets import NETS, Example
from tests.reference.interventions import architecture as naive

ONE_NORMALISER = ("BatchNorm", "LayerNorm", "MixedNorm", "NormalizeAndProject", "RMSNorm")
OTHER_NONLINEARITIES = ("Activation", "CReLU", "FourierFeatures")
OTHER_WEIGHTS = ("SpectralNorm", "WeightNorm")
HIDDEN_LAYERS = {layer for net in NETS.values() for layer in net.layers} - {"output"}


def _normaliser(intervention, mean, variance, **promises):
    return Example(
        intervention,
        lambda names: naive.Normaliser(names, mean, variance, intervention.eps),
        warns=f"{type(intervention).__name__} left alone act#3",
        refuses=ONE_NORMALISER,
        **promises,
    )


def _biases_in_front(net):
    return {f"{layer}.bias" for layer in net.hidden}


def _activation(function):
    return Example(
        Activation(function),
        lambda names: naive.Activation(names, function),
        refuses=OTHER_NONLINEARITIES,
    )


def _doubled(intervention, f, g):
    return Example(
        intervention,
        lambda names: naive.Doubled(names, f, g),
        nets=("MLP", "CNN", "attention"),  # the residual stream has one width
        refuses=(*OTHER_NONLINEARITIES, "InFeR", "OutputNorm", "WeightNorm"),
    )


def _positive(z):
    return torch.where(z > 0, z, 0.0)


def _negative(z):
    return torch.where(z < 0, -z, 0.0)


def _branches(net):
    return {f"output.injection.{copy}.{leaf}" for copy in ("new", "frozen") for leaf in ("weight", "bias")}


EXAMPLES = {
    "LayerNorm": _normaliser(LayerNorm(eps=1e-3), "sample", "sample"),
    "LayerNorm at each position": _normaliser(
        LayerNorm(eps=0.1, axes="channels", affine=False), "position", "position"
    ),
    "BatchNorm": _normaliser(BatchNorm(eps=1e-3), "unit", "unit", idle=_biases_in_front),
    "BatchNorm without scale and offset": _normaliser(
        BatchNorm(eps=1e-2, affine=False), "unit", "unit", idle=_biases_in_front
    ),
    "RMSNorm": _normaliser(RMSNorm(eps=1e-3), None, "sample"),
    "RMSNorm at each position": _normaliser(RMSNorm(eps=0.1, axes="channels"), None, "position"),
    "MixedNorm": _normaliser(MixedNorm(mean="batch", std="layer", eps=1e-3), "unit", "sample"),
    "MixedNorm, mirror, at each position": _normaliser(
        MixedNorm(mean="layer", std="batch", eps=0.1, axes="channels", affine=False), "position", "unit"
    ),
    "Activation": _activation("leaky_relu"),
    "Activation GELU": _activation("gelu"),
    "Activation tanh": _activation("tanh"),
    "SpectralNorm": Example(
        SpectralNorm(num_iterations=5),
        lambda names: naive.SpectralNorm(names, {"first", "hidden", "embed"}, 5),
        nets=("MLP", "attention"),
        refuses=OTHER_WEIGHTS,
    ),
    "SpectralNorm of the CNN": Example(
        SpectralNorm(num_iterations=5),
        lambda names: naive.SpectralNorm(names, {"hidden"}, 5),
        nets=("CNN",),
    ),
    "SpectralNorm of all hidden layers": Example(
        SpectralNorm(num_iterations=5, layers="hidden"),
        lambda names: naive.SpectralNorm(names, HIDDEN_LAYERS, 5),
    ),
    "WeightNorm": Example(
        WeightNorm(), naive.WeightNorm, refuses=(*OTHER_WEIGHTS, "PlasticityInjection"), pointless_after=("InFeR",)
    ),
    "OutputNorm": Example(OutputNorm(), naive.OutputNorm, refuses=("OutputNorm",)),
    "CReLU": _doubled(CReLU(), _positive, _negative),
    "CReLU at equal parameters": _doubled(CReLU(equal_parameters=True), _positive, _negative),
    "FourierFeatures": _doubled(FourierFeatures(), torch.sin, torch.cos),
    "FourierFeatures at equal parameters": _doubled(FourierFeatures(equal_parameters=True), torch.sin, torch.cos),
    "PlasticityInjection": Example(
        PlasticityInjection(layers=1),
        naive.PlasticityInjection,
        touches=lambda net: _branches(net) | {"output.injection.open"},
        event="task_switch",
        moments="touched",
        idle=lambda net: _branches(net) | {"output.injection.open"},
        draws=True,
        refuses=("PlasticityInjection",),
    ),
}
