"""How sharply the probe's loss bends where its refits begin: evidence beside what repairs bring."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from pliant.functional.curvature import hessian
from pliant.functional.spectra import extremes, lanczos, rademacher
from pliant.network import Network, Params
from pliant.probe.draws import draw, number
from pliant.probe.targets import Probe, part
from pliant.words import first_line

SAMPLES = 256  # looked at
STEPS = 12  # of Lanczos


def sharpness(network: Network, params: Params, x: Any, probe: Probe, y: Tensor) -> float:
    """The largest eigenvalue of the Hessian of a probe's loss, on the first samples: steps above 2 / it diverge.

    >>> from torch import nn
    >>> from pliant.probe import Sines
    >>> net = Network(nn.Linear(1, 1, bias=False))
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> round(sharpness(net, net.params(), x, Sines(), torch.zeros(2, 1)), 3)  # of mean (w x)^2
    10.0
    """
    x, y = part(x, slice(0, SAMPLES)), y[:SAMPLES]
    trained = {n: params[n] for n in network.trained if n in params and params[n].is_floating_point()}
    operator = hessian(lambda p: probe.loss(network(params | p, x), y), trained)
    ritz = lanczos(operator, rademacher(operator, 1, seed=0)[0], min(STEPS, operator.size))
    return float(extremes(ritz).largest[0])


def curvature(network: Network, params: Params, x: Any, probe: Probe, seed: int) -> dict[str, float]:
    """The sharpness of a network on the first target of a probe, and that of a fresh one.

    Empty, with a warning, where a part of the network has no second derivative (torch's hard sigmoid, say).
    """
    found = {}
    for name, at in {"sharpness": params, "of_a_fresh_network": draw(network, params, seed, 0)}.items():
        with torch.no_grad():
            y = probe.targets(network, at, x, number(seed, 0, 0))
        try:
            found[name] = sharpness(network, at, x, probe, y)
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            warnings.warn(f"curvature is not among the evidence: {first_line(error)}", stacklevel=3)
            return {}
    return found
