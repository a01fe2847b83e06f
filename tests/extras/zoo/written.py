"""Networks as people write them by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.extras.zoo.network import Net


class LSTM(nn.Module):
    """A sequence through torch's LSTM; a nonlinear head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.hidden, self.head = nn.LSTM(5, 12, batch_first=True), nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.lstm(x)[0][:, -1])))


class LSTMByHand(nn.Module):
    """The gates written out: the same weights at every step, on inputs that a hidden layer encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gates, self.head = nn.Linear(5, 8), nn.Linear(8 + 12, 4 * 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 12)
        for step in F.relu(self.encoder(x)).unbind(1):
            i, f, g, o = self.gates(torch.cat([step, h], -1)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


class UNet(nn.Module):
    """Two levels down and up, skips by concatenation, activations in place."""

    def __init__(self, widths: tuple[int, int, int] = (8, 12, 16)) -> None:
        super().__init__()
        a, b, c = widths
        self.down1, self.down2, self.middle = self.twice(2, a), self.twice(a, b), self.twice(b, c)
        self.up2, self.up1 = nn.ConvTranspose2d(c, b, 2, 2), nn.ConvTranspose2d(b, a, 2, 2)
        self.join2, self.join1, self.head = self.twice(2 * b, b), self.twice(2 * a, a), nn.Conv2d(a, 2, 1)

    def twice(self, before: int, after: int) -> nn.Module:
        first, second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        norms = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        return nn.Sequential(first, norms[0], nn.ReLU(inplace=True), second, norms[1], nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        up = self.up2(self.middle(F.max_pool2d(two, 2)))
        up = self.up1(self.join2(torch.cat([two, up], 1)))
        return self.head(self.join1(torch.cat([one, up], 1)))


class Siren(nn.Module):
    """Sines of scaled linear layers, with the initialisation of the paper."""

    def __init__(self, w: float = 30.0) -> None:
        super().__init__()
        self.w, self.layers = w, nn.ModuleList(nn.Linear(a, b) for a, b in ((2, 16), (16, 16), (16, 16)))
        self.head = nn.Linear(16, 3)
        for i, layer in enumerate(self.layers):
            bound = 1 / 2 if i == 0 else (6 / 16) ** 0.5 / w
            nn.init.uniform_(layer.weight, -bound, bound)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.w * layer(x))
        return self.head(x)


class VAE(nn.Module):
    """The log-variance is read in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.log_var = nn.Linear(10, 16), nn.Linear(16, 3), nn.Linear(16, 3)
        self.decoder, self.out = nn.Linear(3, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = F.relu(self.encoder(x))
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp() if self.training else mean
        return self.out(F.relu(self.decoder(z))), mean, log_var


class Experts(nn.Module):
    """Every token goes to the one of four experts that its gate prefers."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.gate, self.out = nn.Linear(5, 12), nn.Linear(12, 4), nn.Linear(12, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.inp(x))
        weight, chosen = self.gate(h).softmax(-1).max(-1)
        out = h.clone()
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(h[rows]) * weight[rows, None])
        return self.out(out)


class LoRA(nn.Module):
    """A frozen layer with a trained product of two thin ones beside it."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Mixed(nn.Module):
    """A body in bfloat16 between a stem and a head in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(5, 16), nn.Linear(16, 16).bfloat16(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        return self.head(F.relu(self.body(h.to(self.body.weight.dtype))).to(self.head.weight.dtype))


class Dueling(nn.Module):
    """Value and advantages on one body: a network of several heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(inplace=True), nn.Flatten())
        self.value, self.advantage = (
            nn.Sequential(nn.Linear(72, 16), nn.ReLU(inplace=True), nn.Linear(16, n)) for n in (1, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        advantage = self.advantage(h)
        return self.value(h) + advantage - advantage.mean(-1, keepdim=True)


def lora() -> nn.Module:
    """A body that is frozen but for its adapters, a head that trains."""
    body = LoRA(5, 16), nn.ReLU(), LoRA(16, 16), nn.ReLU()
    return nn.Sequential(*body, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def encoder() -> nn.Module:
    """torch's own transformer layers."""
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    return nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3))


def rows() -> Tensor:
    return torch.randn(12, 5)


def sequences() -> Tensor:
    return torch.randn(6, 7, 5)


NETWORKS = {
    "lstm": Net(LSTM, sequences, units=(16,)),
    "lstm-by-hand": Net(LSTMByHand, sequences),
    "unet": Net(UNet, lambda: torch.randn(4, 2, 16, 16), units=(8, 8, 12, 12, 16, 16, 12, 12, 8, 8)),
    "siren": Net(Siren, lambda: torch.rand(12, 2) * 2 - 1, units=(16, 16, 16)),
    "vae": Net(VAE, lambda: torch.rand(12, 10), units=(16, 16)),
    "moe": Net(Experts, rows),
    "lora": Net(lora, rows, units=(16, 16, 16)),
    "mixed-dtypes": Net(Mixed, rows, dtype=torch.float32, units=(16, 16)),
    "dueling": Net(Dueling, lambda: torch.randn(8, 1, 8, 8), units=(8, 16, 16)),
    "torch-encoder": Net(encoder, sequences, units=(24, 24)),
}
