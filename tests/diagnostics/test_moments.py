"""Between two moments of a real network, and what its preactivations say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant.diagnostics import (
    ActiveUnits,
    Churn,
    DuplicateUnits,
    Observation,
    OneSidedUnits,
    PreactivationMoments,
    PreactivationShift,
    SamplePlasticity,
    unit_moments,
    unit_shifts,
)
from pliant.network import Network


@pytest.fixture
def net():
    return Network(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1)))


@pytest.fixture
def x():
    return torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) - 0.5


def moved(net, x, **biases):
    """The traces before and after some biases grew by a number."""
    before = net.fresh(0)
    after = before | {f"{name[1]}.bias": before[f"{name[1]}.bias"] + by for name, by in biases.items()}
    return Observation(after, trace=net.trace(after, x), earlier=net.trace(before, x))


def test_shift_is_by_site_and_in_standard_deviations(net, x):
    seen = moved(net, x, _0=torch.tensor([0.5, 0.0, 0.0, 0.0]))
    found = PreactivationShift().measure(seen)
    std = seen.earlier.sites["1"].pre[:, 0].std(correction=0)
    assert found["shift/1"].item() == pytest.approx((0.5 / std / 4).item(), rel=1e-4)
    assert found["shift"].item() == pytest.approx((4 * found["shift/1"] + 2 * found["shift/3"]).item() / 6, rel=1e-5)
    assert unit_shifts(seen)["1"][1:].tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_nothing_moved(net, x):
    seen = moved(net, x)
    assert PreactivationShift().measure(seen)["shift"] == 0
    assert Churn().measure(seen)["churn"] == 0


def test_units_that_were_constant_are_left_out_of_the_shift(net, x):
    before = net.fresh(0)
    before["0.weight"][0] = 0
    after = before | {"0.bias": before["0.bias"] + 1.0}
    seen = Observation(after, trace=net.trace(after, x), earlier=net.trace(before, x))
    shifts = unit_shifts(seen)["1"]
    assert shifts.isnan().tolist() == [True, False, False, False]
    assert PreactivationShift().measure(seen)["shift/1"].item() == pytest.approx(shifts[1:].mean().item())


def test_churn_of_an_output_bias(net, x):
    assert Churn().measure(moved(net, x, _4=torch.tensor([-0.25])))["churn"].item() == pytest.approx(0.25)


def test_sample_plasticity_is_a_mean_over_samples_of_the_users_loss(net, x):
    seen = moved(net, x, _4=torch.tensor([0.1]))
    y = seen.earlier.output + torch.tensor([[0.2], [-0.2]]).repeat(25, 1)  # errors of 0.1 and 0.3 where it was 0.2
    found = SamplePlasticity().measure(seen._replace(y=y, loss=F.mse_loss))
    assert found["sample_plasticity"].item() == pytest.approx((0.75 + 0) / 2, rel=1e-4)
    labels = torch.zeros(50, dtype=torch.int64)
    logits = seen._replace(y=labels, loss=lambda output, y: F.cross_entropy(output.expand(-1, 2), y))
    assert SamplePlasticity().measure(logits)["sample_plasticity"].item() == pytest.approx(0, abs=1e-6)


def test_moments_of_single_units_and_their_average(net, x):
    seen = moved(net, x)
    pre = seen.trace.sites["1"].pre
    mean, variance = unit_moments(seen)["1"]
    assert torch.allclose(mean, pre.mean(0))
    assert torch.allclose(variance, pre.var(0, correction=0))
    found = PreactivationMoments().measure(seen)
    assert found["preactivation_variance/1"].item() == pytest.approx(variance.mean().item())
    everything = torch.cat([m.mean for m in unit_moments(seen).values()])
    assert found["preactivation_mean"].item() == pytest.approx(everything.mean().item())


def test_one_sided_are_the_dead_and_the_always_on(net, x):
    seen = moved(net, x, _0=torch.tensor([50.0, -50.0, 0.0, 0.0]))
    assert OneSidedUnits().measure(seen)["one_sided/1"] >= 0.5
    active = ActiveUnits().measure(seen)["active/1"]
    post = seen.trace.sites["1"].post
    assert active.item() == pytest.approx((post > 0).float().mean().item())


def test_a_copied_unit_is_a_duplicate_and_so_is_its_original(net, x):
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    params = net.fresh(0) | {"0.weight": directions, "0.bias": torch.zeros(4)}
    assert DuplicateUnits().measure(Observation(params, trace=net.trace(params, x)))["duplicate/1"] == 0
    params["0.weight"] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [2.0, 0.1]])
    assert DuplicateUnits().measure(Observation(params, trace=net.trace(params, x)))["duplicate/1"] == 0.5


def test_an_output_that_is_no_tensor_is_refused(net, x):
    seen = moved(net, x)
    with pytest.raises(ValueError, match="got tuple"):
        Churn().measure(seen._replace(trace=seen.trace._replace(output=(seen.trace.output,))))
