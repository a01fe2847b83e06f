"""Curvature matrices of a network by their products with vectors: the Hessian, Gauss-Newton, and P1's probe of both.

Each function differentiates once and keeps the graph, so a product costs one more backward pass through it: about half
of what it costs to differentiate anew. Parameters are dicts of tensors; vectors are flat, in the order of the dict
(`flat`, `unflat`). All of it runs under `torch.vmap`, for a population.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pliant.functional.precision import wide
from pliant.functional.spectra import Operator

Params = dict[str, Tensor]


def flat(tensors: Params) -> Tensor:
    """All entries of all tensors as one vector.

    >>> flat({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    tensor([1., 2., 3.])
    """
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def unflat(vector: Tensor, like: Params) -> Params:
    """The vector's entries as a dict of tensors with the names, shapes and dtypes of `like`.

    >>> unflat(torch.tensor([1.0, 2.0, 3.0]), {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)})
    {'weight': tensor([[1., 2.]]), 'bias': tensor([3.])}
    """
    parts = vector.split([t.numel() for t in like.values()])
    return {name: part.view(t.shape).to(t.dtype) for (name, t), part in zip(like.items(), parts, strict=True)}


def hessian(objective: Callable[[Params], Tensor], params: Params) -> Operator:
    """The second derivatives of a scalar function of the parameters, `(size, size)`, `size` the number of entries.

    Raises `ValueError` if `objective` does not return a scalar.

    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> hessian(lambda p: (p["w"] ** 3).sum(), params).product(torch.tensor([1.0, 0.0]))
    tensor([6., 0.])
    """

    def scalar(params: Params) -> Tensor:
        value = objective(params)
        if value.ndim:
            raise ValueError(f"expected a scalar objective, got shape {tuple(value.shape)}: write its mean()")
        return value

    params = _leaves(params)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        pull = vjp(grad(scalar), params)[1]
    return _operator(lambda v: pull(v)[0], params)


def gauss_newton(forward: Callable[[Params], Tensor], loss: Callable[[Tensor], Tensor], params: Params) -> Operator:
    """The Hessian of loss(forward(params)) without the curvature of the network: J^T H J.

    J is the Jacobian of the outputs, H the Hessian of the loss with respect to the outputs. Positive semi-definite if
    the loss is convex in the outputs.

    >>> params = {"w": torch.tensor(2.0)}
    >>> gauss_newton(lambda p: p["w"] ** 2, lambda out: (out - 1) ** 2, params).product(torch.tensor([1.0]))
    tensor([32.])
    """
    params = _leaves(params)
    with sdpa_kernel(SDPBackend.MATH):
        output, pull = vjp(forward, params)[:2]
        push = vjp(lambda u: pull(u)[0], torch.zeros_like(output))[1]  # linear in u, so pulling it back is J
        bend = vjp(grad(loss), output)[1]
    return _operator(lambda v: pull(bend(push(v)[0])[0])[0], params)


def perturbation_hessian(
    forward: Callable[[Params], Tensor], params: Params, seed: int = 0, antithetic: bool = False
) -> Operator:
    """The Hessian of the regression from the current outputs to randomly perturbed ones: how a network bends by itself.

    l(theta) = mean over samples of [f_theta(x) - sg(f_theta(x)) + eps]^2, eps ~ N(0, 1), summed over outputs; `forward`
    returns `(samples, ...)`. With `antithetic`, the average over eps and -eps, in which eps cancels: it is
    (2/n) J^T J exactly, and its non-zero eigenvalues are 2/n times those of the empirical NTK. That is
    also the mean over all eps, at a lower cost. Source: Lyle et al. 2023, section 4.2.
    Deviation: the sum over outputs, which the paper leaves open.

    Raises `ValueError` if `forward` does not return one tensor of samples.

    >>> params = {"w": torch.tensor([3.0])}
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> perturbation_hessian(lambda p: x * p["w"], params, antithetic=True).product(torch.ones(1))
    tensor([5.])
    """
    params = _leaves(params)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        output = forward(params)
    if not isinstance(output, Tensor) or not output.ndim:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"expected outputs of shape (samples, ...), got {got}: write a forward that returns them")
    if antithetic:
        return gauss_newton(forward, lambda out: out.square().sum() / len(out), params)
    draws = np.random.default_rng(seed).standard_normal(output.shape)
    target = output - torch.from_numpy(draws).to(output.device, output.dtype)
    return hessian(lambda p: (forward(p) - target).square().sum() / len(target), params)


def _leaves(params: Params) -> Params:
    return {name: p.detach() for name, p in params.items()}


def _operator(product: Callable[[Params], Params], params: Params) -> Operator:
    def of_vector(vector: Tensor) -> Tensor:
        with torch.no_grad():
            return wide(flat(product(unflat(vector, params))))

    like = next(iter(params.values()))
    return Operator(of_vector, sum(p.numel() for p in params.values()), wide(like).dtype, like.device)
