"""Rectifiers written by hand are sites; layers whose nonlinearity is not seen are named."""

import warnings

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional as F

from pliant.diagnostics import DeadUnits, Observation
from pliant.interventions import Chain, ReDo
from pliant.network import Network
from pliant.unread import unread
from tests.diagnostics.nets import NETS, inputs

SEEN = {
    "clamp": lambda t: t.clamp(min=0),
    "clamp to 6": lambda t: torch.clamp(t, 0, 6),
    "clamp_min": lambda t: torch.clamp_min(t, 0.0),
    "clamp in place": lambda t: (2 * t).clamp_(min=0),
    "maximum with a zero": lambda t: torch.maximum(t, torch.zeros(())),
    "maximum with zeros": lambda t: torch.max(t, torch.zeros_like(t)),
    "times its mask": lambda t: t * (t > 0),
    "its mask times": lambda t: (t >= 0) * t,
    "times its mask as numbers": lambda t: t.mul((t > 0).float()),
    "times its mask of its type": lambda t: torch.mul(t, (t > 0).to(t.dtype)),
    "where or zero": lambda t: torch.where(t > 0, t, 0.0),
    "where or zeros": lambda t: torch.where(t > 0, t, torch.zeros(())),
    "where leaky": lambda t: torch.where(t > 0, t, 0.01 * t),
    "threshold": lambda t: F.threshold(t, 0.0, 0.0),
    "squared": lambda t: torch.relu(t).square(),
}
UNSEEN = {
    "abs": torch.abs,
    "exp": torch.exp,
    "square": lambda t: t * t,
    "half of its sum with its size": lambda t: (t + t.abs()) / 2,
    "less its negative part": lambda t: t - torch.minimum(t, torch.zeros(())),
    "clamp at both sides": lambda t: t.clamp(-1, 1),
    "glu": lambda t: F.glu(torch.cat([t, t], -1)),
    "another function of autograd": lambda t: Rectify.apply(t),
    "where or exp": lambda t: torch.where(t > 0, t, t.exp() - 1),
    "nothing": lambda t: t,
    "maximum of two": lambda t: torch.maximum(t, 2 * t),
}


class Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3), act

    def forward(self, x):
        return self.c(self.act(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize("name", SEEN)
def test_written_by_hand_is_seen_with_its_slope(name):
    net, x = Network(Net(SEEN[name]), example=inputs()), inputs()
    assert unread(net.module, inputs()) == ()
    params = net.fresh(0)
    params["b.bias"] = torch.tensor([-50.0, 50.0, 0.0, 0.0, 0.0, 0.0])
    trace = net.trace(params, x)
    assert len(trace.sites) == 2
    site = list(trace.sites.values())[1]
    pre = torch.relu(x @ params["a.weight"].T + params["a.bias"]) @ params["b.weight"].T + params["b.bias"]
    factor = 2 if name == "clamp in place" else 1
    assert torch.allclose(site.pre, factor * pre, atol=1e-5)
    below = 0.01 if name == "where leaky" else 0.0
    above = torch.where(site.pre > 6, 0.0, 1.0) if name == "clamp to 6" else torch.ones_like(site.pre)
    assert torch.equal(site.slope, torch.where(site.pre > 0, above, below))
    dead = DeadUnits().measure(Observation(params, trace=trace))
    assert dead["dead_count"] == (0 if name == "where leaky" else 2 if name == "clamp to 6" else 1)


@pytest.mark.parametrize("name", [name for name in SEEN if name != "clamp in place"])  # torch has no rule for vmap
def test_written_by_hand_is_seen_in_every_pass_and_population(name):
    net, x = Network(Net(SEEN[name]), example=inputs()), inputs()
    params = net.fresh(0)
    first, second = net.watch(params, x), net.watch(params, x)
    assert list(first.activations) == list(second.activations) == list(net.trace(params, x).sites)
    for name, post in first.activations.items():
        assert torch.equal(post, second.activations[name])
    members = [net.fresh(seed) for seed in range(3)]
    stacked = {name: torch.stack([m[name] for m in members]) for name in params}
    together = vmap(lambda p: list(net.trace(p, x).sites.values())[1].slope)(stacked)
    for i, member in enumerate(members):
        assert torch.equal(together[i], list(net.trace(member, x).sites.values())[1].slope)


@pytest.mark.parametrize("name", UNSEEN)
def test_a_layer_whose_nonlinearity_is_not_seen_is_named(name):
    net = Network(Net(UNSEEN[name]), example=inputs())
    assert unread(net.module, inputs()) == ("b",)
    with pytest.warns(UserWarning, match=r"no nonlinearity is seen between 'b' and the next layer"):
        net.say_unread()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.say_unread()  # once


def test_a_clamp_of_the_inputs_or_of_a_last_layer_is_none():
    class Guarded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.mean, self.deviation = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            h = torch.relu(self.a(x.clamp(min=0)))
            return self.mean(h), self.deviation(h).clamp(-20, 2).exp()

    net = Network(Guarded(), example=inputs())
    assert list(net.trace(net.params(), inputs()).sites) == ["relu"]
    assert unread(net.module, inputs()) == ()


@pytest.mark.parametrize("name", NETS)
def test_residual_streams_and_attention_are_none(name):
    assert unread(NETS[name](), inputs()) == ()


@pytest.mark.parametrize("name", SEEN)
def test_units_of_what_is_written_by_hand_are_known(name):
    net = Network(Net(SEEN[name]), example=inputs())
    assert [site for group in net.units for site, _ in group.sites] == list(net.trace(net.params(), inputs()).sites)


@pytest.mark.parametrize("name", [n for n in SEEN if n not in ("where leaky", "squared")])  # never dormant; not exact
def test_a_dead_unit_behind_what_is_written_by_hand_is_drawn_anew(name):
    torch.manual_seed(0)
    model, x = Net(SEEN[name]), inputs()
    with torch.no_grad():
        model.b.bias[0] = -50
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    keeper = Chain(ReDo(tau=0.0, every=1)).attach(model, optimizer)
    before = model(x)
    before.sum().backward()
    optimizer.step()
    keeper.step()
    assert model.b.bias[0] == 0
    assert torch.allclose(model(x), before, atol=1e-5)


def test_a_network_without_any_nonlinearity_is_refused_elsewhere():
    assert unread(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), torch.ones(1, 2)) == ()
