"""Small models and loops that train them."""

import torch
import torch.nn.functional as F
from torch import nn


def mlp(seed=0, outputs=3, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)).to(dtype)


def data(step=0, size=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, 4, generator=generator, dtype=dtype), torch.randint(3, (size,), generator=generator)


def train(model, optimizers, keeper=None, steps=4, start=0):
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    for step in range(start, start + steps):
        x, y = data(step, dtype=next(model.parameters()).dtype)
        loss = F.cross_entropy(model(x), y)
        if keeper is not None:
            loss = loss + keeper.penalty(loss)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if keeper is not None:
            keeper.step()


def hooks(model, *optimizers):
    found = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return found + [len(o._optimizer_step_post_hooks) for o in optimizers]
