"""Planted gradients and layers whose alignment can be worked out by hand."""

import pytest
import torch
from torch import nn
from torch.func import grad
from torch.nn import functional as F

from pliant.diagnostics import GradientAlignment, GradientDormantUnits, GradientSaturatedUnits, Observation
from pliant.diagnostics._layers import layers
from pliant.diagnostics._nudge import sensitivities
from pliant.network import Network
from tests.diagnostics.nets import NETS, inputs, observe


def observed(make, seed=0):
    net = Network(make(), example=inputs())
    params = net.fresh(seed)
    return observe(net, params, params, inputs())


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mlp", ["0.weight", "2.weight", "4.weight"]),
        ("cnn", ["1.weight", "3.weight", "6.weight"]),
        ("residual", ["embed.weight", "inner.weight", "head.weight"]),
        ("attention", ["embed.weight", "qkv.weight", "mix.weight", "widen.weight", "narrow.weight", "head.weight"]),
    ],
)
def test_layers_are_seen_in_order_and_can_be_applied_again(name, weights):
    seen = observed(NETS[name])
    found = layers(seen)
    assert [layer.weight for layer in found] == weights
    assert all(layer.bias == layer.weight.replace("weight", "bias") for layer in found)
    assert [layer.rows(seen.params[layer.weight]).shape[0] for layer in found] == [
        seen.params[layer.bias].shape[0] for layer in found
    ]
    last = found[-1]
    assert torch.allclose(last.apply(seen.params[last.weight]) + seen.params[last.bias], seen.trace.output, atol=1e-6)


def test_moves_are_those_of_a_step_on_the_weights():
    """A small step along the gradient of one layer's weights moves its preactivations by what `apply` says."""
    seen = observed(NETS["cnn"])
    layer = layers(seen)[1]
    step = 1e-3 * seen.gradients[layer.weight]
    moved = seen.network.trace(seen.params | {layer.weight: seen.params[layer.weight] + step}, seen.x)
    change = moved.sites["4"].pre - seen.trace.sites["4"].pre
    assert torch.allclose(change, layer.apply(step), atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(2, 4, 3, padding="same", dilation=2),
        nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(2, 6, 2, groups=2),
        nn.Conv1d(2, 3, 2, bias=False),
    ],
    ids=["strided in groups", "dilated", "transposed", "transposed in groups", "without bias"],
)
def test_convolutions_of_every_kind(layer):
    """What a unit's weights do to it alone, and nothing to the others."""
    x = torch.randn(5, 2, *[6] * (layer.weight.ndim - 2), generator=torch.Generator().manual_seed(0))
    size = layer(x).flatten(1).shape[1]
    net = Network(nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(size, 1)))
    (found, _) = layers(Observation(net.params(), network=net, x=x))
    plain = layer(x).detach()
    again = found.apply(layer.weight) + (0 if layer.bias is None else layer.bias)
    assert torch.allclose(again, plain.movedim(1, -1).flatten(0, -2), atol=1e-6)
    rows = found.rows(torch.arange(layer.weight.numel()).reshape(layer.weight.shape))
    assert rows.shape[0] == plain.shape[1]
    for unit, entries in enumerate(rows):
        mine = torch.zeros(layer.weight.numel()).index_fill(0, entries, 1.0).reshape(layer.weight.shape)
        reached = found.apply(mine).abs().sum(0) > 0
        assert reached.nonzero().flatten().tolist() == [unit]


def test_alignment_by_hand():
    """Inputs 1, 2, 3, -1 and a gradient of either sign: three of four move one way, |3 - 1| / 4; the second is dead."""
    net = Network(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)))
    gradients = {name: torch.zeros_like(p) for name, p in net.params().items()}
    gradients["0.weight"] = torch.tensor([[-0.1], [0.0]])
    seen = Observation(net.params(), gradients=gradients, network=net, x=torch.tensor([[1.0], [2.0], [3.0], [-1.0]]))
    assert GradientAlignment().measure(seen)["alignment"] == 0.25


def test_a_layer_used_twice_is_one_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x):
            return self.head(self.inner(torch.relu(self.inner(x))))

    net, x = Network(Twice()), torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    seen = Observation(net.params(), gradients=net.params(), network=net, x=x)
    assert list(GradientAlignment().measure(seen)) == ["alignment", "alignment/inner"]
    assert list(GradientDormantUnits(tau=0.1).measure(seen)) == [
        "gradient_dormant",
        "gradient_dormant_count",
        "gradient_dormant/inner",
    ]


def test_dormant_by_its_bias_alone_is_not_dormant():
    net = Network(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)))
    gradients = {name: torch.zeros_like(p) for name, p in net.params().items()}
    gradients["0.bias"] = torch.tensor([1.0, 0.01])
    seen = Observation(net.params(), gradients=gradients, network=net, x=torch.ones(1, 1))
    assert GradientDormantUnits(tau=0.025).measure(seen)["gradient_dormant/0"] == 0.5
    assert GradientDormantUnits(tau=0.01).measure(seen)["gradient_dormant/0"] == 0.0


@pytest.mark.parametrize("name", NETS)
def test_sensitivities_are_the_derivatives_with_respect_to_what_leaves_each_site(name):
    seen = observed(NETS[name])
    found = sensitivities(seen)
    assert list(found) == list(seen.trace.sites)
    for site, (post, gradient) in found.items():
        assert torch.allclose(post, seen.trace.sites[site].post)
        assert gradient.shape == post.shape
    if name == "mlp":  # the last hidden layer: d loss / d h = (p - y) W / n
        error = (seen.trace.output.softmax(-1) - seen.y) / len(seen.y)
        assert torch.allclose(found["3"].gradient, error @ seen.params["4.weight"], atol=1e-7)


def test_units_that_nobody_reads_are_saturated_by_gradient():
    net = Network(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)))
    params, x = net.fresh(0), torch.rand(16, 2, generator=torch.Generator().manual_seed(0))
    params["0.bias"] = torch.tensor([5.0, 5.0, 5.0, -50.0])  # the last is silent
    params["2.weight"][:, 1] = 0
    params["2.weight"][:, 3] = 0
    seen = Observation(params, network=net, x=x, y=torch.arange(16) % 3, loss=F.cross_entropy)
    found = GradientSaturatedUnits().measure(seen)
    assert found["gradient_saturated_count"] == 1
    gradients = grad(lambda p: F.cross_entropy(net(p, x), seen.y))(params)
    seen = seen._replace(gradients=gradients)
    assert GradientDormantUnits(tau=0.0).measure(seen)["gradient_dormant/0"] == 0.5  # silent ones, too


def test_nonlinearities_in_place_are_seen_all_the_same():
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    net, changing = Network(plain), Network(nn.Sequential(plain[0], nn.ReLU(inplace=True), plain[2]))
    seen = Observation(net.params(), network=net, x=inputs(), y=torch.arange(32) % 3, loss=F.cross_entropy)
    for a, b in zip(sensitivities(seen)["1"], sensitivities(seen._replace(network=changing))["1"], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("diagnostic", [GradientAlignment(), GradientDormantUnits(tau=0.1)])
def test_a_network_without_hidden_layers_is_refused(diagnostic):
    net = Network(nn.Linear(2, 1))
    seen = Observation(net.params(), gradients=net.params(), network=net, x=torch.ones(3, 2))
    with pytest.raises(ValueError, match="hidden layers"):
        diagnostic.measure(seen)


def test_weights_that_are_no_parameters_are_refused():
    net = Network(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="saw none"):
        layers(Observation(net.params(), network=net, x=torch.ones(3, 2)))
