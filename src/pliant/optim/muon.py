"""Momentum whose steps are made orthogonal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from pliant.network import Params
from pliant.optim.base import Moments, Optimizer, aligned, zeros

Adjust = Literal["original", "match_rms_adamw"]


@dataclass(frozen=True)
class Muon(Optimizer):
    """For matrices: momentum b <- mu b + (1 - mu) g, whose step is brought near the closest orthogonal matrix.

    w <- (1 - lr decay) w - lr a O, with O five steps of a quintic Newton-Schulz iteration on b (with `nesterov`, on
    mu b + (1 - mu) g) in bfloat16: its singular values end between about 0.7 and 1.2. The factor a is
    sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns)) to `"match_rms_adamw"`.

    Everything else than matrices (biases, kernels) belongs to another optimizer; `update` raises `ValueError` for it.

    >>> params, grads = {"w": torch.zeros(2, 2)}, {"w": torch.tensor([[3.0, 0.0], [0.0, 2.0]])}
    >>> optimizer = Muon(lr=0.1)
    >>> optimizer.update(params, grads, optimizer.init(params))
    >>> bool(((params["w"].diag() + 0.1).abs() < 0.04).all()), params["w"][0, 1].item()
    (True, 0.0)

    Equals `torch.optim.Muon`. Source: Jordan et al. 2024.
    """

    reference: ClassVar[str | None] = "jordan2024"

    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: float = 1e-7
    iterations: int = 5
    adjust: Adjust = "original"

    def __post_init__(self) -> None:
        if not all(isinstance(c, (int, float)) and math.isfinite(c) for c in self.coefficients):
            raise ValueError(f"expected coefficients of Muon to be three finite numbers, got {self.coefficients!r}")
        if self.adjust not in get_args(Adjust):
            raise ValueError(f"expected adjust of Muon to be 'original' or 'match_rms_adamw', got {self.adjust!r}")
        for name in ("lr", "weight_decay", "momentum", "eps", "iterations"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} of Muon to be at least 0, got {value!r}")

    @property
    def elementwise(self) -> bool:
        return False

    def init(self, params: Params) -> Moments:
        return {"momentum_buffer": zeros(params)}

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        if odd := [name for name, p in params.items() if p.ndim != 2]:
            raise ValueError(
                f"expected matrices, got {odd[0]} of shape {tuple(params[odd[0]].shape)}: Muon takes no other"
            )
        for (name, p), g in zip(params.items(), aligned(params, grads), strict=True):
            b = moments["momentum_buffer"][name].lerp_(g, 1 - self.momentum)
            step = self._orthogonal(g.lerp(b, self.momentum) if self.nesterov else b)
            p.mul_(1 - self.lr * self.weight_decay).add_(step, alpha=-self.lr * self._factor(*p.shape))

    def _orthogonal(self, matrix: Tensor) -> Tensor:
        a, b, c = self.coefficients
        tall = matrix.shape[0] > matrix.shape[1]
        x = matrix.bfloat16()
        x = x.T if tall else x
        x = x / x.norm().clamp(min=self.eps)
        for _ in range(self.iterations):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.T if tall else x

    def _factor(self, rows: int, columns: int) -> float:
        return math.sqrt(max(1, rows / columns)) if self.adjust == "original" else 0.2 * math.sqrt(max(rows, columns))
