"""Curvature entry by entry, from dense matrices; float64."""

import math

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator


def _flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def jacobian(function, params):
    """Derivatives of every entry of the output with respect to every parameter, one backward pass each."""
    leaves = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    rows = []
    for output in function(leaves).reshape(-1):
        grads = torch.autograd.grad(output, list(leaves.values()), retain_graph=True, materialize_grads=True)
        rows.append(_flat(grads))
    return torch.stack(rows)


def hessian(objective, params):
    leaves = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    first = _flat(torch.autograd.grad(objective(leaves), list(leaves.values()), create_graph=True))
    rows = []
    for entry in first:
        second = torch.autograd.grad(entry, list(leaves.values()), retain_graph=True, materialize_grads=True)
        rows.append(_flat(second))
    return torch.stack(rows)


class HessianOfModule(LinearOperator):
    """Hessian-vector products of a loss by the parameters of a module in float64, for scipy: backward through backward.

    The module is called as it is, its parameters are its own: nothing of `torch.func`.
    """

    def __init__(self, module, loss):
        self.params = list(module.parameters())
        self.first = _flat(torch.autograd.grad(loss, self.params, create_graph=True))
        super().__init__(np.float64, (len(self.first),) * 2)

    def _matvec(self, v):
        direction = torch.from_numpy(v.reshape(-1))
        return _flat(torch.autograd.grad(self.first @ direction, self.params, retain_graph=True)).numpy()


def perturbation_hessian(function, params, eps):
    """Of the mean over samples of [f - sg(f) + eps]^2, summed over outputs."""
    frozen = function(params).detach()

    def loss(leaves):
        output = function(leaves)
        return sum((f - g + e).square().sum() for f, g, e in zip(output, frozen, eps, strict=True)) / len(output)

    return hessian(loss, params)


def gauss_newton(function, loss, params):
    j, output = jacobian(function, params), function(params).detach()
    bend = hessian(lambda out: loss(out["f"]), {"f": output})
    return j.T @ bend @ j


def ntk(function, params):
    j = jacobian(function, params)
    return j @ j.T


def density(eigenvalues, grid, sigma):
    bumps = [np.exp(-((grid - e) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)) for e in eigenvalues]
    return sum(bumps) / len(eigenvalues)


def effective_rank(eigenvalues):
    sizes = [abs(e) for e in eigenvalues]
    shares = [s / sum(sizes) for s in sizes]
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def share_near_zero(eigenvalues, tolerance):
    top = max(abs(e) for e in eigenvalues)
    return sum(abs(e) <= tolerance * top for e in eigenvalues) / len(eigenvalues)


def plain_lanczos(matrix, start, steps):
    """Without re-orthogonalisation: its basis, which should be orthonormal and is not."""
    basis, previous, beta = [start / start.norm()], torch.zeros_like(start), 0.0
    for _ in range(steps - 1):
        w = matrix @ basis[-1] - beta * previous
        w = w - (w @ basis[-1]) * basis[-1]
        beta, previous = w.norm(), basis[-1]
        basis.append(w / beta)
    return torch.stack(basis)
