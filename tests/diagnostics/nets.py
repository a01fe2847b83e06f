"""Four tiny networks in plain torch, and what diagnostics see of them."""

import torch
from torch import nn
from torch.func import grad
from torch.nn import functional as F

from pliant.diagnostics import Observation
from pliant.network import Network


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm = nn.LayerNorm(6)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x):
        x = torch.tanh(self.embed(x))
        return self.head(x + self.scale * F.leaky_relu(self.inner(self.norm(x))))


class Attention(nn.Module):
    """One block on 4 tokens of one number each."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.mix = nn.Linear(1, 6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.widen, self.narrow, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.act = nn.GELU()

    def forward(self, x):
        x = self.embed(x[..., None])
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.mix((q @ k.mT / 6**0.5).softmax(-1) @ v)
        x = x + self.narrow(self.act(self.widen(x)))
        return self.head(x.mean(1))


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def cnn():
    convolutions = (nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU())
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8, 3))


NETS = {"mlp": mlp, "cnn": cnn, "residual": Residual, "attention": Attention}


def inputs(dtype=torch.float32):
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def targets(dtype=torch.float32):
    return F.one_hot(torch.arange(32) % 3).to(dtype)


def observe(net: Network, params, initial, x, y=None) -> Observation:
    """Everything a diagnostic may ask for; `earlier` is a trace of the initial parameters."""
    y = targets(x.dtype) if y is None else y
    gradients = grad(lambda params: F.cross_entropy(net(params, x), y))(params)
    update = {name: -0.1 * g for name, g in gradients.items()}
    trace, earlier = net.trace(params, x), net.trace(initial, x)
    return Observation(params, initial, trace, gradients, update, earlier, net, x, y, F.cross_entropy)
