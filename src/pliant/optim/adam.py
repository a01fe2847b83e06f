"""Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pliant.functional.precision import real
from pliant.network import Params
from pliant.optim.base import Moments, Optimizer, aligned, clock, zeros


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with an epsilon outside and one inside the root: w <- w - lr m_hat / (sqrt(v_hat + eps_root) + eps).

    P1's default is `betas=(0.9, 0.999), eps=1e-9, eps_root=0`, its tuned setting `betas=(0.9, 0.9), eps_root=1e-3`;
    `eps=1e-3` is not the same thing.

    >>> params, grads = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    >>> optimizer = Adam(lr=0.1)
    >>> optimizer.update(params, grads, optimizer.init(params))
    >>> params["w"]
    tensor([-0.1000])

    Source: Kingma & Ba 2015; `eps_root` as in P1 eq. 6. Equals `torch.optim.Adam` where `eps_root` is 0.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (len(self.betas) == 2 and all(b < 1 for b in self.betas)):
            raise ValueError(f"expected betas of Adam to be two numbers in [0, 1), got {self.betas!r}")

    def init(self, params: Params) -> Moments:
        return {"exp_avg": zeros(params), "exp_avg_sq": zeros(params), "step": clock(params)}

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        p, g = [real(t) for t in params.values()], [real(t) for t in aligned(params, grads)]
        m, v = ([real(t) for t in moments[kind].values()] for kind in ("exp_avg", "exp_avg_sq"))
        (step,) = moments["step"].values()
        b1, b2 = self.betas
        step.add_(1)
        if self.eps_root == 0:
            torch._fused_adam_(
                p, g, m, v, [], [step] * len(p), lr=self.lr, beta1=b1, beta2=b2, weight_decay=0.0, eps=self.eps,
                amsgrad=False, maximize=False,
            )  # fmt: skip
            return
        t = float(step)
        c1, c2 = 1 - b1**t, 1 - b2**t
        torch._foreach_lerp_(m, g, 1 - b1)
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, g, g, 1 - b2)
        root = g  # no longer needed; sqrt(v / c2 + eps_root) = sqrt(v + eps_root c2) / sqrt(c2)
        for v_, root_ in zip(v, root, strict=True):
            torch.add(v_, self.eps_root * c2, out=root_)
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, self.eps * math.sqrt(c2))
        torch._foreach_addcdiv_(p, m, root, -self.lr * math.sqrt(c2) / c1)
