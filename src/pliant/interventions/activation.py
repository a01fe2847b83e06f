"""Another nonlinearity in place of a network's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from pliant.interventions._building import Among
from pliant.interventions._nonlinearities import Call, Replacement, check_replaced, replaced
from pliant.interventions.base import Intervention, check_choice, everything

FUNCTIONS = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid")


@dataclass(frozen=True)
class Activation(Intervention):
    """Every hidden nonlinearity becomes another: leaky ReLU (slope 0.01), GELU (exact), tanh, ...

    Modules that are nonlinearities are exchanged, calls of functions (`F.relu(x)`, `x.tanh()`) redirected; parameters
    keep their names. What squashes the output (a final `tanh`) is left alone. The weights stay as they were drawn.

    The built module works under `torch.vmap`, `torch.compile`, `copy.deepcopy` and `pickle`. Calls are redirected in
    the forward pass of the module that makes them, not in other methods of it, and for batches, not for a lone vector.

    `build` raises `ValueError` if there is nothing to replace, where a call that is to stay cannot be told from one
    that is to go, and where nonlinearities were replaced already.

    Args:
        function: `"relu"`, `"leaky_relu"`, `"elu"`, `"selu"`, `"gelu"`, `"silu"`, `"softplus"`, `"tanh"` or
            `"sigmoid"`, with PyTorch's settings.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Tanh())
    >>> Activation("leaky_relu").build(net, example=torch.ones(1, 2))
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): Replacement(leaky_relu)
      (2): Linear(in_features=3, out_features=1, bias=True)
      (3): Tanh()
    )

    Source: P2 (dead and linearized units after task changes, with GELU and leaky ReLU).
    """

    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "nonlinearities"

    function: Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid"]

    def __post_init__(self) -> None:
        check_choice("Activation", "function", self.function, FUNCTIONS)

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        def make(calls: list[Call]) -> nn.Module:
            return Replacement(self.function)

        built, calls = replaced("Activation", module, example, lambda call: call.within(among), make)
        check_replaced("Activation", built, example, len(calls))
        return built
