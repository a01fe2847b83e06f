"""What the zoo knows of a network: how it is made and called, and what is known of it beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pliant import Inputs
from pliant.probe import Probe, Sines

SINES = Sines()


@dataclass(frozen=True)
class Net:
    """One network of the zoo.

    Attributes:
        make: builds it (an agent's: after it has learned).
        inputs: draws a batch.
        fresh: builds one that was never trained, where `make` trains.
        units: sizes of the groups of hidden units, read off the architecture by hand, where that was done.
        whole: whether a layer feeds every nonlinearity, so that each has units.
        probe: of the plasticity checks; sines say nothing where a head begins at 0.
        dtype: in which it is computed where rounding would hide something; float32 for what casts its inputs.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    fresh: Callable[[], nn.Module] | None = None
    units: tuple[int, ...] | None = None
    whole: bool = False
    probe: Probe = SINES
    dtype: torch.dtype = torch.float64

    def new(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make()

    def new_fresh(self) -> nn.Module:
        return (self.fresh or self.make)()

    def typed(self, model: nn.Module) -> nn.Module:
        return model.double() if self.dtype is torch.float64 else model

    def batch(self, dtype: torch.dtype = torch.float32) -> Any:
        torch.manual_seed(0)
        return tree_map(lambda t: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t, self.inputs())


def call(model: nn.Module, x: Any) -> list[Tensor]:
    """Every floating tensor of the output."""
    output = model(*x.args, **x.kwargs) if isinstance(x, Inputs) else model(x)
    return [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def loss(output: Any, y: Any = None) -> Tensor:
    """A number that every floating tensor of an output enters."""
    leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.stack([(t.double() - 0.3).square().mean() for t in leaves]).sum()
