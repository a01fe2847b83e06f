"""Kernels of real networks: hand-computed, against a loop over examples, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant.diagnostics import (
    EmpiricalNTK,
    GradientCovariance,
    InputOutputJacobian,
    Observation,
    SamplePlasticity,
    gradient_cosines,
)
from pliant.functional import kernels
from pliant.nets import batch_norm, layer_norm
from pliant.network import Network
from pliant.sites import Inputs
from tests.diagnostics.nets import NETS, inputs, observe
from tests.reference import kernels as naive

SINGLE_EXAMPLES = [EmpiricalNTK(), GradientCovariance(), InputOutputJacobian()]


def observed(module, dtype=torch.float64):
    net = Network(module.to(dtype), example=inputs(dtype))
    params = {name: p.to(dtype) for name, p in net.fresh(0).items()}
    return observe(net, params, params, inputs(dtype))


@pytest.mark.parametrize("name", NETS)
def test_gradient_cosines_equal_a_loop_over_examples(name):
    seen = observed(NETS[name]())
    leaves = {key: p.clone().requires_grad_() for key, p in seen.params.items()}
    losses = [F.cross_entropy(seen.network(leaves, seen.x[i : i + 1]), seen.y[i : i + 1]) for i in range(len(seen.x))]
    exact = naive.cosines(naive.gradients(losses, leaves))
    assert torch.allclose(gradient_cosines(seen), torch.tensor(exact), atol=1e-9)
    found = GradientCovariance().measure(seen)
    rest = torch.tensor(naive.off_diagonals(exact))
    assert found["gradient_cosine"].item() == pytest.approx(rest.mean().item())
    assert found["gradient_interference"].item() == pytest.approx((rest < 0).double().mean().item())
    assert found["gradient_degeneracy"].item() == pytest.approx(rest.abs().mean().item())


@pytest.mark.parametrize("name", NETS)
def test_ntk_equals_whole_jacobians(name):
    seen = observed(NETS[name]())
    exact = naive.ntk(seen.network, seen.params, seen.x)
    found = EmpiricalNTK().measure(seen)
    for prefix, kernel in zip(("ntk_sum", "ntk"), exact, strict=True):
        assert found[f"{prefix}_condition"].item() == pytest.approx(naive.condition_number(kernel, 1e-5), rel=1e-4)
        assert found[f"{prefix}_top_share"].item() == pytest.approx(naive.top_share(kernel), rel=1e-9)
        assert found[f"{prefix}_uneven"].item() == pytest.approx(naive.uneven(kernel), rel=1e-6)


def wide_net():
    """An image of 12 x 12 from one of 12 x 12: 144 outputs and inputs."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1))


def images(net, count):
    x = torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Observation({n: 2 * p.double() for n, p in net.fresh(0).items()}, network=net, x=x)


def test_the_ntk_of_many_outputs_is_estimated_and_says_how_well():
    seen = images(Network(wide_net().double()), 6)
    exact = EmpiricalNTK(num_sums=144).measure(seen)
    found = EmpiricalNTK().measure(seen)
    assert found.keys() - exact.keys() == {"ntk_error"}
    assert 0 < found["ntk_error"] < 0.1
    assert all(found[name] == value for name, value in exact.items() if "ntk_sum" in name)
    for name in ("ntk_rank", "ntk_top_share", "ntk_uneven"):
        assert found[name].item() == pytest.approx(exact[name].item(), rel=0.1)
        assert found[name] != exact[name]


def test_the_error_of_the_estimated_ntk_is_its_distance_from_the_exact_one():
    seen = images(Network(wide_net().double()), 4)
    _, exact = naive.ntk(seen.network, seen.params, seen.x)

    def function(params, one):
        return seen.network(params, one[None]).flatten()

    errors, distances = [], []
    for seed in range(20):
        _, trace, error = kernels.sampled_ntk(function, seen.params, seen.x, 144, 16, seed)
        errors.append(error.item())
        distances.append((trace - torch.tensor(exact)).norm().item() / trace.norm().item())
    assert np.square(distances).mean() ** 0.5 == pytest.approx(np.square(errors).mean() ** 0.5, rel=0.25)


@pytest.mark.parametrize("at_once", [1, 1 << 30], ids=["one sum at a time", "all at once"])
def test_the_estimate_is_the_same_however_many_sums_are_differentiated_at_once(monkeypatch, at_once):
    seen = images(Network(wide_net().double()), 3)
    expected = EmpiricalNTK(num_sums=8).measure(seen)
    monkeypatch.setattr(kernels, "AT_ONCE", at_once)
    found = EmpiricalNTK(num_sums=8).measure(seen)
    assert all(torch.allclose(found[name], value, rtol=1e-9) for name, value in expected.items())


def test_one_sum_of_outputs_has_no_error():
    with pytest.raises(ValueError, match="num_sums >= 2, for a standard error, got 1"):
        EmpiricalNTK(num_sums=1)


def test_one_example_twice_and_its_opposite():
    """The same gradient twice, then one of the other sign: cosines 1, -1, -1."""
    net = Network(nn.Linear(1, 1, bias=False))
    x, y = torch.ones(3, 1), torch.tensor([[5.0], [9.0], [-5.0]])
    found = GradientCovariance().measure(Observation(net.params(), network=net, x=x, y=y, loss=F.mse_loss))
    assert found["gradient_cosine"].item() == pytest.approx(-1 / 3)
    assert found["gradient_interference"].item() == pytest.approx(2 / 3)
    assert found["gradient_degeneracy"].item() == pytest.approx(1)
    assert found["gradient_rank"].item() == pytest.approx(1)


def test_a_network_that_only_adds_a_constant_has_a_kernel_of_rank_one():
    net = Network(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)))
    params = net.fresh(0) | {"0.bias": torch.full((4,), -50.0)}  # all units dead: only the output bias is left
    found = EmpiricalNTK().measure(Observation(params, network=net, x=torch.rand(6, 2)))
    numbers = {name.removeprefix("ntk_"): value.item() for name, value in found.items() if "sum" not in name}
    assert numbers == pytest.approx(
        {"condition": 1e5, "rank": 1.0, "off_diagonal_rank": numbers["off_diagonal_rank"], "top_share": 1, "uneven": 0}
    )


def test_one_output_needs_one_kernel(monkeypatch):
    calls = []
    original = kernels.gradient_gram
    monkeypatch.setattr(kernels, "gradient_gram", lambda *a, **of: calls.append(1) or original(*a, **of))
    for outputs, expected in ((1, 1), (3, 4)):
        calls.clear()
        net = Network(nn.Linear(2, outputs))
        EmpiricalNTK().measure(Observation(net.params(), network=net, x=torch.ones(4, 2)))
        assert len(calls) == expected


def test_inputs_that_are_trees():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x, *, scale, factor):
            return factor * scale * self.layer(x)

    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    x = Inputs((points,), {"scale": torch.ones(5, 1), "factor": 2.0})
    net = Network(Two(), example=x)
    seen = Observation(net.params(), network=net, x=x, y=torch.ones(5, 1), loss=F.mse_loss)
    plain = Network(nn.Linear(2, 1))
    params = {name.removeprefix("layer."): p for name, p in seen.params.items()}
    alone = EmpiricalNTK().measure(Observation(params, network=plain, x=points))
    found = EmpiricalNTK().measure(seen)
    assert all(torch.allclose(found[name], alone[name]) for name in found)
    assert GradientCovariance().measure(seen)["gradient_rank"] >= 1
    with pytest.raises(ValueError, match="floating-point inputs"):
        InputOutputJacobian().measure(seen)


class BatchMean(nn.Module):
    """Mixes examples without being a known layer."""

    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.parametrize("norm", [batch_norm, lambda _: BatchMean()], ids=["batch norm", "own"])
@pytest.mark.parametrize("diagnostic", SINGLE_EXAMPLES, ids=lambda d: type(d).__name__)
def test_a_network_that_mixes_examples_is_refused(diagnostic, norm):
    seen = observed(nn.Sequential(nn.Linear(4, 8), norm(8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(ValueError, match="whose examples do not mix"):
        diagnostic.measure(seen)
    assert SamplePlasticity().measure(seen)["sample_plasticity"] == 0  # this one reads outputs only


@pytest.mark.parametrize("diagnostic", SINGLE_EXAMPLES, ids=lambda d: type(d).__name__)
def test_a_network_that_normalises_each_sample_or_by_running_statistics_is_not(diagnostic):
    for norm in (layer_norm(8), nn.BatchNorm1d(8).eval()):
        seen = observed(nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Linear(8, 3)))
        assert all(value.isfinite() for value in diagnostic.measure(seen).values())


def test_jacobian_of_a_linear_network_is_its_weight():
    seen = Observation({"weight": torch.diag(torch.tensor([3.0, 1.0, 0.5]))}, x=torch.randn(20, 3))
    found = InputOutputJacobian(num_samples=4).measure(seen._replace(network=Network(nn.Linear(3, 3, bias=False))))
    assert found["jacobian_largest"].item() == pytest.approx(3)
    assert found["jacobian_smallest"].item() == pytest.approx(0.5)
    assert found["jacobian_gap"].item() == pytest.approx(((4 + 0 + 0.25) / 3) ** 0.5)


@pytest.mark.parametrize("outputs", [144, 300])
def test_the_jacobian_of_many_singular_values_is_estimated(outputs):
    """More inputs than outputs or not: against singular values of whole matrices."""
    net = Network(wide_net().double() if outputs == 144 else nn.Linear(200, 300, dtype=torch.float64))
    seen = images(net, 20)
    seen = seen if outputs == 144 else seen._replace(x=torch.randn(20, 200, dtype=torch.float64))
    found = InputOutputJacobian().measure(seen)
    each = [torch.autograd.functional.jacobian(lambda x: seen.network(seen.params, x[None])[0], x) for x in seen.x[:16]]
    s = torch.stack([torch.linalg.svdvals(j.reshape(outputs, -1)) for j in each])
    assert found["jacobian_largest"].item() == pytest.approx(s[:, 0].mean().item(), rel=1e-3)
    assert found["jacobian_gap"].item() == pytest.approx((s - 1).square().mean(1).sqrt().mean().item(), rel=0.05)
    assert s[:, -1].mean() <= found["jacobian_smallest"] <= s.mean()
    exact = InputOutputJacobian(steps=500).measure(seen)  # as many as there are singular values
    assert exact["jacobian_smallest"].item() == pytest.approx(s[:, -1].mean().item(), rel=1e-3)


def test_an_orthogonal_linear_network_is_an_isometry():
    net = Network(lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)))
    q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    params = net.fresh(0) | {"0.weight": q, "1.weight": q.T @ q @ q}
    found = InputOutputJacobian().measure(Observation(params, network=net, x=torch.randn(3, 6)))
    assert found["jacobian_gap"].item() == pytest.approx(0, abs=1e-5)


def test_only_the_first_samples_count():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    seen = observed(module)
    few = InputOutputJacobian(num_samples=2).measure(seen)
    assert few == InputOutputJacobian().measure(seen._replace(x=seen.x[:2]))
    assert few != InputOutputJacobian().measure(seen)


def test_an_output_that_is_no_tensor_is_refused():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x), x

    net = Network(Pair(), example=torch.ones(3, 2))
    with pytest.raises(ValueError, match="make the model return a tensor"):
        EmpiricalNTK().measure(Observation(net.params(), network=net, x=torch.ones(3, 2)))


class Nodes(torch.nn.Module):
    """A graph: its edges are an input, or part of it."""

    def __init__(self, edges=None):
        super().__init__()
        self.first, self.second, self.edges = torch.nn.Linear(3, 6), torch.nn.Linear(6, 2), edges

    def forward(self, x, edges=None):
        edges = self.edges if edges is None else edges
        h = self.first(x).relu()
        return self.second(torch.zeros_like(h).index_add(0, edges[:, 1], h[edges[:, 0]]))


@pytest.mark.parametrize("diagnostic", [EmpiricalNTK(), GradientCovariance()])
@pytest.mark.parametrize("held", [True, False], ids=["edges in the module", "as many edges as nodes"])
@pytest.mark.parametrize("known", [True, False], ids=["with an example", "without"])
def test_nodes_of_a_graph_are_no_examples(diagnostic, held, known):
    edges = torch.stack([torch.arange(6), (torch.arange(6) + 2) % 6], 1)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    inputs = x if held else Inputs((x, edges), {})
    network = Network(Nodes(edges if held else None), example=inputs if known else None)
    seen = Observation(network.params(), network=network, x=inputs, y=torch.zeros(6, 2), loss=F.mse_loss)
    with pytest.raises(ValueError, match=r"whose examples do not mix, got one in which they do .*nodes of a graph"):
        diagnostic.measure(seen)
