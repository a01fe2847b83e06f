"""Which parameters are weights, which are trained, and which samples of a sequence are seen."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant.interventions import Chain, WeightNormRescale
from pliant.network import Network


class Everything(nn.Module):
    """Parameters of two axes and more of every kind, of which some are multiplied with and some are not."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 6, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.scale = nn.LayerNorm((6, 4)), nn.Parameter(torch.ones(4, 1))
        self.down, self.up = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(4, 2))  # as of LoRA
        self.mixed = nn.Parameter(torch.ones(4, 4))
        self.conv, self.head = nn.Conv1d(4, 3, 3), nn.Linear(3, 2)
        self.logstd = nn.Parameter(torch.zeros(1, 2))

    def forward(self, ids):
        x = torch.cat([self.token.expand(len(ids), -1, -1), self.embed(ids)], 1) + self.position
        x = self.norm(x + self.attention(x, x, x)[0])
        x = x + x @ self.down.T @ self.up.T + torch.einsum("btd,de->bte", x, self.mixed)
        x = F.relu(self.conv(self.scale * x.mT)).mean(-1)
        return self.head(x) + self.logstd.exp()


IDS = torch.arange(15).reshape(3, 5) % 11
LAYERS = ("embed.weight", "attention.in_proj_weight", "attention.out_proj.weight", "conv.weight", "head.weight")


def test_weights_are_what_layers_multiply_with():
    assert Network(Everything()).weights == tuple(n for n in Network(Everything()).names if n in LAYERS)
    known = Network(Everything(), example=IDS)
    assert set(known.weights) == {*LAYERS, "down", "up", "mixed"}
    assert Network(Everything(), example=IDS).only("[ad]*").weights == (
        "down",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    )


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), {"parametrizations.weight.original"}),
        (lambda: nn.LSTM(3, 2), {"weight_ih_l0", "weight_hh_l0"}),
        (lambda: nn.Bilinear(2, 3, 4), {"weight"}),
        (lambda: nn.ConvTranspose2d(2, 3, 2), {"weight"}),
        (lambda: nn.GroupNorm(2, 4), set()),
    ],
)
def test_weights_of_other_layers_of_torch(make, expected):
    assert set(Network(make()).weights) == expected


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        self.logstd = nn.Parameter(torch.zeros(1, 3))

    def forward(self, x):
        mean = self.mean(x)
        return mean, self.logstd.expand_as(mean)


def test_a_learned_deviation_is_not_rescaled():
    torch.manual_seed(0)
    policy, x, action = Policy(), torch.randn(32, 8), torch.randn(32, 3)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    keeper = Chain(WeightNormRescale()).attach(policy, optimizer)
    size = policy.mean[0].weight.norm().item()
    for _ in range(5):
        mean, logstd = policy(x)
        loss = -torch.distributions.Normal(mean, logstd.exp()).log_prob(action).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keeper.step()
    assert (policy.logstd != 0).all()
    assert policy.mean[0].weight.norm().item() == pytest.approx(size, rel=1e-5)


def test_frozen_parameters_are_not_trained_unless_all_are():
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    module[0].requires_grad_(False)
    network = Network(module)
    assert network.trained == ("2.weight", "2.bias")
    assert network.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert network.only("*.bias").trained == ("2.bias",)
    assert Network(module.requires_grad_(False)).trained == network.names


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.widen, self.head = nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 2)
        self.conv, self.act, self.pooled, self.last = nn.Conv1d(6, 5, 1), nn.GELU(), nn.Linear(6, 3), nn.Linear(3, 3)

    def forward(self, ids):
        x = torch.relu(self.widen(self.embed(ids)))
        self.act(self.conv(x.mT))
        self.last(torch.tanh(self.pooled(x.mean(1))))
        return self.head(x)


def test_padding_is_left_out_of_sites_and_features():
    network = Network(Tokens())
    ids, params = torch.arange(12).reshape(3, 4) % 9, network.params()
    mask = torch.tensor([[True, True, False, False], [True, True, True, True], [True, False, False, False]])
    plain, masked = network.trace(params, ids), network.trace(params, ids, mask=mask)
    kept = mask.flatten()
    assert plain.features.shape == (12, 6)
    assert torch.equal(masked.features, plain.features[kept])
    assert torch.equal(masked.sites["relu"].pre, plain.sites["relu"].pre[kept])
    assert torch.equal(masked.sites["relu"].slope, plain.sites["relu"].slope[kept])
    assert torch.equal(masked.sites["act"].pre, plain.sites["act"].pre[kept])  # a convolution has its tokens last
    assert torch.equal(masked.sites["tanh"].post, plain.sites["tanh"].post)  # one sample a sequence
    assert torch.equal(masked.output, plain.output)
