"""UPGD, SAM and Shampoo from their formulas, in float64."""

import math

import numpy as np
import torch


def numbers(tensors):
    """The same as lists of Python numbers, by name."""
    return {name: t.flatten().tolist() for name, t in tensors.items()}


def tensors(lists, like):
    return {name: torch.tensor(v, dtype=torch.float64).reshape(like[name].shape) for name, v in lists.items()}


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def upgd(params, gradient, noise, steps, lr, weight_decay, beta, sigma, published=False):
    """w <- (1 - lr wd) w - 2 lr (g + noise)(1 - sigmoid(u_hat / max u_hat)), u an average of -g w.

    As published, the maximum is that of u, without the correction for the bias of a young average.
    `gradient(params, step)` and `noise(step)` give tensors by name; the noise is standard normal.
    """
    w = numbers(params)
    u = {name: [0.0] * len(values) for name, values in w.items()}
    for step in range(steps):
        g, xi = numbers(gradient(tensors(w, params), step)), numbers(noise(step))
        for name in w:
            for i in range(len(w[name])):
                u[name][i] = beta * u[name][i] + (1 - beta) * -g[name][i] * w[name][i]
        corrected = {name: [value / (1 - beta ** (step + 1)) for value in values] for name, values in u.items()}
        largest = max(value for values in (u if published else corrected).values() for value in values)
        for name in w:
            for i in range(len(w[name])):
                gate = 1 - sigmoid(corrected[name][i] / largest)
                move = 2 * lr * (g[name][i] + sigma * xi[name][i]) * gate
                w[name][i] = (1 - lr * weight_decay) * w[name][i] - move
    return tensors(w, params)


def sam(params, gradient, make_optimizer, steps, rho):
    """torch.optim's update from the gradient at w + rho g / ||g||."""
    leaves = {name: torch.nn.Parameter(p.double().clone()) for name, p in params.items()}
    optimizer = make_optimizer(list(leaves.values()))
    for step in range(steps):
        here = {name: p.detach().clone() for name, p in leaves.items()}
        g = gradient(here, step)
        norm = math.sqrt(sum(value**2 for values in numbers(g).values() for value in values))
        up = {name: p + rho * g[name] / norm for name, p in here.items()}
        for name, value in gradient(up, step).items():
            leaves[name].grad = value
        optimizer.step()
    return {name: p.detach() for name, p in leaves.items()}


def shampoo(params, gradient, steps, lr, b1, b2, eps, every, largest):
    """W <- W - lr L^(-1/2k) M R^(-1/2k) over the k sides that are whitened, by scipy's powers of matrices."""
    from scipy.linalg import fractional_matrix_power

    w = {name: p.double().numpy().copy() for name, p in params.items()}
    m, seconds, roots = {name: 0 * p for name, p in w.items()}, {}, {}
    for step in range(1, steps + 1):
        g = gradient({name: torch.from_numpy(p.copy()) for name, p in w.items()}, step - 1)
        for name, p in w.items():
            one = g[name].double().numpy()
            m[name] = b1 * m[name] + (1 - b1) * one
            shape = (p.shape[0], p.size // p.shape[0]) if p.ndim > 1 else (p.size, 1)
            one, move = one.reshape(shape), m[name].reshape(shape) / (1 - b1**step)
            sides = [side for side in ((0, 1) if p.ndim > 1 else (0,)) if shape[side] <= largest]
            for side in sides:
                outer = one @ one.T if side == 0 else one.T @ one
                seconds[name, side] = b2 * seconds.get((name, side), 0) + (1 - b2) * outer
                if step <= every or (step - 1) % every == 0:
                    second = seconds[name, side] / (1 - b2**step)
                    largest_value = float(torch.linalg.matrix_norm(torch.from_numpy(second), 2))
                    damped = second + eps * largest_value * np.eye(len(second))
                    roots[name, side] = np.real(fractional_matrix_power(damped, -1 / (2 * len(sides))))
                move = roots[name, side] @ move if side == 0 else move @ roots[name, side]
            w[name] = np.asarray(p - lr * move.reshape(p.shape))
    return {name: torch.from_numpy(p) for name, p in w.items()}
