"""Small networks and inputs that the probe is tried on, and what must not change while it is."""

import copy

import torch
from torch import nn

from pliant.network import Network
from pliant.probe import Probe


def inputs(size=24, dtype=torch.float64):
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def perceptron(outputs=2, hidden=6, dtype=torch.float64, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).to(dtype)


def trained(model, make_optimizer, x, steps=5):
    """The optimizer after some steps, so that it has a state."""
    optimizer = make_optimizer(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return optimizer


def snapshot(model, optimizer=None):
    """Everything about a model and its optimizer that a measurement might touch."""
    return copy.deepcopy({
        "tensors": dict(model.state_dict()),
        "identities": [id(p) for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "stream": torch.get_rng_state(),
    })  # fmt: skip


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


def starts_of(network: Network, probe: Probe, x, seeds):
    """Parameters and targets for several refits."""
    found = []
    for seed in seeds:
        params = network.fresh(seed)
        found.append((params, probe.targets(network, params, x, seed)))
    return found
