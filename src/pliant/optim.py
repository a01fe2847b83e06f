"""Optimizers as pure functions of named tensors: `init` makes the moments, `update` takes one step.

`update` writes into the buffers that its caller hands over and is elementwise, so one network's tensors and those of a
population stacked along a leading axis go through the same code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pliant.network import Params

Moments = dict[str, Params]


@dataclass(frozen=True)
class Optimizer(ABC):
    """A frozen dataclass of settings; its state (`Moments`) lives with the caller.

    `Moments` maps the name of a moment to one tensor a parameter; `"step"` maps the empty name to the step count, which
    all parameters share.
    """

    lr: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not (isinstance(number, (int, float)) and math.isfinite(number) and number >= 0):
                    raise ValueError(f"expected {field.name} of {type(self).__name__} to be at least 0, got {value!r}")

    @abstractmethod
    def init(self, params: Params) -> Moments:
        """Zero moments for these parameters."""

    @abstractmethod
    def update(self, params: Params, grads: Params, moments: Moments) -> None:
        """One step: `params` and `moments` are overwritten, and `grads` may be."""


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with (heavy-ball or Nesterov) momentum: b <- mu b + g; w <- w - lr b.

    >>> params, grads = {"w": torch.ones(2)}, {"w": torch.ones(2)}
    >>> optimizer = SGD(lr=0.1)
    >>> optimizer.update(params, grads, optimizer.init(params))
    >>> params["w"]
    tensor([0.9000, 0.9000])

    Equals `torch.optim.SGD`.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError(
                "expected momentum of SGD above 0 with nesterov=True, got 0: write SGD(lr, momentum=0.9, ...)"
            )

    def init(self, params: Params) -> Moments:
        return {"momentum_buffer": _zeros(params)} if self.momentum else {}

    def update(self, params: Params, grads: Params, moments: Moments) -> None:
        p, g = list(params.values()), _aligned(params, grads)
        if self.momentum:
            b = list(moments["momentum_buffer"].values())
            torch._foreach_mul_(b, self.momentum)
            torch._foreach_add_(b, g)
            g = torch._foreach_add(g, b, alpha=self.momentum) if self.nesterov else b
        torch._foreach_add_(p, g, alpha=-self.lr)


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
        return {"exp_avg": _zeros(params), "exp_avg_sq": _zeros(params), "step": _clock(params)}

    def update(self, params: Params, grads: Params, moments: Moments) -> None:
        p, g = list(params.values()), _aligned(params, grads)
        m, v = list(moments["exp_avg"].values()), list(moments["exp_avg_sq"].values())
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


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp: v <- a v + (1 - a) g^2; w <- w - lr g / (sqrt(v - mean^2 + eps_root) + eps), mean only if `centered`.

    dqn_zoo's double DQN uses `lr=2.5e-4, alpha=0.95, centered=True` with 0.01 / 32^2 as epsilon.

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
        moments = {"square_avg": _zeros(params)}
        if self.centered:
            moments["grad_avg"] = _zeros(params)
        if self.momentum:
            moments["momentum_buffer"] = _zeros(params)
        return moments

    def update(self, params: Params, grads: Params, moments: Moments) -> None:
        p, g, v = list(params.values()), _aligned(params, grads), list(moments["square_avg"].values())
        torch._foreach_mul_(v, self.alpha)
        torch._foreach_addcmul_(v, g, g, 1 - self.alpha)
        if self.centered:
            mean = list(moments["grad_avg"].values())
            torch._foreach_lerp_(mean, g, 1 - self.alpha)
            root = torch._foreach_addcmul(v, mean, mean, -1)
        else:
            root = torch._foreach_add(v, 0.0)
        if self.eps_root:
            torch._foreach_add_(root, self.eps_root)
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, self.eps)
        if self.momentum:
            b = list(moments["momentum_buffer"].values())
            torch._foreach_mul_(b, self.momentum)
            torch._foreach_addcdiv_(b, g, root)
            torch._foreach_add_(p, b, alpha=-self.lr)
        else:
            torch._foreach_addcdiv_(p, g, root, -self.lr)


def _aligned(params: Params, grads: Params) -> list[Tensor]:
    """Gradients in the order and memory layout of the parameters, none twice: autograd promises none of it."""
    found, seen = [], set()
    for name, p in params.items():
        g = grads[name]
        if g.stride() != p.stride() or g.data_ptr() in seen:
            g = torch.empty_like(p).copy_(g)
        seen.add(g.data_ptr())
        found.append(g)
    return found


def _zeros(params: Params) -> Params:
    return {name: torch.zeros_like(p) for name, p in params.items()}


def _clock(params: Params) -> Params:
    """The step count, in float32 as torch's fused kernels want it."""
    return {"": torch.zeros((), device=next(iter(params.values())).device)}
