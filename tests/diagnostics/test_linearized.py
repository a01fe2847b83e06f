"""`linearized` on small inputs: a tanh loses its bend without any training, a ReLU keeps it."""

import pytest
import torch
from torch import nn

from pliant.diagnostics import LinearizedAtUnitSize, LinearizedUnits, Observation
from pliant.network import Network, Site, Trace


@pytest.mark.parametrize(("size", "linear"), [(0.1, True), (0.2, True), (0.3, False), (1.0, False)])
def test_small_inputs_make_a_tanh_linear_and_no_relu(size: float, linear: bool) -> None:
    """1 - R^2 of a tanh of normal inputs is 2/3 of the fourth power of their size, in the limit of small ones."""
    pre = size * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for name, post, slope in (("tanh", pre.tanh(), 1 - pre.tanh() ** 2), ("relu", pre.relu(), (pre > 0).double())):
        trace = Trace(post, post, {"act": Site(pre, post, slope)})
        found[name] = bool(LinearizedUnits().measure(Observation({}, trace=trace))["linearized"])
    assert found == {"tanh": linear, "relu": False}


def measured(net: nn.Module, x: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[float, float]:
    """The share of linearized units on the inputs as they are, and at unit size."""
    network = Network(net)
    params = network.params()
    seen = Observation(params, trace=network.trace(params, x, mask=mask), network=network, x=x, mask=mask)
    at_unit_size = LinearizedAtUnitSize().measure(seen)["linearized_at_unit_size"]
    return float(LinearizedUnits().measure(seen)["linearized"]), float(at_unit_size)


def dense(act: nn.Module, bias: list[float], size: float) -> nn.Sequential:
    """Three units, each of one input times `size`."""
    net = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 1))
    net[0].weight.data = size * torch.eye(3)
    net[0].bias.data = torch.tensor(bias)
    return net


X = torch.randn(4096, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("act", [nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Softplus()], ids=lambda act: type(act).__name__)
def test_scale_alone_does_not_count_at_unit_size(act: nn.Module) -> None:
    assert measured(dense(act, [0.0] * 3, 0.01), X) == (1.0, 0.0)
    assert measured(dense(act, [0.0] * 3, 1.0), X) == (0.0, 0.0)


def test_one_side_of_a_bend_counts_at_every_size() -> None:
    """Of three units of size 0.01 one has its inputs at 1 +- 0.01, one at -1 +- 0.01: at unit size as they are."""
    assert measured(dense(nn.Tanh(), [0.0, 1.0, -1.0], 0.01), X) == (1.0, pytest.approx(2 / 3))


@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(0.1)], ids=["relu", "leaky"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_what_knows_no_scale_reads_the_same(act: nn.Module, size: float) -> None:
    now, at_unit_size = measured(dense(act, [0.0, 8 * size, -0.5 * size], size), X)
    assert now == at_unit_size == pytest.approx(1 / 3)


def test_units_are_channels_of_a_convolution_and_padding_is_left_out() -> None:
    torch.manual_seed(0)
    images = 0.01 * torch.randn(64, 2, 5, 5)
    assert measured(
        nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(36, 1)), images
    ) == (1, 0)
    tokens, mask = 0.01 * torch.randn(256, 6, 3), torch.ones(256, 6, dtype=torch.bool)
    tokens[:, 3:] *= 1e6  # padding that would hide how small the others are
    mask[:, 3:] = False
    assert measured(dense(nn.Tanh(), [0.0] * 3, 1.0), tokens, mask) == (1.0, 0.0)


def test_output_and_features_are_the_networks_own() -> None:
    network = Network(dense(nn.Tanh(), [0.1] * 3, 0.5))
    plain, scaled = (network.trace(network.params(), X, unit_size=unit_size) for unit_size in (False, True))
    assert torch.equal(plain.output, scaled.output)
    assert torch.equal(plain.features, scaled.features)
    size = plain.sites["1"].pre.square().mean(0).sqrt()
    torch.testing.assert_close(scaled.sites["1"].pre, plain.sites["1"].pre / size)
    torch.testing.assert_close(scaled.sites["1"].post, (plain.sites["1"].pre / size).tanh())
