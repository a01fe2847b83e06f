"""Targets against their formula; the same targets for every network; what cannot be probed."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant import probe
from pliant.heads import HLGauss, TwoHot
from pliant.network import Network
from pliant.probe import FreshLabels, Sines
from pliant.probe import targets as module
from tests.probe.setting import inputs, perceptron
from tests.reference import probe as naive


@pytest.mark.parametrize(
    ("probe", "settings"),
    [
        (Sines(), {}),
        (Sines(frequency=10.0), {"frequency": 10.0}),
        (Sines(offset=3.0), {"offset": 3.0}),
    ],
)
def test_sines_are_the_papers_formula(probe, settings):
    network, x = Network(perceptron()), inputs()
    params = network.params()
    y = probe.targets(network, params, x, seed=7)
    expected = naive.sines(network.fresh(7), params, x.tolist(), **settings)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9)


def test_sines_of_a_value_head_are_functions_of_its_values():
    head = TwoHot(-2.0, 2.0, 5)
    network, x = Network(perceptron(outputs=10)), inputs()
    y = Sines(head=head).targets(network, network.params(), x, seed=7)
    expected = naive.sines(network.fresh(7), network.params(), x.tolist(), centres=[-2.0, -1.0, 0.0, 1.0, 2.0])
    assert y.shape == (24, 2)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9)


def test_every_network_faces_the_same_sines_around_its_own_mean():
    network, x, probe = Network(perceptron()), inputs(), Sines()
    one, other = network.fresh(1), network.fresh(2)
    a, b = (probe.targets(network, params, x, seed=3) for params in (one, other))
    shift = network(one, x).mean(0) - network(other, x).mean(0)
    torch.testing.assert_close(a - b, shift.expand_as(a), rtol=0, atol=1e-12)
    assert not torch.allclose(probe.targets(network, one, x, seed=4), a, atol=0.1)


def test_the_phase_is_spread_so_that_the_baseline_is_a_half():
    network, x, probe = Network(perceptron()), inputs(4000), Sines()
    y = probe.targets(network, network.params(), x, seed=0)
    assert probe.baseline(y) == pytest.approx(0.5, abs=0.02)
    assert probe.baseline(y) == pytest.approx(float(np.var(y.numpy(), axis=0).mean()))
    assert (y - network(network.params(), x).mean(0)).abs().max() <= 1 + 1e-12
    slow = Sines(frequency=1e-3).targets(network, network.params(), x, seed=0)
    assert probe.baseline(slow) < 1e-3  # the variance of the targets, not a half


@pytest.mark.parametrize("head", [TwoHot(-2.0, 2.0, 11), HLGauss(-2.0, 2.0, 11)], ids=["two-hot", "HL-Gauss"])
def test_heads_minimise_their_own_loss_and_report_squared_errors_of_values(head):
    probe = Sines(head=head)
    output = torch.randn(8, 22, generator=torch.Generator().manual_seed(0))
    y = torch.linspace(-1, 1, 16).reshape(8, 2)
    values = [[float(head.value(output[i, 11 * k : 11 * k + 11])) for k in range(2)] for i in range(8)]
    expected = np.mean([(values[i][k] - float(y[i, k])) ** 2 for i in range(8) for k in range(2)])
    assert float(probe.score(output, y)) == pytest.approx(expected, rel=1e-5)
    each = [float(head.losses(output[i, 11 * k : 11 * k + 11], head.encode(y[i, k]))) for i in range(8) for k in (0, 1)]
    assert float(probe.loss(output, y)) == pytest.approx(np.mean(each), rel=1e-5)


def test_the_former_name_of_fresh_labels_is_imported_still():
    assert probe.RandomLabels is FreshLabels
    assert "RandomLabels" not in dir(probe)


def test_random_labels_depend_on_the_seed_alone_and_are_uniform():
    probe, x = FreshLabels(5), torch.zeros(5000, 3)
    y = probe.targets(Network(nn.Linear(3, 5)), {}, x, seed=0)
    assert torch.equal(y, probe.targets(Network(nn.Linear(3, 7)), {}, x + 1, seed=0))
    assert not torch.equal(y, probe.targets(Network(nn.Linear(3, 5)), {}, x, seed=1))
    assert torch.bincount(y, minlength=5).tolist() == pytest.approx([1000] * 5, abs=150)
    assert probe.baseline(y) == math.log(5)
    output = torch.randn(5000, 5, generator=torch.Generator().manual_seed(0))
    assert float(probe.loss(output, y)) == pytest.approx(float(F.cross_entropy(output, y)))
    assert float(probe.score(output, y)) == float(probe.loss(output, y))


def test_labels_are_scored_by_the_cross_entropy_of_torch():
    probe, output = FreshLabels(3), torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    y, output = torch.arange(200).reshape(50, 4) % 3, 30 * output.requires_grad_()
    losses = probe.loss(output, y), F.cross_entropy(output.flatten(0, 1), y.flatten())
    torch.testing.assert_close(*losses, rtol=1e-14, atol=0)
    gradients = [torch.autograd.grad(loss, output)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-14, atol=1e-18)


def test_labels_want_one_logit_a_class():
    with pytest.raises(ValueError, match=r"expected logits \(samples, 3\) as the network's output, got \(4, 2\)"):
        FreshLabels(3).loss(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        FreshLabels(1)


def test_every_token_of_a_sequence_has_a_label():
    layers = nn.Embedding(9, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)
    network, probe = Network(nn.Sequential(*layers)), FreshLabels(3)
    ids = torch.randint(9, (16, 5), generator=torch.Generator().manual_seed(0))
    y = probe.targets(network, network.params(), ids, seed=0)
    assert y.shape == (16, 5)
    output = network(network.params(), ids).requires_grad_()
    loss = probe.loss(output, y)
    (gradient,) = torch.autograd.grad(loss, output)
    assert (gradient.abs().sum(-1) > 0).all()
    torch.testing.assert_close(loss, F.cross_entropy(output.flatten(0, 1), y.flatten()))
    with pytest.raises(ValueError, match=r"expected a label for every output \(16, 5\), got \(16,\)"):
        probe.loss(output, y[:, 0])


def test_sines_of_every_token_count():
    network = Network(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)).double())
    ids, probe = torch.arange(18).reshape(6, 3) % 9, Sines(frequency=10.0)
    y = probe.targets(network, network.params(), ids, seed=0)
    output = network(network.params(), ids).requires_grad_()
    (gradient,) = torch.autograd.grad(probe.loss(output, y), output)
    assert y.shape == (6, 3, 2)
    assert (gradient != 0).all()


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x), x


def test_a_tuple_is_refused_with_the_line_to_write():
    network = Network(Pair())
    with pytest.raises(ValueError, match="got tuple: write call=lambda model, x: "):
        Sines().targets(network, network.params(), inputs(dtype=torch.float32), seed=0)
    with pytest.raises(ValueError, match="got tuple"):
        FreshLabels(2).loss((torch.zeros(4, 2),), torch.zeros(4, dtype=torch.long))


def test_outputs_in_parts_are_those_in_one(monkeypatch):
    network, x = Network(Pair().double()), inputs()
    monkeypatch.setattr(module, "AT_ONCE", 7)
    found, rest = module.outputs(network, network.params(), x)
    torch.testing.assert_close(found, network.module.layer(x), rtol=0, atol=1e-14)
    assert torch.equal(rest, x)
    assert not found.requires_grad


def test_sines_of_a_head_that_begins_at_zero_are_refused():
    """Every fresh network says the same of all inputs, and there would be nothing to fit."""

    def beginning_at_zero() -> nn.Module:
        model = perceptron()
        nn.init.zeros_([m for m in model.modules() if isinstance(m, nn.Linear)][-1].weight)
        return model

    network, x = Network(beginning_at_zero), inputs()
    with pytest.raises(ValueError, match=r"one output for all of them.*probe=FreshLabels\(classes\)"):
        Sines().targets(network, Network(perceptron()).params(), x, seed=7)
