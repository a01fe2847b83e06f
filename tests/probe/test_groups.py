"""Parameter groups and several optimizers: refits train each as its own optimizer does."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pliant
from pliant.interventions.optimizer_reset import reset_moments
from pliant.network import Network
from pliant.optim import Adam
from pliant.probe import FreshLabels, Sines, Start, plasticity, training
from tests.probe.setting import assert_same, inputs, perceptron, snapshot
from tests.probe.test_refit import batches, fitted
from tests.reference import probe as naive


class Both:
    """Several optimizers with the interface of one, for the plain loop."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers

    def zero_grad(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self):
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states):
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def matrices(params):
    return [p for p in params if p.ndim > 1]


def vectors(params):
    return [p for p in params if p.ndim == 1]


SPLITS = {
    "Muon and AdamW": lambda ps: [
        torch.optim.Muon(matrices(ps), lr=1e-2), torch.optim.AdamW(vectors(ps), 1e-2, weight_decay=0.1)
    ],
    "decay and no decay": lambda ps: [
        torch.optim.AdamW(
            [{"params": matrices(ps)}, {"params": vectors(ps), "weight_decay": 0.0}], 1e-2, weight_decay=0.5
        )
    ],
    "rates of their own": lambda ps: [
        torch.optim.Adam([{"params": ps[:2], "lr": 1e-2}, {"params": ps[2:], "lr": 1e-3, "weight_decay": 0.1}])
    ],
    "a rate of 0": lambda ps: [torch.optim.SGD([{"params": ps[:2], "lr": 0.0}, {"params": ps[2:]}], lr=0.1)],
    "momenta of their own": lambda ps: [
        torch.optim.SGD([{"params": ps[:2], "momentum": 0.9, "nesterov": True}, {"params": ps[2:]}], lr=0.05)
    ],
    "two kinds": lambda ps: [torch.optim.SGD(matrices(ps), 0.05, momentum=0.9), torch.optim.AdamW(vectors(ps), 1e-2)],
    "two of a kind": lambda ps: [torch.optim.Adam(ps[:2], 1e-2), torch.optim.Adam(ps[2:], 3e-2, betas=(0.5, 0.9))],
    "three": lambda ps: [
        torch.optim.RMSprop(ps[:1], 1e-3), torch.optim.SGD(ps[1:2], 0.1), torch.optim.Adam(ps[2:], 1e-2)
    ],
}  # fmt: skip
every_split = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)


def made(split, params):
    found = split(list(params))
    return found[0] if len(found) == 1 else found


def tolerance(split):
    """Muon computes its steps in bfloat16, where the rounding errors of a gradient are as large as its numbers."""
    found = split(list(perceptron().parameters()))
    size = 3e-2 if any(isinstance(optimizer, torch.optim.Muon) for optimizer in found) else 1e-9
    return {"rtol": size, "atol": size}


def stepped(model, optimizers, x, every=(1, 1, 1)):
    """Some steps; the i-th optimizer takes every so many."""
    for step in range(6):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(x).square().mean().backward()
        for optimizer, period in zip(optimizers, every, strict=False):
            if step % period == 0:
                optimizer.step()


@every_split
def test_a_refit_is_a_plain_loop_of_torch(split):
    model, x = perceptron(), inputs()
    network, how = Network(model), training(made(split, model.parameters()), model)
    params = network.fresh(3)
    y = Sines().targets(network, params, x, 0)
    found = fitted(network, [Start(params, y)] * 2, x, how, points=31)
    expected = naive.refit(model, params, lambda ps: Both(*split(list(ps))), F.mse_loss, x, y, batches())
    np.testing.assert_allclose(found.scores, [expected] * 2, **tolerance(split))


@every_split
def test_a_carried_state_goes_on_as_in_torch(split):
    """Also where an actor took fewer steps than its critic."""
    model, x = perceptron(), inputs()
    optimizers = split(list(model.parameters()))
    stepped(model, optimizers, x, every=(1, 2, 3))
    before = copy.deepcopy([optimizer.state_dict() for optimizer in optimizers])
    network, how = Network(model), training(optimizers, model)
    y = Sines().targets(network, network.params(), x, 0)
    found = fitted(network, [Start(network.params(), y, how.moments)] * 2, x, how, points=31)
    both = Both(*optimizers)
    expected = naive.refit(
        model, network.params(), lambda ps: Both(*split(list(ps))), F.mse_loss, x, y, batches(), carried=both
    )
    np.testing.assert_allclose(found.scores, [expected] * 2, **tolerance(split))
    assert_same([optimizer.state_dict() for optimizer in optimizers], before)


@every_split
def test_it_is_measured_and_disentangled(split):
    model, x = perceptron(outputs=3), inputs()
    optimizers = split(list(model.parameters()))
    stepped(model, optimizers, x)
    before = snapshot(model)
    settings = {"inputs": x, "optimizer": optimizers, "probe": FreshLabels(3), "targets": 2, "steps": 5}
    assert plasticity(model, **settings).names == ("now",)
    assert np.isfinite(pliant.disentangle(model, **settings).probed.final("now")).all()
    assert_same(snapshot(model), before)


def test_what_has_the_same_settings_is_trained_as_one():
    model = perceptron()
    ps = list(model.parameters())
    found = training([torch.optim.Adam(ps[:1], 1e-2), torch.optim.Adam(ps[1:], 1e-2)], model)
    assert found.optimizer == Adam(1e-2)
    assert set(found.moments) == set()


def test_a_part_that_is_reset_keeps_the_counts_of_all():
    model, x = perceptron(), inputs()
    optimizers = SPLITS["two of a kind"](list(model.parameters()))
    stepped(model, optimizers, x)
    moments = training(optimizers, model).moments
    part = reset_moments(moments, ["0.weight"])
    assert part["step"] == {}
    assert set(part["exp_avg"]) == {"0.weight"}
    whole = reset_moments(moments, list(dict(model.named_parameters())))
    assert [float(count) for count in whole["step"].values()] == [0, 0]
