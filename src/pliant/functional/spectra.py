"""The spectrum of a symmetric matrix that is known only by its products with vectors.

Lanczos with full re-orthogonalisation turns `steps` products into a small tridiagonal matrix. Its eigenvalues (Ritz
values) approach the outermost eigenvalues first, each with a residual that bounds its error; with weights they are a
quadrature rule for the whole spectrum. Nothing here branches on data, so all of it runs under `torch.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 4  # vectors in a product: each takes the memory of a backward pass
TOGETHER = 1 << 27  # numbers in the bases of all starts: half a gigabyte of float32
BREAKDOWN = 10  # in rounding errors of the largest product: what is left below that is noise


class Operator(NamedTuple):
    """A symmetric matrix by its products: `product` maps a vector `(size,)` to a vector `(size,)`.

    >>> matrix = torch.diag(torch.tensor([3.0, 1.0]))
    >>> Operator(lambda v: matrix @ v, 2, matrix.dtype, matrix.device).product(torch.ones(2))
    tensor([3., 1.])
    """

    product: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype
    device: torch.device


class Krylov(NamedTuple):
    """An orthonormal `basis` `(steps, size)` in which the matrix A is tridiagonal.

    A basis^T = basis^T T + what leaves the last step; T has `diagonal` `(steps,)` and, above and below it, all but the
    last of `coupling` `(steps,)`, which is the length of what leaves.
    """

    basis: Tensor
    diagonal: Tensor
    coupling: Tensor


class Ritz(NamedTuple):
    """Approximate eigenvalues from Lanczos, each `(..., steps)`, smallest value first.

    `values` theta_i; `weights` the squared first components of T's eigenvectors, which sum to 1; `residuals`
    ||A u_i - theta_i u_i||: an eigenvalue of A lies within that distance of theta_i.
    """

    values: Tensor
    weights: Tensor
    residuals: Tensor


class Extremes(NamedTuple):
    """The outermost eigenvalues, `(k,)`: `largest` from the largest down, `smallest` from the smallest up."""

    largest: Tensor
    smallest: Tensor
    largest_residuals: Tensor
    smallest_residuals: Tensor


class Density(NamedTuple):
    """How the eigenvalues are spread: `density` at the points of `grid`, both `(num_points,)`; its integral is 1."""

    grid: Tensor
    density: Tensor


class Estimate(NamedTuple):
    """An estimate and its standard error."""

    value: Tensor
    error: Tensor


def rademacher(operator: Operator, count: int, seed: int) -> Tensor:
    """Vectors of random signs, `(count, size)`: a function of `seed`, whatever the device and dtype.

    >>> rademacher(Operator(lambda v: v, 4, torch.float32, torch.device("cpu")), count=2, seed=0).abs().sum()
    tensor(8.)
    """
    return signs(count, operator.size, seed).to(operator.device, operator.dtype)


def signs(count: int, size: int, seed: int) -> Tensor:
    """Random signs, `(count, size)`, int8, on the CPU: a function of `seed`.

    >>> signs(2, 3, seed=0).shape
    torch.Size([2, 3])
    """
    drawn = np.random.default_rng(seed).integers(0, 2, (count, size), dtype=np.int8)
    return torch.from_numpy(2 * drawn - 1)


def krylov(operator: Operator, start: Tensor, steps: int) -> Krylov:
    """The Krylov space of a start vector `(size,)`: min(steps, size) steps of Lanczos, one product each.

    Every new vector is made orthogonal to all before it, twice: memory for steps x size numbers. Where the space is
    exhausted (`coupling` 0), it goes on from a new direction.

    >>> matrix = torch.diag(torch.tensor([3.0, 1.0]))
    >>> found = krylov(Operator(lambda v: matrix @ v, 2, matrix.dtype, matrix.device), torch.ones(2), steps=2)
    >>> found.diagonal.round(decimals=3)
    tensor([2., 2.])
    """
    return _grown(operator, [start], steps)[0]


class _Space:
    """A Krylov space that grows by a product at a time, and the vector whose product is next."""

    def __init__(self, start: Tensor, steps: int, spare: Tensor):
        self.vector, self.steps, self.spare = start / start.norm(), steps, spare
        self.basis, self.scale = torch.empty(0), torch.empty(0)
        self.diagonal: list[Tensor] = []
        self.coupling: list[Tensor] = []

    def grow(self, product: Tensor) -> None:
        step, vector = len(self.diagonal), self.vector
        if not step:  # with a member axis if the product has one, so that rows can be written
            self.basis, self.scale = product.new_zeros(self.steps, len(vector)), product.new_zeros(())
        self.basis[step] = vector
        self.scale = torch.maximum(self.scale, product.norm())
        self.diagonal.append(vector @ product)
        rest = product - self.diagonal[-1] * vector
        if step:
            rest = rest - self.coupling[-1] * self.basis[step - 1]
        goes_on = rest.norm() > BREAKDOWN * torch.finfo(rest.dtype).eps * self.scale
        rest = torch.where(goes_on, rest, self.spare.roll(step))
        known = self.basis[: step + 1]
        for _ in range(2):
            rest = rest - known.mT @ (known @ rest)
        length = rest.norm()
        self.coupling.append(torch.where(goes_on, length, 0.0))
        self.vector = rest / torch.where(length == 0, 1.0, length)


def _grown(operator: Operator, starts: Sequence[Tensor], steps: int) -> list[Krylov]:
    """The Krylov spaces of several starts, side by side."""
    steps = min(steps, operator.size)
    if steps < 1 or any(start.shape != (operator.size,) for start in starts):
        raise ValueError(
            f"expected steps >= 1 and a start vector of shape ({operator.size},), got steps={steps} and shape "
            f"{tuple(starts[0].shape)}: write rademacher(operator, 1, seed)[0] for a random start"
        )
    draws = np.random.default_rng(steps).standard_normal(operator.size)
    spare = torch.from_numpy(draws).to(operator.device, operator.dtype)
    spaces = [_Space(start, steps, spare) for start in starts]
    for _ in range(steps):
        for space, product in zip(spaces, _products(operator, [space.vector for space in spaces]), strict=True):
            space.grow(product)
    return [Krylov(s.basis, torch.stack(s.diagonal), torch.stack(s.coupling)) for s in spaces]


def _products(operator: Operator, vectors: Sequence[Tensor] | Tensor) -> Sequence[Tensor]:
    """With some vectors at once, for a third less than one after the other, where `torch.vmap` has the rules."""
    if len(vectors) == 1:
        return [operator.product(vectors[0])]
    try:
        return torch.vmap(operator.product, chunk_size=AT_ONCE)(torch.stack([*vectors])).unbind()
    except RuntimeError:  # a mistake raises below, too
        return [operator.product(vector) for vector in vectors]


def lanczos(operator: Operator, start: Tensor, steps: int) -> Ritz:
    """Ritz values with weights and residuals, from min(steps, size) products; all NaN if a product is not finite.

    From one start, an eigenvalue of several eigenvectors is found once.

    >>> matrix = torch.diag(torch.tensor([3.0, 1.0]))
    >>> operator = Operator(lambda v: matrix @ v, 2, matrix.dtype, matrix.device)
    >>> lanczos(operator, torch.ones(2), steps=2).values.round(decimals=3)
    tensor([1., 3.])
    """
    return _ritz(krylov(operator, start, steps))


def _ritz(space: Krylov) -> Ritz:
    _, diagonal, coupling = space
    inner = coupling[:-1]
    matrix = (torch.diag_embed(diagonal) + torch.diag_embed(inner, 1) + torch.diag_embed(inner, -1)).double()
    finite = matrix.isfinite().all()
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
    found = values, vectors[0].square(), coupling[-1] * vectors[-1].abs()
    return Ritz(*(torch.where(finite, part, torch.nan).to(diagonal.dtype) for part in found))


def quadrature(operator: Operator, steps: int, num_starts: int, seed: int = 0) -> Ritz:
    """Lanczos from several random starts, each field `(num_starts, steps)`: what the functions below take.

    Starts run side by side, with products of several vectors at once, where memory for their bases is small.
    For f on the eigenvalues, (1/size) sum_j f(lambda_j) is about the mean over starts of sum_i weights_i f(values_i).

    >>> matrix = torch.diag(torch.tensor([3.0, 1.0]))
    >>> ritz = quadrature(Operator(lambda v: matrix @ v, 2, matrix.dtype, matrix.device), steps=2, num_starts=3)
    >>> (ritz.weights * ritz.values).sum(1).round(decimals=3)
    tensor([2., 2., 2.])
    """
    starts = rademacher(operator, num_starts, seed)
    at_once = max(1, TOGETHER // max(1, steps * operator.size))
    runs = [_ritz(space) for some in starts.split(at_once) for space in _grown(operator, some.unbind(), steps)]
    return Ritz(*(torch.stack(part) for part in zip(*runs, strict=True)))


def extremes(ritz: Ritz, k: int = 1) -> Extremes:
    """The k outermost Ritz values at either end, from a run from one start.

    With too few steps they lie inside the spectrum, and their residuals are large: look at these.

    >>> matrix = torch.diag(torch.tensor([3.0, 1.0, -2.0]))
    >>> operator = Operator(lambda v: matrix @ v, 3, matrix.dtype, matrix.device)
    >>> found = extremes(lanczos(operator, torch.ones(3), steps=3))
    >>> found.largest.round(decimals=3), found.smallest.round(decimals=3)
    (tensor([3.]), tensor([-2.]))
    """
    if not 1 <= k <= ritz.values.shape[-1]:
        raise ValueError(f"expected 1 <= k <= {ritz.values.shape[-1]} Lanczos steps, got k={k}: take more steps")
    top, top_residuals = ritz.values.flip(-1)[..., :k], ritz.residuals.flip(-1)[..., :k]
    return Extremes(top, ritz.values[..., :k], top_residuals, ritz.residuals[..., :k])


def spectral_density(ritz: Ritz, sigma: float | None = None, num_points: int = 1024) -> Density:
    """The eigenvalue density, smoothed by a Gaussian: the mean over starts of sum_i weights_i N(grid; values_i, sigma).

    `sigma` is by default 1e-2 (lambda_max - lambda_min); the grid reaches 6 sigma beyond both.
    Source: Ghorbani et al. 2019. Deviation: they give no width.

    >>> ritz = Ritz(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.75, 0.25]]), torch.zeros(1, 2))
    >>> grid, density = spectral_density(ritz)
    >>> torch.trapezoid(density, grid).round(decimals=3), (density[grid < 0.5].sum() / density.sum()).round(decimals=3)
    (tensor(1.), tensor(0.7500))
    """
    low, high = ritz.values.amin(), ritz.values.amax()
    if sigma is None:
        spread = torch.maximum(high - low, 1e-3 * torch.maximum(high.abs(), low.abs()))
        width = 1e-2 * torch.where(spread == 0, 1.0, spread)
    else:
        width = torch.full_like(low, sigma)
    low, high = low - 6 * width, high + 6 * width
    grid = low + (high - low) * torch.linspace(0, 1, num_points, dtype=low.dtype, device=low.device)
    z = (grid - ritz.values[..., None]) / width
    bumps = (-z.square() / 2).exp() / (width * (2 * torch.pi) ** 0.5)
    return Density(grid, (ritz.weights[..., None] * bumps).flatten(0, -2).sum(0) / ritz.values[..., 0].numel())


def conditioning(largest: Tensor, smallest: Tensor) -> Tensor:
    """lambda_1 / lambda_d: the largest eigenvalue over the smallest, negative where the smallest is negative.

    What is below 32 rounding errors of the largest is not told from zero; there the ratio stays at its bound (2.6e5
    in float32). Source: Lyle et al. 2023, section 4.2.

    >>> conditioning(torch.tensor(3.0), torch.tensor(-2.0))
    tensor(-1.5000)
    """
    floor = 32 * torch.finfo(largest.dtype).eps * torch.maximum(largest.abs(), smallest.abs())
    divisor = torch.where(smallest.abs() > floor, smallest, floor)
    return torch.where(floor == 0, 1.0, largest / torch.where(floor == 0, 1.0, divisor))


def effective_rank(ritz: Ritz, size: int) -> Tensor:
    """The number of equal eigenvalues that would have the entropy of these sizes: from 1 to `size`, 0 for zeros.

    exp(-sum_j p_j ln p_j), p_j = |lambda_j| / sum_k |lambda_k|, by quadrature. Source: Roy and Vetterli 2007.
    Deviation: what is below 32 rounding errors of the largest is noise and left out.

    >>> ritz = Ritz(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2))
    >>> effective_rank(ritz, size=4)
    tensor(2.)
    """
    relative = _relative(ritz)
    weights = size * ritz.weights / ritz.values[..., 0].numel()  # of eigenvalues
    total = (weights * relative).sum()
    entropy = total.log() - (weights * torch.special.xlogy(relative, relative)).sum() / total
    return torch.where(total == 0, 0.0, entropy.exp())


def share_near_zero(ritz: Ritz, tolerance: float = 1e-2) -> Tensor:
    """The share of eigenvalues with |lambda| <= tolerance * max |lambda|, by quadrature.

    >>> share_near_zero(Ritz(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.75, 0.25]]), torch.zeros(1, 2)))
    tensor(0.7500)
    """
    near = torch.where(_relative(ritz) <= tolerance, ritz.weights, 0.0).sum() / ritz.values[..., 0].numel()
    return torch.where(ritz.values.isnan().any(), torch.nan, near)


def trace(operator: Operator, num_vectors: int = 10, seed: int = 0) -> Estimate:
    """The sum of the eigenvalues by Hutch++, with a standard error: 3 num_vectors products.

    tr(Q^T A Q) + mean_i g_i^T (1 - Q Q^T) A (1 - Q Q^T) g_i, Q an orthonormal basis of A S; S and the g_i random signs.
    Exact, with error 0, for a rank of at most num_vectors. Source: Meyer et al. 2021.

    >>> matrix = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0]))
    >>> trace(Operator(lambda v: matrix @ v, 5, matrix.dtype, matrix.device), num_vectors=4).value.round(decimals=3)
    tensor(4.)
    """
    if num_vectors < 2:
        raise ValueError(f"expected num_vectors >= 2, for a standard error, got {num_vectors}")
    random = rademacher(operator, 2 * num_vectors, seed)
    sketched = torch.stack([*_products(operator, random[: min(num_vectors, operator.size)])])
    basis, _ = torch.linalg.qr(sketched.mT)
    inside = _forms(operator, basis.mT).sum()
    outside = random[num_vectors:] - (random[num_vectors:] @ basis) @ basis.mT
    samples = _forms(operator, outside)
    return Estimate(inside + samples.mean(), samples.std() / num_vectors**0.5)


def _forms(operator: Operator, vectors: Tensor) -> Tensor:
    """v^T A v of each vector."""
    return torch.stack([v @ product for v, product in zip(vectors, _products(operator, vectors), strict=True)])


def _relative(ritz: Ritz) -> Tensor:
    """Sizes of the Ritz values in units of the largest, without noise; zeros stay zeros."""
    sizes = ritz.values.abs()
    top = sizes.amax()
    relative = sizes / torch.where(top == 0, 1.0, top)
    return torch.where(relative > 32 * torch.finfo(sizes.dtype).eps, relative, relative * 0.0)
