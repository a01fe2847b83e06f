"""Penalties in the loss."""

from pliant.interventions import (
    L2,
    FeatureNormPenalty,
    GradientNormPenalty,
    InFeR,
    L2Init,
    Parseval,
    SpectralRegulariser,
    Wasserstein,
)
from pliant.interventions.contrib import CChain, ProximalFeatures
from tests.interventions.nets import Example, stronger
from tests.reference.interventions import penalties as naive


def _all(net):
    return net.plain_params | net.normaliser_params


def _before_output(net):
    return _all(net) - {"output.weight", "output.bias"}


EXAMPLES = {
    "L2": Example(
        L2(0.01),
        lambda names: naive.L2(names, 0.01),
        touches=lambda net: net.plain_params,
        zero=L2(0.0),
        vary=stronger,
    ),
    "L2 with normalisers": Example(
        L2(0.01, normalisers=True),
        lambda names: naive.L2(names, 0.01),
        touches=_all,
        zero=L2(0.0, normalisers=True),
        vary=stronger,
    ),
    "L2Init": Example(
        L2Init(0.05),
        lambda names: naive.L2Init(names, 0.05),
        touches=_all,
        zero=L2Init(0.0),
        vary=stronger,
    ),
    "L2Init without normalisers": Example(
        L2Init(0.05, normalisers=False),
        lambda names: naive.L2Init(names, 0.05),
        touches=lambda net: net.plain_params,
        zero=L2Init(0.0, normalisers=False),
        vary=stronger,
    ),
    "Wasserstein": Example(
        Wasserstein(0.05),
        lambda names: naive.Wasserstein(names, 0.05),
        touches=_all,
        zero=Wasserstein(0.0),
        vary=stronger,
    ),
    "SpectralRegulariser": Example(
        SpectralRegulariser(0.05, power=2, num_iterations=40),
        lambda names: naive.SpectralRegulariser(names, 0.05, 2),
        touches=lambda net: net.plain_params,
        zero=SpectralRegulariser(0.0, power=2, num_iterations=40),
        vary=stronger,
        tolerance=5e-4,  # power iterations converge slowly where singular values are close; the effect is 0.1
    ),
    "Parseval": Example(
        Parseval(0.01, scale=2.0),
        lambda names: naive.Parseval(names, 0.01, 2.0),
        touches=lambda net: net.weights,
        zero=Parseval(0.0, scale=2.0),
        vary=stronger,
    ),
    "FeatureNormPenalty": Example(
        FeatureNormPenalty(0.1),
        lambda names: naive.FeatureNorm(names, 0.1),
        touches=_before_output,
        whole=False,
        zero=FeatureNormPenalty(0.0),
        vary=stronger,
    ),
    "GradientNormPenalty": Example(
        GradientNormPenalty(0.05),
        lambda names: naive.GradientNorm(names, 0.05),
        touches=_all,
        whole=False,
        zero=GradientNormPenalty(0.0),
        vary=stronger,
    ),
    "InFeR": Example(
        InFeR(strength=0.01, target_scale=2.0, num_heads=3),
        lambda names: naive.InFeR(names, 0.01, 2.0),
        touches=lambda net: _before_output(net) | {"infer.weight", "infer.bias"},
        whole=False,
        refuses=("InFeR",),
    ),
    "CChain": Example(
        CChain(0.5),
        lambda names: naive.CChain(names, 0.5, 1, kl=False),
        touches=_all,
        whole=False,
        zero=CChain(0.0),
        vary=stronger,
    ),
    "CChain with lag and divergence": Example(
        CChain(2.0, lag=2, distance="kl"),
        lambda names: naive.CChain(names, 2.0, 2, kl=True),
        touches=_all,
        whole=False,
        zero=CChain(0.0, lag=2, distance="kl"),
        vary=stronger,
    ),
    "ProximalFeatures": Example(
        ProximalFeatures(0.2, event="iteration"),
        lambda names: naive.ProximalFeatures(names, 0.2),
        touches=lambda net: _before_output(net) - {"contract.weight", "contract.bias"},
        whole=False,
        zero=ProximalFeatures(0.0, event="iteration"),
        event="iteration",
        vary=stronger,
    ),
}
