"""What counts as a nonlinearity: functions by name, rectifiers written by hand, and modules that act elementwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.written import rectifies

# fmt: off
NAMES = [
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "gelu",
    "silu", "mish", "softplus", "softsign", "tanh", "tanh_", "sigmoid", "sigmoid_", "logsigmoid", "hardtanh",
    "hardtanh_", "hardswish", "hardsigmoid", "prelu", "threshold", "threshold_", "tanhshrink", "softshrink",
    "hardshrink", "sin", "sin_", "cos", "cos_",
]
# fmt: on
NONLINEARITIES = {getattr(place, name) for place in (F, torch, Tensor) for name in NAMES if hasattr(place, name)}
PERIODIC = {function for function in NONLINEARITIES if function.__name__.rstrip("_") in ("sin", "cos")}


def is_nonlinearity(func: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call is a nonlinearity by itself, or would be if it acted on what a layer returned (see `everywhere`).

    >>> is_nonlinearity(torch.cos, (torch.ones(2, 2),), {}), is_nonlinearity(torch.exp, (torch.ones(2, 2),), {})
    (True, False)
    """
    return func in NONLINEARITIES or rectifies(func, args, kwargs)


def everywhere(func: Callable) -> bool:
    """Whether a function is a nonlinearity of inputs, too, as sines and a clamp from 0 on are not.

    >>> everywhere(torch.relu), everywhere(torch.cos)
    (True, False)
    """
    return func in NONLINEARITIES and func not in PERIODIC


def elementwise_modules(root: nn.Module) -> set[nn.Module]:
    """The modules without parameters that act on each number alone, not affinely: poked with numbers, not parsed."""
    x = torch.tensor([-30.0, -8.0, -3.0, -2.0, -1.0, -0.4, 0.3, 1.0, 2.0, 3.0, 8.0, 30.0]).reshape(3, 4)
    found = set()
    for module in root.modules():
        if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
            continue
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):  # of each a copy: it may work in place
                y, flipped, flat = (module(t.clone()) for t in (x, x.flip(0, 1), x.flatten()[:5].reshape(1, 5)))
        except Exception:
            continue  # it does not take a plain matrix, so it is no elementwise function
        if not isinstance(y, Tensor) or y.shape != x.shape or not torch.equal(y.flip(0, 1), flipped):
            continue
        line = y[0, 0] + (y[-1, -1] - y[0, 0]) * (x + 30.0) / 60.0
        if torch.equal(flat.flatten(), y.flatten()[:5]) and not torch.allclose(y, line, rtol=1e-4, atol=1e-4):
            found.add(module)
    return found
