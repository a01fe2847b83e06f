"""Per-example gradients one by one through autograd, and what their inner products say, entry by entry."""

import math

import numpy as np
import torch


def gradients(scalars, params):
    """The gradient of each scalar over all parameters, as rows."""
    leaves = list(params.values())
    found = [torch.autograd.grad(s, leaves, retain_graph=True, allow_unused=True) for s in scalars]
    return torch.stack([
        torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(leaves, row, strict=True)])
        for row in found
    ]).numpy()  # fmt: skip


def ntk(network, params, x):
    """The kernel of the sum of outputs, and the trace kernel, from whole Jacobians of one input at a time."""
    params = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    outputs = [network(params, x[i : i + 1]).flatten() for i in range(len(x))]
    jacobians = [gradients(f.unbind(), params) for f in outputs]  # (outputs, parameters) of each input
    total = [[float(a.sum(0) @ b.sum(0)) for b in jacobians] for a in jacobians]
    trace = [[float(sum(u @ v for u, v in zip(a, b, strict=True))) for b in jacobians] for a in jacobians]
    return np.array(total), np.array(trace)


def cosines(rows):
    def cosine(a, b):
        length = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b) / length if length > 0 else 0.0

    return np.array([[cosine(a, b) for b in rows] for a in rows])


def off_diagonals(matrix):
    n = len(matrix)
    return [matrix[i][j] for i in range(n) for j in range(n) if i != j]


def condition_number(matrix, eps):
    s = np.linalg.svd(matrix, compute_uv=False)
    return s[0] / max(s[-1], eps * s[0]) if s[0] > 0 else 0.0


def top_share(matrix):
    return np.linalg.norm(matrix, 2) / np.trace(matrix) if np.trace(matrix) else 0.0


def uneven(matrix):
    """Least squares over every d_i and c, without the closed form."""
    n = len(matrix)
    if not matrix.any():
        return 0.0
    columns = [np.diag(row).flatten() for row in np.eye(n)] + [np.ones(n * n)]
    design = np.stack(columns, axis=1)
    best, *_ = np.linalg.lstsq(design, matrix.flatten(), rcond=None)
    return math.sqrt(((matrix.flatten() - design @ best) ** 2).sum() / (matrix**2).sum())
