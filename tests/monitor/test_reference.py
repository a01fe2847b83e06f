"""Each number has the reading of fresh networks beside it, and what is far from healthy from the start is told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant import Monitor, Network
from pliant.diagnostics import Churn, DeadUnits, GradientNorm, LinearizedUnits, Observation, ParameterNorm
from tests.bitwise import assert_same, streams

X, Y = torch.randn(128, 4, generator=torch.Generator().manual_seed(0)), torch.arange(128) % 3


def net(nonlinearity: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nonlinearity(), nn.Linear(16, 16), nonlinearity(), nn.Linear(16, 3))


def dead(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # type: ignore[index]
    return model


def test_the_reference_is_the_mean_of_fresh_networks_and_comes_once() -> None:
    model = dead(net())
    before = streams()
    chosen = (DeadUnits(), LinearizedUnits(), GradientNorm(), ParameterNorm(), Churn())
    monitor = Monitor(model, (X, Y), loss=F.cross_entropy, diagnostics=chosen, every=1)
    first, second = monitor(0), monitor(1)
    assert_same(before, streams())
    assert first is not None
    assert second is not None
    network, found = Network(model), []
    for seed in range(3):
        params = network.fresh(seed)
        gradients = torch.func.grad(lambda p: F.cross_entropy(network(p, X), Y))(params)
        seen = Observation(params, params, network.trace(params, X), gradients)
        found.append({name: float(v) for d in chosen[:-1] for name, v in d.measure(seen).items()})
    for name in found[0]:
        assert first[f"fresh/{name}"] == pytest.approx(sum(one[name] for one in found) / 3, rel=1e-5)
    assert first["dead"] >= 0.5 > 0.1 > first["fresh/dead"]
    assert first["fresh/norm_ratio"] == 1.0
    assert not any(name.startswith("fresh/churn") for name in first)  # of two moments
    assert not any(name.startswith("fresh/") for name in second)
    assert monitor.latest["fresh/dead"] == first["fresh/dead"]


def test_a_monitor_that_is_resumed_has_its_references_already() -> None:
    monitor, again = (Monitor(net(), X, diagnostics=(DeadUnits(),), every=1) for _ in range(2))
    monitor(0)
    again.load_state_dict(monitor.state_dict())
    row = again(1)
    assert row is not None
    assert "fresh/dead" not in row
    assert "fresh/dead" in again.latest


def test_a_picture_has_a_dashed_line_at_the_reference() -> None:
    monitor = Monitor(dead(net()), X, diagnostics=(DeadUnits(), Churn()), every=1)
    monitor(0)
    monitor(1)
    one, two = monitor.plot("dead", "churn").axes
    (line,) = (line for line in one.lines if line.get_linestyle() == "--")
    reference = monitor.latest["fresh/dead"]
    assert np.asarray(line.get_ydata()).tolist() == [reference, reference]
    assert one.get_ylim()[0] <= reference <= one.get_ylim()[1]
    assert not [line for line in two.lines if line.get_linestyle() == "--"]


def test_small_inputs_to_a_tanh_network_are_told_before_any_training() -> None:
    with pytest.warns(UserWarning, match=r"fresh networks read linearized .* on this probe, .*small inputs"):
        row = Monitor(net(nn.Tanh), 0.02 * X, diagnostics=(LinearizedUnits(),), every=1)(0)
    assert row is not None
    assert row["fresh/linearized"] > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Monitor(net(nn.Tanh), X, diagnostics=(LinearizedUnits(),), every=1)(0)
        assert Monitor(net(nn.Tanh), 0.02 * X[:16], diagnostics=(LinearizedUnits(),), every=1)(0)  # too few to tell


class Own(nn.Module):
    """A layer that nobody else can draw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4, 6), 3.0))
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(x @ self.weight))


def test_a_model_that_draws_itself_takes_its_function_or_has_no_reference() -> None:
    model = Own()
    with torch.no_grad():
        model.weight.mul_(2.0)
    norms = ParameterNorm()
    with pytest.warns(UserWarning, match=r"no fresh reference \(no .* draws 'weight' of Own\): write"):
        row = Monitor(model, X, diagnostics=(norms,))(0)
    assert row is not None
    assert not any(name.startswith("fresh/") for name in row)
    row = Monitor(model, X, diagnostics=(norms,), fresh=Own)(0)
    assert row is not None
    assert row["fresh/parameter_norm"] < row["parameter_norm"]


def test_what_is_frozen_is_no_other_in_a_fresh_network() -> None:
    model = net()
    for p in model[0].parameters():  # type: ignore[index]
        p.requires_grad_(False)
        p.mul_(50.0)
    row = Monitor(model, X, diagnostics=(ParameterNorm(),))(0)
    assert row is not None
    assert row["fresh/parameter_norm"] == pytest.approx(row["parameter_norm"], rel=0.05)
