"""The four moments of an intervention, and the chain of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pliant.network import Network, Params
from pliant.optim import Moments

State = dict[str, Any]


class Draw(NamedTuple):
    """Where an intervention's random numbers come from: the member's seed, the step and its place in the chain alone.

    >>> torch.rand(1, generator=Draw(seed=0, step=5).generator()) == torch.rand(1, generator=Draw(0, 5).generator())
    tensor([True])
    """

    seed: int
    step: int
    place: int = 0

    def fresh(self, network: Network) -> Params:
        """New parameters from the initial distribution."""
        return network.fresh(self._mixed(0))

    def generator(self) -> torch.Generator:
        """A generator for everything else."""
        return torch.Generator().manual_seed(self._mixed(1))

    def _mixed(self, purpose: int) -> int:
        return int(
            np.random.SeedSequence([self.seed, self.step, self.place, purpose]).generate_state(1, np.uint64)[0] >> 1
        )


@dataclass(frozen=True)
class Intervention:
    """A change to a network, its loss, its steps or what happens at an event: a frozen dataclass, its own config.

    Every moment is optional and written for one network; populations run it under `vmap`. `penalty` and `after_step`
    are pure functions without branches on data; `on_event` runs on the host and may draw.

    The class variable `reference` is a key of refs.bib.

    >>> @dataclass(frozen=True)
    ... class Halve(Intervention):
    ...     def after_step(self, network, params, moments, state):
    ...         return {name: w / 2 for name, w in params.items()}, moments, state
    >>> Halve().after_step(Network(nn.Linear(1, 1)), {"weight": torch.ones(1, 1)}, {}, {})[0]
    {'weight': tensor([[0.5000]])}
    """

    reference: ClassVar[str]

    def build(self, module: nn.Module, example: Tensor) -> nn.Module:
        """The module to train; one that changes it returns a copy in which existing parameters keep their names."""
        return module

    def init(self, network: Network, params: Params) -> State:
        """The state carried along (tensors by name); its structure never changes."""
        return {}

    def penalty(self, network: Network, params: Params, state: State) -> Tensor | None:
        """A scalar added to the loss, or None."""
        return None

    def penalty_gradient(self, network: Network, params: Params, state: State) -> Params | None:
        """The gradient of `penalty` in closed form for the parameters it touches, or None: autograd then derives it."""
        return None

    def after_step(
        self, network: Network, params: Params, moments: Moments, state: State
    ) -> tuple[Params, Moments, State] | None:
        """Parameters, optimizer moments and state after each optimizer step, or None where nothing changes."""
        return None

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> tuple[Params, Moments, State] | None:
        """Parameters, optimizer moments and state at an event such as `"task_switch"`, or None."""
        return None


class Chain(tuple[Intervention, ...]):
    """Interventions applied in order, as one.

    >>> from pliant.interventions import L2, LayerNorm
    >>> Chain(LayerNorm(), L2(1e-4))
    Chain(LayerNorm(eps=1e-05), L2(strength=0.0001, normalisers=False))
    """

    def __new__(cls, *members: Intervention) -> Chain:
        for member in members:
            if not isinstance(member, Intervention):
                raise ValueError(f"expected interventions such as L2(1e-4), got {member!r}: write Chain(L2(1e-4), ...)")
        return super().__new__(cls, members)

    def __getnewargs__(self) -> tuple[Intervention, ...]:  # type: ignore[override]
        return tuple(self)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self))})"

    def build(self, module: nn.Module, example: Tensor) -> nn.Module:
        """The module with every intervention built in; `example` is one batch of inputs."""
        for member in self:
            module = member.build(module, example)
        return module

    def init(self, network: Network, params: Params) -> list[State]:
        """One state a member."""
        return [member.init(network, params) for member in self]
