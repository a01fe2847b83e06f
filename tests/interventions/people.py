"""Small networks of the kinds that people have, each written in the usual way, with inputs for it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LSTM(nn.Module):
    """A cell written by hand, over a sequence."""

    def __init__(self):
        super().__init__()
        self.inputs, self.hidden, self.output = nn.Linear(3, 16), nn.Linear(4, 16, bias=False), nn.Linear(4, 2)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            i, f, g, o = (self.inputs(x[:, t]) + self.hidden(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.output(h)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up, self.merge, self.output = (
            nn.ConvTranspose2d(6, 4, 2, 2),
            nn.Conv2d(8, 4, 3, padding=1),
            nn.Conv2d(4, 1, 1),
        )

    def forward(self, x):
        skip = F.relu(self.down1(x))
        x = F.relu(self.up(F.relu(self.down2(skip))))
        return self.output(F.relu(self.merge(torch.cat([x, skip], 1))))


class Sine(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x):
        return torch.sin(30 * self.linear(x))


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.mean, self.log_var = nn.Linear(6, 5), nn.Linear(5, 2), nn.Linear(5, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 6))

    def forward(self, x):
        h = F.relu(self.encoder(x))
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean) if self.training else mean
        return self.decoder(z), mean, log_var


class Experts(nn.Module):
    """Each token goes to the expert that its gate likes best."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.output = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)) for _ in range(3))

    def forward(self, x):
        h = F.relu(self.stem(x))
        weights = self.gate(h).softmax(-1)
        best, out = weights.argmax(-1), h.clone()
        for i, expert in enumerate(self.experts):
            rows = (best == i).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(h[rows]) * weights[rows, i : i + 1])
        return self.output(out)


class LoRA(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A, self.B = (
            nn.Parameter(0.1 * torch.randn(2, base.in_features)),
            nn.Parameter(torch.zeros(base.out_features, 2)),
        )

    def forward(self, x):
        return self.base(x) + x @ self.A.T @ self.B.T


class TiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(11, 4), nn.LayerNorm(4)
        self.expand, self.contract, self.head = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.contract(F.gelu(self.expand(self.norm(x)))))


class MixedPrecision(nn.Module):
    """Layer norm in float32 inside a bfloat16 model."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 6).bfloat16(), nn.LayerNorm(6)
        self.second, self.output = nn.Linear(6, 5).bfloat16(), nn.Linear(5, 2).bfloat16()

    def forward(self, x):
        x = F.relu(self.norm(self.first(x).float()).bfloat16())
        return self.output(F.relu(self.second(x)))


class ResidualBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        return x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class Policy(nn.Module):
    """An actor and a critic on their own layers, with a log-std that no input moves."""

    def __init__(self):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
        self.critic = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
        self.log_std = nn.Parameter(torch.zeros(1, 2))

    def forward(self, x):
        return self.actor(x), self.critic(x), self.log_std.exp().expand(len(x), 2)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.output = nn.Linear(3, 4), nn.Linear(4, 2)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, activation="gelu", batch_first=True)

    def forward(self, x):
        return self.output(self.layer(self.embed(x)).mean(1))


class Kind(NamedTuple):
    """A network, and a batch of inputs for a step."""

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Tensor]


def numbers(*shape, dtype=torch.float32):
    return lambda generator: torch.randn(8, *shape, generator=generator).to(dtype)


def image_net(*layers):
    stem = (nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


KINDS = {
    "LSTM": Kind(LSTM, numbers(3, 3)),
    "U-Net": Kind(UNet, numbers(1, 4, 4)),
    "SIREN": Kind(lambda: nn.Sequential(Sine(2, 6), Sine(6, 6), nn.Linear(6, 1)), numbers(2)),
    "VAE": Kind(VAE, numbers(6)),
    "experts": Kind(Experts, numbers(3)),
    "LoRA": Kind(
        lambda: nn.Sequential(LoRA(nn.Linear(3, 6)), nn.ReLU(), LoRA(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 2)),
        numbers(3),
    ),
    "tied language model": Kind(TiedLanguageModel, lambda g: torch.randint(11, (8, 3), generator=g)),
    "mixed precision": Kind(MixedPrecision, numbers(3, dtype=torch.bfloat16)),
    "residual": Kind(lambda: image_net(ResidualBlock()), numbers(1, 4, 4)),
    "separable": Kind(
        lambda: image_net(
            nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6(inplace=True),
            SqueezeExcite(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4),
        ),
        numbers(1, 4, 4),
    ),
    "in place": Kind(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Flatten(), nn.Identity(),
            nn.Linear(12, 5), nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Linear(5, 2),
        ),
        numbers(1, 4, 4),
    ),
    "policy": Kind(Policy, numbers(3)),
    "encoder": Kind(Encoder, numbers(3, 3)),
}  # fmt: skip
