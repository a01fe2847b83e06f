"""How the loss depends on what leaves each nonlinearity: by adding zeros there, and differentiating by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad

from pliant.diagnostics._shared import given, widened
from pliant.diagnostics.base import Observation
from pliant.levels import mapped, unmapped
from pliant.sites import Watch, rows


class Sensitivity(NamedTuple):
    """What leaves a site, and the derivative of the batch's loss with respect to it: `(samples, units)` each."""

    post: Tensor
    gradient: Tensor


class _Nudge(Watch):
    replaces = True

    def __init__(self, composites: set[nn.Module], nudges: dict[str, Tensor]):
        super().__init__(composites)
        self.nudges = nudges
        self.posts: dict[str, Tensor] = {}
        self.axes: dict[str, int] = {}

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        whole, levels = unmapped(post, self.depth)
        self.posts[name] = whole.clone()  # it may be changed in place later on
        self.axes[name] = self.unit_dim % post.ndim - post.ndim if whole.ndim > 2 else -1
        return post + mapped(self.nudges[name], levels) if name in self.nudges else post


def sensitivities(seen: Observation) -> dict[str, Sensitivity]:
    """By site that a sample reached, without padding; needs `network`, `x`, `y` and `loss`."""
    seen = widened(seen)
    network, x = given(seen.network, "network"), given(seen.x, "x")
    y, loss = given(seen.y, "y"), given(seen.loss, "loss")

    def run(nudges: dict[str, Tensor]) -> tuple[Tensor, _Nudge]:
        nudge = _Nudge(network.tracer.composites, nudges)
        with nudge.over(network.module):
            return loss(network(seen.params, x), y), nudge

    axes, plain = network.axes(x), run({})[1]
    zeros = {name: torch.zeros_like(post) for name, post in plain.posts.items()}
    gradients = grad(lambda nudges: run(nudges)[0])(zeros)

    def matrix(name: str, tensor: Tensor) -> Tensor:
        return rows(tensor.movedim(axes.get(name, plain.axes[name]), -1), seen.mask)

    found = {name: Sensitivity(matrix(name, plain.posts[name]), matrix(name, g)) for name, g in gradients.items()}
    return {name: site for name, site in found.items() if len(site.post)}
