"""Initial feature regularization (InFeR)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.adapter import adapted
from pliant.interventions._building import Among, prepared
from pliant.interventions.base import Intervention, Seen, State, everything
from pliant.modules import penultimate, seeded
from pliant.network import Network, Params
from pliant.sites import Activity, arguments


class Heads(nn.Linear):
    """Linear functions of the features that only the penalty reads: in a forward pass, what comes in goes out.

    >>> Heads(2, 10)(torch.ones(1, 2))
    tensor([[1., 1.]])
    """

    def forward(self, input: Tensor) -> Tensor:
        return input  # an nn.Sequential calls its last child, whoever put it there


@dataclass(frozen=True)
class InFeR(Intervention):
    """`strength` times E_x sum_i (h_i(phi(x)) - target_scale h_i^0(phi_0(x)))^2 over the batch, added to the loss.

    phi(x) are the penultimate features and h_1, ..., h_k linear heads beside the output layer, which the output does
    not depend on; the targets come from the network as it was at the start, heads included. The heads become the
    module's last submodule `infer`: existing parameters keep their names and their initial draws. What changes the
    number of features (`CReLU`) comes before it in a chain. Costs a second forward pass a step.

    `build` raises `ValueError` if the module has an `infer` already, or no linear or convolution call; `init` does if
    the heads were not built.

    Args:
        strength: alpha, at least 0; 0 is no penalty.
        target_scale: beta, above 0.
        num_heads: k, at least 1.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> built = InFeR(num_heads=5).build(net, example=torch.ones(1, 2))
    >>> [name for name, _ in built.named_parameters()]
    ['0.weight', '0.bias', '2.weight', '2.bias', 'infer.weight', 'infer.bias']
    >>> torch.equal(built(torch.ones(1, 2)), net(torch.ones(1, 2)))
    True

    Source: Lyle et al. 2022, with its values. Deviation: whether the heads have biases is not known; ours do.
    """

    reference: ClassVar[str] = "lyle2022"
    touches: ClassVar[str] = "gradients; adds heads"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    strength: float = 0.1
    target_scale: float = 100.0
    num_heads: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"expected strength of InFeR to be at least 0 and finite, got {self.strength!r}")
        if not 0 < self.target_scale < math.inf:
            raise ValueError(f"expected target_scale of InFeR to be above 0 and finite, got {self.target_scale!r}")
        if not (isinstance(self.num_heads, int) and self.num_heads >= 1):
            raise ValueError(f"expected num_heads of InFeR to be a whole number of at least 1, got {self.num_heads!r}")

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        built = prepared("InFeR", module)
        kind = type(built).__name__
        if hasattr(built, "infer"):
            raise ValueError(f"InFeR would overwrite infer of {kind}: build it into a module once")
        activity = Activity(set())
        args, kwargs = arguments(example)
        probed = adapted(built)
        with torch.no_grad(), seeded(0), activity.over(probed):
            probed(*args, **kwargs)
        if activity.features is None:
            raise ValueError(f"InFeR found no linear or convolution call in {kind}, so no features")
        features = penultimate(activity.features, built, activity.unit_dim)
        with seeded(torch.initial_seed()):  # other heads where the caller's seed is another; their stream is kept
            heads = Heads(features.shape[1], self.num_heads, device=features.device, dtype=features.dtype)
        built.register_module("infer", heads)
        return built

    def init(self, network: Network, params: Params) -> State:
        if "infer.weight" not in params:
            raise ValueError(
                f"InFeR found no heads in {type(network.module).__name__}: write "
                "module = Chain(InFeR(), ...).build(module, example=x) first"
            )
        return {name: p.clone() for name, p in params.items()}

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        assert seen.features is not None
        targets = self.target_scale * _heads(state, network.watch(state, seen.x).features)
        return self.strength * (_heads(params, seen.features) - targets).square().sum(-1).mean()


def _heads(params: Params, features: Tensor) -> Tensor:
    return F.linear(features, params["infer.weight"], params["infer.bias"])
