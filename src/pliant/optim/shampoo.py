"""Shampoo: gradients whitened along each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.network import Params
from pliant.optim.base import Moments, Optimizer, aligned, clock, zeros


@dataclass(frozen=True)
class Shampoo(Optimizer):
    """Shampoo: the average gradient, whitened by second moments of its rows and of its columns.

        L <- b2 L + (1 - b2) G G^T;  R <- b2 R + (1 - b2) G^T G;  M <- b1 M + (1 - b1) G
        W <- W - lr L^(-1/4) M R^(-1/4)

    with M, L and R corrected for the bias of young averages. A vector has the one moment g g^T and the power -1/2, as
    has the shorter side of a matrix whose other one is longer than `largest`; a tensor of more axes is taken as a
    matrix (first axis, rest). What is longer than `largest` on all sides is not whitened. The roots are of L + eps |L|,
    |L| the largest eigenvalue: steps do not depend on the scale of the loss.

    Args:
        lr: the learning rate. A whitened matrix has singular values of about 1: rates are 10 to 30 times Adam's.
        betas: b1 and b2.
        eps: added to the moments, in units of their largest eigenvalue.
        every: the roots are computed anew every so many steps, and in each of the first so many.
        largest: the longest side that is whitened.

    >>> params, grads = {"w": torch.zeros(2, 2)}, {"w": torch.tensor([[3.0, 0.0], [0.0, 0.1]])}
    >>> optimizer = Shampoo(lr=0.1, eps=0.0)
    >>> optimizer.update(params, grads, optimizer.init(params))
    >>> params["w"]  # both directions alike
    tensor([[-0.1000,  0.0000],
            [ 0.0000, -0.1000]])

    Source: Gupta et al. 2018. Deviations: averages in place of sums, whose steps would shrink over a stream of tasks;
    eps in units of the moments; momentum; `every` and `largest`, as is usual.
    """

    reference: ClassVar[str | None] = "gupta2018"

    lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-4
    every: int = 10
    largest: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not max(self.betas) < 1:
            raise ValueError(f"expected betas of Shampoo to be two numbers in [0, 1), got {self.betas!r}")
        for name in ("every", "largest"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of Shampoo to be at least 1, got {getattr(self, name)!r}")

    @property
    def elementwise(self) -> bool:
        return False

    def init(self, params: Params) -> Moments:
        flat = {name: p.new_zeros(sum(n * n for _, n in self._sides(p))) for name, p in params.items()}
        return {
            "exp_avg": zeros(params),
            "second_moments": flat,
            "roots": {name: moment.clone() for name, moment in flat.items()},
            "step": clock(params),
        }

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        count = float(moments["step"][""].add_(1))
        young1, young2 = (1 - beta**count for beta in self.betas)
        renew = count <= self.every or (count - 1) % self.every == 0  # young moments change fast
        for (name, p), g in zip(params.items(), aligned(params, grads), strict=True):
            average = moments["exp_avg"][name].lerp_(g, 1 - self.betas[0])
            g, move, at, sides = matrix(g), matrix(average) / young1, 0, self._sides(p)
            for axis, n in sides:
                moment, root = (moments[kind][name][at : at + n * n].view(n, n) for kind in ("second_moments", "roots"))
                at += n * n
                rows = g.movedim(axis, 0).reshape(n, -1)
                moment.lerp_(rows @ rows.mT, 1 - self.betas[1])
                if renew:
                    root.copy_(inverse_root(moment / young2, 2 * len(sides), self.eps))
                move = (
                    (root @ move.movedim(axis, 0).reshape(n, -1)).reshape(move.movedim(axis, 0).shape).movedim(0, axis)
                )
            p.sub_(self.lr * move.reshape(p.shape))

    def _sides(self, p: Tensor) -> list[tuple[int, int]]:
        """The axes that are whitened, each with its length."""
        return [(axis, n) for axis, n in enumerate(matrix(p).shape) if n <= self.largest]


def matrix(t: Tensor) -> Tensor:
    """A tensor as a matrix (first axis, rest), or as a vector.

    >>> matrix(torch.zeros(4, 3, 2)).shape, matrix(torch.zeros(())).shape
    (torch.Size([4, 6]), torch.Size([1]))
    """
    return t.reshape(len(t), -1) if t.ndim > 1 else t.reshape(-1)


def inverse_root(moment: Tensor, order: int, eps: float) -> Tensor:
    """(A + eps |A|)^(-1/order) of a symmetric matrix without negative eigenvalues, |A| the largest; 0 for 0.

    In float64, as float32 loses small eigenvalues; 0, too, for a matrix that is not finite.

    >>> inverse_root(torch.diag(torch.tensor([16.0, 1.0])), 4, 0.0)
    tensor([[0.5000, 0.0000],
            [0.0000, 1.0000]])
    """
    size = moment.abs().amax().double()
    there = size.isfinite() & (size > 0)
    values, vectors = torch.linalg.eigh(torch.where(there, moment.double() / size, 0.0))
    values = size * (values.clamp(min=0) + eps * values.amax().clamp(min=0))
    powers = torch.where(values > 0, values, torch.inf) ** (-1 / order)
    return (vectors @ (powers * vectors).mT).to(moment)
