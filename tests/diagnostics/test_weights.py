"""Weights, biases and features by hand, and which layers a normaliser follows."""

import pytest
import torch
from torch import nn

from pliant.diagnostics import (
    EffectiveLearningRate,
    FeatureOffset,
    Observation,
    OutputBiasNorm,
    TargetOffset,
    WeightRanks,
)
from pliant.diagnostics._poke import scale_invariant
from pliant.nets import CNN, MLP, batch_norm, layer_norm
from pliant.network import Network


def test_weight_ranks_differ_and_average_over_matrices_only():
    net = Network(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4)))
    params = net.params() | {"0.weight": torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0])), "3.weight": torch.eye(4)}
    found = {name: value.item() for name, value in WeightRanks().measure(Observation(params, network=net)).items()}
    assert found["weight_srank/0.weight"] == 3
    assert found["weight_effective_rank/0.weight"] == pytest.approx(2 * 2**0.5)
    assert found["weight_stable_rank/0.weight"] == pytest.approx(1.5)
    assert [found[f"weight_{rank}/3.weight"] for rank in ("srank", "effective_rank", "stable_rank")] == pytest.approx(
        [4] * 3
    )
    assert found["weight_srank"] == 3.5
    assert found["weight_stable_rank"] == pytest.approx(2.75)
    assert len(found) == 9


def test_a_kernel_is_the_matrix_of_its_channels():
    net = Network(nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1)))
    params = net.params() | {"0.weight": torch.tensor([[1.0, 1, 1, 1], [-2, -2, -2, -2]]).reshape(2, 1, 2, 2)}
    assert WeightRanks().measure(Observation(params, network=net))["weight_srank/0.weight"] == 1


@pytest.mark.parametrize(
    ("norm", "found"), [(None, ()), (layer_norm, ("hidden.0.weight", "hidden.1.weight")), (batch_norm, None)]
)
def test_the_layers_that_a_normaliser_follows(norm, found):
    network = Network(MLP(4, 2, (8, 6), norm=norm), example=torch.randn(16, 4))
    assert scale_invariant(network) == (found if found is not None else ("hidden.0.weight", "hidden.1.weight"))


def test_normalised_convolutions_too_but_not_behind_a_residual_sum():
    images = torch.randn(8, 1, 6, 6)
    assert scale_invariant(Network(CNN((1, 6, 6), 2, (3, 4), (5,), norm=layer_norm), example=images)) == (
        "convs.0.weight",
        "convs.1.weight",
        "hidden.0.weight",
    )

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(torch.relu(self.norm(x + self.inner(x))))

    assert scale_invariant(Network(Residual(), example=torch.randn(8, 4))) == ()


def test_invariance_is_found_at_random_parameters():
    """A head of zeros would make every layer look invariant."""
    module = MLP(4, 2, (8,))
    nn.init.zeros_(module.output.weight)
    assert scale_invariant(Network(module, example=torch.zeros(4, 4))) == ()


def test_effective_learning_rate_is_of_the_current_weights():
    net = Network(MLP(4, 2, (8,), norm=layer_norm), example=torch.randn(4, 4))
    params = net.params() | {"hidden.0.weight": torch.full((8, 4), 0.5)}  # norm sqrt(32 / 4)
    found = EffectiveLearningRate(lr=0.08).measure(Observation(params, network=net))
    assert {name: round(value.item(), 6) for name, value in found.items()} == {
        "scale_invariant": 1,
        "effective_lr_sgd/hidden.0.weight": 0.01,
        "effective_lr_adam/hidden.0.weight": round(0.08 / 8**0.5, 6),
    }


def test_an_example_is_needed_to_find_them():
    net = Network(nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"write Network\(module, example=x\)"):
        EffectiveLearningRate(lr=0.1).measure(Observation(net.params(), network=net))


def test_output_bias_of_the_last_layer_only():
    net = Network(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    params = net.params() | {"0.bias": torch.ones(2), "2.bias": torch.tensor([0.6, 0.8])}
    seen = Observation(params, network=net, x=torch.ones(1, 2))
    assert OutputBiasNorm().measure(seen)["output_bias_norm"].item() == pytest.approx(1)
    bare = Network(nn.Linear(2, 1, bias=False))
    assert OutputBiasNorm().measure(Observation(bare.params(), network=bare, x=seen.x))["output_bias_norm"] == 0


def test_features_are_those_that_the_output_layer_reads():
    """Tokens count as samples; all see one constant feature, which the second output alone reads."""

    class PerToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, x):
            return self.head(torch.relu(x))

    net = Network(PerToken())
    x = torch.tensor([9.0, -1.0]).expand(4, 3, 2)
    params = {"head.weight": torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "head.bias": torch.zeros(2)}
    found = FeatureOffset().measure(Observation(params, network=net, x=x))
    assert found["feature_top"].item() == pytest.approx(9 * 12**0.5)
    assert found["feature_constancy"].item() == pytest.approx(1)
    assert found["feature_head_share"].item() == pytest.approx(0.5**0.5)
    assert found["feature_gap"].item() == pytest.approx(1e5)


def test_a_convolution_as_output_layer_is_refused():
    net = Network(nn.Conv2d(1, 2, 2))
    with pytest.raises(ValueError, match="leave FeatureOffset out"):
        FeatureOffset().measure(Observation(net.params(), network=net, x=torch.ones(2, 1, 3, 3)))


def test_class_labels_have_no_offset():
    with pytest.raises(ValueError, match=r"real-valued targets, got torch.int64"):
        TargetOffset().measure(Observation({}, y=torch.arange(5)))
