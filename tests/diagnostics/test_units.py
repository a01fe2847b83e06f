"""Planted units in real networks: the numbers count them, whole and by site."""

import pytest
import torch
from torch import nn

from pliant.diagnostics import DeadUnits, DormantUnits, LinearizedUnits, Observation, SaturatedUnits
from pliant.network import Network


def measured(diagnostic, module, x, **changed):
    net = Network(module)
    params = net.fresh(seed=0)
    for name, value in changed.items():
        layer, tensor, unit = name.split("_")
        params[f"{layer}.{tensor}"][int(unit)] = value
    return {k: v.item() for k, v in diagnostic.measure(Observation(params, trace=net.trace(params, x))).items()}


def mlp(act=nn.ReLU):
    return nn.Sequential(nn.Linear(2, 4), act(), nn.Linear(4, 2), act(), nn.Linear(2, 1))


@pytest.fixture
def x():
    return torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) - 0.5


# a bias of 1 or -10 on these inputs decides the sign of every unit
ALL_ON = {f"{layer}_bias_{unit}": 10.0 for layer, unit in (("0", 0), ("0", 1), ("0", 2), ("0", 3))}


def test_dead_units_by_site_and_weighted_by_width(x):
    found = measured(DeadUnits(), mlp(), x, **{"0_bias_1": -10.0, "2_bias_0": -100.0, "2_bias_1": 100.0})
    assert found["dead/1"] >= 0.25
    assert found["dead/3"] == 0.5
    assert found["dead_count"] == 4 * found["dead/1"] + 1
    assert found["dead"] == pytest.approx(found["dead_count"] / 6)


def test_dead_channel_of_a_convolution():
    images = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))
    before = measured(DeadUnits(), net, images, **{f"0_bias_{unit}": 10.0 for unit in range(4)})
    after = measured(DeadUnits(), net, images, **{f"0_bias_{unit}": 10.0 for unit in range(3)}, **{"0_bias_3": -10.0})
    assert (before["dead"], after["dead"]) == (0.0, 0.25)


def test_a_leaky_relu_dies_only_by_tolerance(x):
    off = {"0_bias_1": -10.0}
    assert measured(DeadUnits(), mlp(nn.LeakyReLU), x, **off)["dead"] == 0
    assert measured(DeadUnits(tolerance=0.01), mlp(nn.LeakyReLU), x, **ALL_ON | off)["dead/1"] == 0.25


def test_units_that_are_always_on_are_linearized_and_dead_ones_are_not(x):
    found = measured(LinearizedUnits(), mlp(), x, **ALL_ON | {"0_bias_3": -10.0})
    for name in ("linearized", "linearized_by_sign", "linearized_by_sign_99", "linearized_by_slope"):
        assert found[f"{name}/1"] == 0.75, name
        assert found[f"{name}_count"] == 3 + 2 * found[f"{name}/3"], name


def test_healthy_units_are_not_linearized(x):
    found = measured(LinearizedUnits(), mlp(), 100 * x, **{f"0_bias_{unit}": 0.0 for unit in range(4)})
    assert found["linearized/1"] == 0


def test_saturated_tanh_with_two_signs(x):
    wide = {f"0_weight_{unit}": torch.tensor([1e4, 0.0]) for unit in range(3)}
    calm = {"0_weight_3": torch.tensor([0.1, 0.1])}
    found = measured(SaturatedUnits(tolerance=1e-3, share=0.05), mlp(nn.Tanh), x, **wide, **calm)
    assert found["saturated/1"] == 0.75
    assert found["saturated_count"] == 3
    assert measured(DeadUnits(), mlp(nn.Tanh), x, **calm)["dead"] == 0


def test_dormant_compares_within_its_layer(x):
    small = {"0_weight_0": torch.zeros(2), "0_bias_0": 0.01}
    found = measured(DormantUnits(tau=0.025), mlp(), x, **ALL_ON | small, **{"2_bias_0": 100.0, "2_bias_1": 90.0})
    assert found == {"dormant": pytest.approx(1 / 6), "dormant_count": 1, "dormant/1": 0.25, "dormant/3": 0.0}
    assert measured(DormantUnits(tau=0.0), mlp(), x, **ALL_ON | small)["dormant/1"] == 0


def test_names_are_clear_when_a_setting_is_missing():
    with pytest.raises(TypeError, match="tau"):
        DormantUnits()
    with pytest.raises(TypeError, match="tolerance"):
        SaturatedUnits()
