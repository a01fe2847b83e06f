"""Selective weight re-initialisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from pliant.interventions.base import Change, Draw, Intervention, Seen, State, check_choice, cleared
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class SelectiveReinit(Intervention):
    """Every so many steps, the smallest weights of every tensor are drawn anew from the layer's initial distribution.

    Of n entries of a weight or bias, the floor(fraction n + u) of lowest |w| are drawn, u uniform in [0, 1): that is
    fraction n on average, so that small tensors get their turn. Scales and offsets of normalisers are left alone.

    Args:
        fraction: of the entries of each tensor; 0 is none.
        every: period in optimizer steps.
        moments: of the entries that were drawn: `"keep"` or `"clear"`; the step count is left alone (see `cleared`).

    >>> network = Network(torch.nn.Linear(4, 1, bias=False))
    >>> smallest = SelectiveReinit(fraction=0.5, every=100)
    >>> params = {"weight": torch.tensor([[3.0, -0.1, 0.2, -4.0]])}
    >>> smallest.renew(network, params, {}, {}, Draw(0, 0)).params["weight"] == params["weight"]
    tensor([[ True, False, False,  True]])

    Source: Hernandez-Garcia et al. 2025, with their utility |w| and proportional pruning. Deviations: their utility
    |w g| with the gradient g and their pruning by a threshold are not offered; their code draws normalisers, too.
    """

    reference: ClassVar[str] = "hernandezgarcia2025"
    touches: ClassVar[str] = "single weights, moments"

    fraction: float
    every: int
    moments: Literal["keep", "clear"] = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"expected fraction of SelectiveReinit to be between 0 and 1, got {self.fraction!r}")
        if not self.every >= 1:
            raise ValueError(f"expected every of SelectiveReinit to be at least 1 step, got {self.every!r}")
        check_choice("SelectiveReinit", "moments", self.moments, ("keep", "clear"))

    def init(self, network: Network, params: Params) -> State:
        return {"due": torch.tensor(self.fraction > 0, device=next(iter(params.values())).device)}

    def active(self, step: int) -> bool:
        return (step + 1) % self.every == 0

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> None:
        """Nothing before `renew`, which is due after every active step."""

    def renew(self, network: Network, params: Params, moments: Moments, state: State, draw: Draw) -> Change:
        names = [name for name in network.names if name not in network.normalisers]
        fresh, generator = draw.fresh(network, names), draw.generator()
        new, chosen = {}, {}
        for name in names:
            w = params[name]
            count = int(self.fraction * w.numel() + torch.rand((), generator=generator).item())
            smallest = w.abs().flatten().argsort(stable=True)[:count]
            mask = torch.zeros(w.numel(), dtype=torch.bool, device=w.device).index_fill(0, smallest, True)
            chosen[name] = mask.view_as(w)
            new[name] = torch.where(chosen[name], fresh[name].to(w), w)
        return Change(new, cleared(moments, chosen) if self.moments == "clear" else {})
