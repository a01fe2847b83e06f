"""What the user's training leaves alone, refits leave alone; what is held for some parameters is not lost."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pliant.interventions import Chain, WeightDecay
from pliant.network import Network
from pliant.optim import SAM, SGD, UPGD, Adam, RMSProp
from pliant.probe import Sines, Start, Training, plasticity, refit, training
from pliant.probe.draws import number
from pliant.probe.measure import pure
from tests.probe.setting import inputs, perceptron, trained
from tests.probe.test_refit import BATCH, OPTIMIZERS, STEPS, batches
from tests.reference import probe as naive

LAST = ("2.weight", "2.bias")


def loop(model, make, x, y, params=None, carried=None):
    """Losses of a plain loop over the parameters that are not frozen."""
    chosen = [p for p in model.parameters() if p.requires_grad]
    assert len(chosen) == 2

    def of_some(params):
        return make([p for p in params if p.requires_grad])

    return naive.refit(model, params or model.state_dict(), of_some, F.mse_loss, x, y, batches(), carried=carried)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("how", ["requires_grad", "not held"])
def test_what_is_frozen_stays_as_in_torch(make, how):
    model, x = perceptron(), inputs()
    model[0].requires_grad_(how != "requires_grad")
    optimizer = make(model[2].parameters())
    settings = {"inputs": x, "targets": 2, "steps": STEPS, "batch_size": BATCH}
    if how == "requires_grad":
        found = plasticity(model, optimizer=optimizer, **settings)
    else:
        with pytest.warns(UserWarning, match=r"the optimizer lacks 0\.weight, 0\.bias"):
            found = plasticity(model, optimizer=optimizer, **settings)
        model[0].requires_grad_(False)
    network = Network(model)
    drawn = network.fresh(number(0, 1, 1))
    control = {name: drawn[name] if name in LAST else p for name, p in network.params().items()}
    for name, params in {"now": network.params(), "fresh": control}.items():
        y = Sines().targets(network, params, x, number(0, 1, 0))
        expected = loop(model, make, x, y, params)
        np.testing.assert_allclose(found.curves[name][1], np.array(expected)[found.steps], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_state_of_what_is_trained_is_carried(make):
    model, x = perceptron(), inputs()
    model[0].requires_grad_(False)
    optimizer = trained(model, lambda p: make([q for q in p if q.requires_grad]), x)
    network, params = pure(model, x, None, False, optimizer)
    assert network.names == LAST
    y = Sines().targets(network, params, x, 0)
    how = training(optimizer, model)
    found = refit(
        network, Sines(), [Start(params, y, how.moments)] * 2, x, how, steps=STEPS, batch_size=BATCH, points=STEPS + 1
    )
    expected = loop(model, make, x, y, carried=optimizer)
    np.testing.assert_allclose(found.scores, [expected] * 2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "optimizer", [UPGD(1e-2, sigma=0.0), UPGD(1e-2), SAM(SGD(0.1), rho=0.5), SAM(Adam(1e-2), 0.1)], ids=repr
)
def test_optimizers_that_look_at_all_parameters_do_not_see_the_frozen_ones(optimizer):
    """A frozen layer of the identity, or none: the same refit."""
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)).double(), inputs()
    model[0].weight.data, model[0].bias.data = torch.eye(4).double(), torch.zeros(4).double()
    model[0].requires_grad_(False)
    y = torch.sin(x[:, :2])
    settings = {"steps": 5, "batch_size": 8}
    how = Training(optimizer, Chain(WeightDecay(0.1)))
    network, params = pure(model, x, None, False)
    found = refit(network, Sines(), [Start(params, y)] * 2, x, how, **settings)
    alone = Network(model[1])
    expected = refit(alone, Sines(), [Start(alone.params(), y)] * 2, x, how, **settings)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-12)


def test_a_model_that_is_all_frozen_is_refused():
    model = perceptron().requires_grad_(False)
    with pytest.raises(ValueError, match=r"expected parameters that are trained, .* write requires_grad_\(True\)"):
        plasticity(model, inputs=inputs(), optimizer=Adam(), steps=2)


def with_a_state_of_some(make):
    """An optimizer that has seen gradients of the last layer alone."""
    model = perceptron()
    optimizer = make(model.parameters())
    model[2](torch.ones(3, 6, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("make", [OPTIMIZERS[name] for name in ("sgd, momentum", "sgd, nesterov", "rmsprop, centered")])
def test_a_state_of_some_parameters_is_carried_entry_by_entry(make):
    model, optimizer = with_a_state_of_some(make)
    how, x = training(optimizer, model), inputs()
    network = Network(model)
    for group in how.moments.values():
        assert set(group) == set(network.names)
        assert not group["0.weight"].any()
        assert group["2.weight"].any()
    y = Sines().targets(network, network.params(), x, 0)
    start = Start(network.params(), y, how.moments)
    found = refit(network, Sines(), [start] * 2, x, how, steps=STEPS, batch_size=BATCH, points=STEPS + 1)
    expected = naive.refit(model, network.params(), make, F.mse_loss, x, y, batches(), carried=optimizer)
    np.testing.assert_allclose(found.scores, [expected] * 2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [OPTIMIZERS[name] for name in OPTIMIZERS if "adam" in name])
def test_counts_of_steps_that_differ_are_carried_each(make):
    """As where a head was added later: torch counts the steps of every parameter."""
    model, optimizer = with_a_state_of_some(make)
    how, x = training(optimizer, model), inputs()
    assert [part.names for part in how.optimizer.parts] == [("0.weight", "0.bias"), ("2.weight", "2.bias")]
    assert [float(count) for count in how.moments["step"].values()] == [0, 1]
    network = Network(model)
    y = Sines().targets(network, network.params(), x, 0)
    start = Start(network.params(), y, how.moments)
    found = refit(network, Sines(), [start] * 2, x, how, steps=STEPS, batch_size=BATCH, points=STEPS + 1)
    expected = naive.refit(model, network.params(), make, F.mse_loss, x, y, batches(), carried=optimizer)
    np.testing.assert_allclose(found.scores, [expected] * 2, rtol=1e-9, atol=1e-9)
    alone = training(optimizer, model, carry=False)
    assert alone.moments == {}
    assert not hasattr(alone.optimizer, "parts")
    model[0].requires_grad_(False)
    assert float(training(optimizer, model).moments["step"][""]) == 1


def test_trainings_lose_their_state_where_it_is_not_carried():
    how = Training(RMSProp(0.1), moments={"square_avg": {}})
    assert training(how, perceptron(), carry=False) == Training(RMSProp(0.1))
