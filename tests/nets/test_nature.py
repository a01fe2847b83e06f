"""The network of DQN: the same function as layers in a row, the output layer found, one bias for all outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pliant.interventions import LayerNorm
from pliant.nets import Nature
from pliant.network import Network


def test_it_is_layers_in_a_row() -> None:
    net = Nature((4, 84, 84), 5)
    row = nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 5),
    )  # fmt: skip
    row.load_state_dict(dict(zip(row.state_dict(), net.state_dict().values(), strict=True)))
    x = torch.rand(2, 4, 84, 84)
    torch.testing.assert_close(net(x), row(x))


def test_a_shared_bias_is_one_number_of_the_output_layer() -> None:
    net = Nature((1, 6, 6), 3, channels=(2,), hidden=4, kernels=(3,), strides=(2,), shared_bias=True)
    network = Network(net, example=torch.rand(4, 1, 6, 6))
    assert network.head == ("output.weight", "output.bias")
    assert sum(units.size for units in network.units) == 2 + 4
    x = torch.rand(2, 1, 6, 6)
    before = net(x)
    with torch.no_grad():
        net.output.bias.add_(0.5)
    torch.testing.assert_close(net(x), before + 0.5)
    draws = torch.stack([network.fresh(seed)["output.bias"] for seed in range(200)])
    assert draws.abs().max() <= 1 / 2  # of four inputs
    assert draws.std() == pytest.approx(0.5 / 3**0.5, rel=0.15)


def test_layer_norm_goes_before_the_activation_of_every_hidden_layer() -> None:
    net = Nature((4, 42, 42), 3, channels=(16, 32, 32), hidden=128, kernels=(5, 3, 3), strides=(3, 2, 1))
    assert net.hidden.in_features == 512
    built = LayerNorm().build(net, torch.rand(2, 4, 42, 42))
    normed = [name for name, _ in built.named_parameters() if name.endswith("norm.weight")]
    assert normed == ["convs.0.norm.weight", "convs.1.norm.weight", "convs.2.norm.weight", "hidden.norm.weight"]


def test_images_smaller_than_a_kernel_are_refused() -> None:
    with pytest.raises(ValueError, match="convolution 0 has kernel 8 x 8 and gets 6 x 6"):
        Nature((4, 6, 6), 3)
