"""Utility-based perturbed gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pliant.network import Params
from pliant.optim.base import Moments, Optimizer, aligned, clock, zeros


@dataclass(frozen=True)
class UPGD(Optimizer):
    """Utility-based perturbed gradient descent: noisy steps that spare useful weights and move useless ones more.

        u <- beta u + (1 - beta) (-g w)
        w <- (1 - lr weight_decay) w - 2 lr (g + noise) (1 - sigmoid(u / max u)),  noise ~ N(0, sigma^2)

    The utility u averages how much the loss would rise, to first order, were the weight 0; max u is over all parameters
    of one network. As sigmoid(0) = 1/2, the factor 2 makes the step of a weight without utility that of `SGD`; the most
    useful weight takes 0.54 of it.

    Args:
        lr: the learning rate.
        weight_decay: decoupled, times the learning rate.
        beta: how slowly the average forgets.
        sigma: standard deviation of the noise on every gradient; 0 draws nothing.
        published: divide u alone by 1 - beta^t in step t, as the published code does, and not max u.

    >>> params, grads = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([-1.0, 0.0])}
    >>> optimizer = UPGD(lr=0.1, weight_decay=0.0, sigma=0.0)
    >>> optimizer.update(params, grads, optimizer.init(params))
    >>> params["w"]
    tensor([1.0538, 1.0000])

    Source: Elsayed & Mahmood 2024; defaults and the factor 2 from its published code. Deviations: both u and max u are
    corrected for the bias of a young average, so that the correction cancels; the published code corrects u alone,
    which makes the ratio 1 / (1 - beta^t) times larger in step t (1000 times in the first one): with the default beta,
    it protects all useful weights alike for the first hundreds of steps, and a run of 100 steps that moved a network by
    0.295 ended 0.026 from ours. `published=True` is that form. A weight of no utility
    has ratio 0 also where max u is 0, as before the first gradient that is not 0; the published code divides 0 by 0.
    Where every u is below 0 the formula protects the least useful weights most; ours follows it there.
    """

    reference: ClassVar[str | None] = "elsayed2024"

    lr: float = 1e-5
    weight_decay: float = 1e-3
    beta: float = 0.999
    sigma: float = 1e-3
    published: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta >= 1:
            raise ValueError(f"expected beta of UPGD to be in [0, 1), got {self.beta!r}")

    @property
    def elementwise(self) -> bool:
        return False

    @property
    def draws(self) -> bool:
        return self.sigma > 0

    def init(self, params: Params) -> Moments:
        return {"avg_utility": zeros(params)} | ({"step": clock(params)} if self.published else {})

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        if self.draws and generator is None:  # torch would take the global stream
            raise ValueError("expected a generator for the noise of UPGD, got None: write update(..., generator)")
        p, g, utility = list(params.values()), aligned(params, grads), list(moments["avg_utility"].values())
        torch._foreach_mul_(utility, self.beta)
        torch._foreach_addcmul_(utility, g, p, self.beta - 1)
        largest = torch.stack([u.max() for u in utility]).max()
        largest = torch.where(largest == 0, torch.finfo(largest.dtype).tiny, largest)
        if self.published:
            (step,) = moments["step"].values()
            largest = largest * (1 - self.beta ** float(step.add_(1)))
        for p_, g_, u in zip(p, g, utility, strict=True):
            if self.draws:
                g_ = g_ + self.sigma * torch.randn(p_.shape, generator=generator, dtype=p_.dtype).to(p_.device)
            gate = torch.sigmoid(u / -largest)  # 1 - sigmoid(x) = sigmoid(-x)
            p_.mul_(1 - self.lr * self.weight_decay).addcmul_(g_, gate, value=-2 * self.lr)
