"""RMSProp."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pliant.functional.precision import real
from pliant.network import Params
from pliant.optim.base import Moments, Optimizer, aligned, zeros


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp: v <- a v + (1 - a) g^2; w <- w - lr g / (sqrt(v - mean^2 + eps_root) + eps), mean only if `centered`.

    dqn_zoo's double DQN is `RMSProp(2.5e-4, alpha=0.95, eps=0.0, eps_root=0.01 / 32**2, centered=True)`: its epsilon is
    inside the root, as in Mnih et al. 2015, where no entry moves by more than lr |g| / 0.0031. As `eps`, outside, the
    floor is 300 times lower, and entries with small gradients move by as much more.

    >>> params, grads = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    >>> optimizer = RMSProp(lr=0.1, alpha=0.75)
    >>> optimizer.update(params, grads, optimizer.init(params))
    >>> params["w"]
    tensor([-0.2000])

    Equals `torch.optim.RMSprop` where `eps_root` is 0.
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    eps_root: float = 0.0
    centered: bool = False
    momentum: float = 0.0

    def init(self, params: Params) -> Moments:
        moments = {"square_avg": zeros(params)}
        if self.centered:
            moments["grad_avg"] = zeros(params)
        if self.momentum:
            moments["momentum_buffer"] = zeros(params)
        return moments

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        p, g = [real(t) for t in params.values()], [real(t) for t in aligned(params, grads)]
        v = [real(t) for t in moments["square_avg"].values()]
        torch._foreach_mul_(v, self.alpha)
        torch._foreach_addcmul_(v, g, g, 1 - self.alpha)
        if self.centered:
            mean = [real(t) for t in moments["grad_avg"].values()]
            torch._foreach_lerp_(mean, g, 1 - self.alpha)
            root = torch._foreach_addcmul(v, mean, mean, -1)
        else:
            root = torch._foreach_add(v, 0.0)
        if self.eps_root:
            torch._foreach_add_(root, self.eps_root)
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, self.eps)
        if self.momentum:
            b = [real(t) for t in moments["momentum_buffer"].values()]
            torch._foreach_mul_(b, self.momentum)
            torch._foreach_addcdiv_(b, g, root)
            torch._foreach_add_(p, b, alpha=-self.lr)
        else:
            torch._foreach_addcdiv_(p, g, root, -self.lr)
