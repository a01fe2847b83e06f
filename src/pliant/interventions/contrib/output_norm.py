"""Features of length 1 before the output layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn

from pliant.interventions._building import Among, last_of, layers_in_order, prepared
from pliant.interventions.base import Intervention, everything

EPS = 1e-12  # added to the mean square, so that features of zeros have a gradient


@dataclass(frozen=True)
class OutputNorm(Intervention):
    """The output layer reads the penultimate features brought to length 1: phi / ||phi||, of each sample.

    So the size of an output is bounded by the output layer's weights. Nothing is learned, and features of zeros stay
    zeros. With several output layers (policy and value, say), each reads features of length 1.

    `build` raises `ValueError` if an output layer is no `nn.Linear`, or reads features of length 1 already.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> _ = nn.init.constant_(net[2].weight, 3.0)
    >>> built = OutputNorm().build(net, example=torch.ones(1, 1))
    >>> bool(built(torch.randn(5, 1)).max() <= 3 * 2**0.5)
    True

    Source: Bjorck et al. 2022, and Hussing et al. 2024, who call it output feature normalisation.
    """

    reference: ClassVar[str] = "bjorck2022"
    touches: ClassVar[str] = "features"

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        built = prepared("OutputNorm", module)
        kind = type(built).__name__
        paths = [path for path in last_of(layers_in_order(built, example), built, example) if among(path)]
        if not paths:
            raise ValueError(f"OutputNorm found no output layer of {kind} that is an nn.Linear")
        for path in paths:
            layer = built.get_submodule(path)
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"OutputNorm takes an nn.Linear for an output layer, but {path} of {kind} is {layer}")
            if _unit_length in layer._forward_pre_hooks.values():
                raise ValueError(f"OutputNorm is before {path} of {kind} already: build it into a module once")
            layer.register_forward_pre_hook(_unit_length)
        return built


def _unit_length(layer: nn.Module, args: tuple) -> tuple:
    phi, *rest = args
    size = phi.shape[-1]
    return (F.rms_norm(phi, (size,), eps=EPS) / size**0.5, *rest)
