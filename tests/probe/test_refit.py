"""Refits as a population are those of each alone, which are those of a plain loop of torch.optim."""

import copy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.heads import HLGauss, TwoHot
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.probe import FreshLabels, Sines, Start, Training, refit, training
from tests.probe.setting import assert_same, inputs, perceptron, starts_of, trained
from tests.reference import probe as naive

STEPS, BATCH = 30, 8
OPTIMIZERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "adam, weight decay": lambda params: torch.optim.Adam(params, lr=1e-2, weight_decay=0.1),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.3),
    "adam, betas and eps": lambda params: torch.optim.Adam(params, lr=1e-2, betas=(0.5, 0.7), eps=1e-3),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
    "sgd, momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "sgd, nesterov": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=1e-3),
    "rmsprop, centered": lambda params: torch.optim.RMSprop(params, lr=1e-3, alpha=0.9, centered=True, momentum=0.5),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def batches(size=24, batch=BATCH, steps=STEPS, seed=0):
    """Shuffled epochs, without a rest."""
    generator = np.random.default_rng([seed, *b"refit"])
    found = []
    while len(found) < steps:
        order = generator.permutation(size)
        found += [order[i : i + batch] for i in range(0, size - batch + 1, batch)]
    return found[:steps]


def fitted(network, starts, x, how, probe=None, **settings):
    settings = {"steps": STEPS, "batch_size": BATCH} | settings
    return refit(network, probe or Sines(), starts, x, how, **settings)


@every_optimizer
def test_a_refit_is_a_plain_loop_of_torch(make):
    model, x = perceptron(), inputs()
    network, how = Network(model), training(make(model.parameters()), model)
    pairs = starts_of(network, Sines(), x, range(2))
    found = fitted(network, [Start(*pair) for pair in pairs], x, how, points=STEPS + 1)
    assert found.steps.tolist() == list(range(STEPS + 1))
    for row, (params, y) in zip(found.scores, pairs, strict=True):
        expected = naive.refit(model, params, make, F.mse_loss, x, y, batches())
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-9)
        assert row[-1] < row[0]


@every_optimizer
def test_a_carried_state_goes_on_as_in_torch(make):
    model, x = perceptron(), inputs()
    optimizer = trained(model, make, x)
    network, how = Network(model), training(optimizer, model)
    y = Sines().targets(network, network.params(), x, 0)
    found = fitted(network, [Start(network.params(), y, how.moments)] * 2, x, how, points=STEPS + 1)
    expected = naive.refit(model, network.params(), make, F.mse_loss, x, y, batches(), carried=optimizer)
    np.testing.assert_allclose(found.scores, [expected] * 2, rtol=1e-6, atol=1e-6)
    fresh = fitted(network, [Start(network.params(), y)], x, how, points=STEPS + 1)
    assert bool(how.moments) == (not np.allclose(fresh.scores[0], expected, rtol=1e-6))


def test_adamw_shrinks_as_torch_up_to_the_order_of_the_two():
    def make(params, decay=0.1):
        return torch.optim.AdamW(params, lr=1e-2, weight_decay=decay)

    model, x = perceptron(), inputs()
    network, how = Network(model), training(make(model.parameters()), model)
    ((params, y),) = starts_of(network, Sines(), x, [1])
    found = fitted(network, [Start(params, y)], x, how, points=STEPS + 1).scores[0]
    loops = [naive.refit(model, params, lambda p, d=d: make(p, d), F.mse_loss, x, y, batches()) for d in (0.1, 0.0)]
    assert np.abs(found - loops[0]).max() < 0.1 * np.abs(np.subtract(*loops)).max()


def test_a_crowd_learns_what_each_learns_alone():
    """Fresh and carried states, of two step counts, in one call."""
    model, x = perceptron(), inputs()
    network = Network(model)
    early, late = (
        training(trained(model, lambda p: torch.optim.Adam(p, lr=1e-2), x, steps), model) for steps in (2, 9)
    )
    pairs = starts_of(network, Sines(), x, range(6))
    cleared = late.moments | {"exp_avg": {name: 0 * m for name, m in late.moments["exp_avg"].items()}}
    moments = [{}, early.moments, late.moments, {}, cleared, {}]
    starts = [Start(*pair, m) for pair, m in zip(pairs, moments, strict=True)]
    crowd = fitted(network, starts, x, early, points=6)
    alone = [fitted(network, [start], x, early, points=6) for start in starts]
    np.testing.assert_allclose(crowd.scores, [one.scores[0] for one in alone], rtol=0, atol=1e-8)
    assert len({tuple(row) for row in crowd.scores.round(6)}) == 6
    assert crowd.steps.tolist() == [0, 6, 12, 18, 24, 30]


def test_the_size_of_a_crowd_changes_nothing(monkeypatch):
    network, x = Network(perceptron()), inputs()
    starts = [Start(*pair) for pair in starts_of(network, Sines(), x, range(5))]
    whole = fitted(network, starts, x, Training(Adam(1e-2)))
    told = []
    monkeypatch.setattr(sys.modules["pliant.probe.refit"], "CROWD", 2)
    parts = fitted(network, starts, x, Training(Adam(1e-2)), on_progress=lambda *at: told.append(at))
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=0, atol=1e-8)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_starts_are_left_alone_and_the_same_numbers_come_twice():
    model, x = perceptron(), inputs()
    network, how = Network(model), training(trained(model, lambda p: torch.optim.Adam(p), x), model)
    start = Start(network.params(), Sines().targets(network, network.params(), x, 0), how.moments)
    before = copy.deepcopy(start)
    one, two = (fitted(network, [start] * 2, x, how) for _ in range(2))
    assert_same(tuple(start), tuple(before))
    np.testing.assert_array_equal(one.scores, two.scores)
    assert not np.array_equal(one.scores, fitted(network, [start] * 2, x, how, seed=1).scores)


def test_points_and_areas():
    network, x = Network(perceptron()), inputs()
    ((params, y),) = starts_of(network, Sines(), x, [0])
    found = fitted(network, [Start(params, y)], x, Training(SGD(0.1)), steps=3)
    assert found.steps.tolist() == [0, 1, 2, 3]
    a, b, c, d = found.scores[0]
    assert found.area[0] == pytest.approx((a / 2 + b + c + d / 2) / 3)
    assert a == pytest.approx(float(F.mse_loss(network(params, x), y)))


def test_fewer_inputs_than_a_batch_are_one_batch():
    network, x = Network(perceptron()), inputs(5)
    ((params, y),) = starts_of(network, Sines(), x, [0])
    start = [Start(params, y)]
    many, few = (fitted(network, start, x, Training(SGD(0.1)), batch_size=size) for size in (128, 5))
    np.testing.assert_array_equal(many.scores, few.scores)


@pytest.mark.parametrize("head", [TwoHot(-3.0, 3.0, 13), HLGauss(-3.0, 3.0, 13)], ids=["two-hot", "HL-Gauss"])
def test_a_value_head_is_scored_by_its_values(head):
    model, x, probe = perceptron(outputs=13, hidden=64), inputs(), Sines(head=head)
    network = Network(model)
    ((params, y),) = starts_of(network, probe, x, [0])
    found = fitted(network, [Start(params, y)], x, Training(Adam(1e-2)), probe, points=STEPS + 1)

    def loss(output, y):
        return head.loss(head.split(output), head.encode(y))

    fits = [
        naive.refit(model, params, lambda p: torch.optim.Adam(p, lr=1e-2), loss, x, y, batches()[:steps])
        for steps in (0, STEPS)
    ]
    assert found.scores[0, 0] == pytest.approx(float((head.value(head.split(network(params, x))) - y).square().mean()))
    assert found.scores[0, -1] < found.scores[0, 0]
    assert fits[1][-1] > 2 * found.scores[0, -1]  # a cross-entropy is another number


def test_who_diverges_is_counted_and_keeps_its_last_finite_score():
    x = inputs(dtype=torch.float32)
    network = Network(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)))
    pairs = starts_of(network, Sines(offset=0.0), x, range(3))
    pairs[1] = (pairs[1][0], pairs[1][1] * 1e30)  # squared errors overflow from the start
    pairs[2] = ({name: 10 * p for name, p in pairs[2][0].items()}, pairs[2][1])  # too steep
    starts = [Start(*pair) for pair in pairs]
    found = fitted(network, starts, x, Training(SGD(0.1)), points=STEPS + 1)
    alone = fitted(network, starts[:1], x, Training(SGD(0.1)), points=STEPS + 1)
    assert found.diverged.tolist() == [False, True, True]
    np.testing.assert_allclose(found.scores[0], alone.scores[0], rtol=1e-3)
    steep = found.scores[2]
    assert np.isfinite(steep).all()
    assert steep[-1] == steep[-2] > 1e6 * steep[0]


def test_only_the_curves_asked_for_are_scored_on_the_way(monkeypatch):
    x = inputs(dtype=torch.float32)
    network = Network(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)))
    pairs = starts_of(network, Sines(offset=0.0), x, range(5))
    pairs[1] = ({name: 10 * p for name, p in pairs[1][0].items()}, pairs[1][1])  # diverges
    starts = [Start(*pair) for pair in pairs]
    monkeypatch.setattr(sys.modules["pliant.probe.refit"], "CROWD", 3)
    whole = fitted(network, starts, x, Training(SGD(0.1)), points=6)
    some = fitted(network, starts, x, Training(SGD(0.1)), points=6, curves=[0, 4])
    assert whole.diverged.tolist() == some.diverged.tolist() == [False, True, False, False, False]
    np.testing.assert_array_equal(some.scores[[0, 4]], whole.scores[[0, 4]])
    np.testing.assert_array_equal(some.scores[[2, 3]][:, [0, -1]], whole.scores[[2, 3]][:, [0, -1]])
    assert np.isnan(some.scores[[1, 2, 3], 1:-1]).all()
    assert some.scores[1, -1] == some.scores[1, 0] == whole.scores[1, 0]  # the last finite one that is known


def test_labels_are_memorised():
    network, x = Network(perceptron(outputs=3, hidden=64)), inputs()
    probe = FreshLabels(3)
    starts = [Start(*pair) for pair in starts_of(network, probe, x, range(2))]
    found = fitted(network, starts, x, Training(Adam(3e-2)), probe, steps=200, batch_size=24)
    assert (found.scores[:, -1] < 0.1).all()


@pytest.mark.parametrize(("settings", "message"), [({"steps": 0}, "steps .* at least 1, got 0")])
def test_bad_settings(settings, message):
    network, x = Network(perceptron()), inputs()
    starts = [Start(*pair) for pair in starts_of(network, Sines(), x, [0])]
    with pytest.raises(ValueError, match=message):
        fitted(network, starts, x, Training(Adam()), **settings)
