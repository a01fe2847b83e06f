"""A model of a user as the network that is measured: the same function, whatever it is made of; and nobody is told."""

import gc
import types
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

import pliant
from pliant import L2, Chain, LayerNorm, Monitor, Network, ReDo
from pliant.adapter import copied
from pliant.diagnostics import PredictiveEntropy
from pliant.interventions import Activation
from pliant.interventions._nonlinearities import nonlinearity_calls
from pliant.optim import SGD
from pliant.probe import RandomLabels
from tests.models import MODELS, TWINS, Caching, Statement, after_a_call, assert_same, check_contract, normal

VECTORS = normal(20, 4)
every_twin = pytest.mark.parametrize(("make", "x"), TWINS.values(), ids=TWINS)


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_the_network_is_the_models(name):
    check_contract(MODELS[name])


# -- in place ----------------------------------------------------------------------------------------------------------


def twins(make):
    """The same network, out of place and in place."""
    nets = make(False), make(True)
    nets[1].load_state_dict(nets[0].state_dict())
    return nets


@every_twin
def test_a_trace_is_that_of_the_twin_out_of_place(make, x):
    plain, inplace = map(Network, twins(make))
    one, other = plain.trace(plain.params(), x), inplace.trace(plain.params(), x)
    assert_same(one.sites, other.sites)
    assert_same((one.output, one.features), (other.output, other.features))
    stacked = {name: torch.stack([p, 1.5 * p]) for name, p in plain.params().items()}
    one, other = (vmap(net.trace, in_dims=(0, None))(stacked, x) for net in (plain, inplace))
    assert_same(one.sites, other.sites)


@every_twin
def test_activations_are_what_left_the_nonlinearities(make, x):
    """By hooks and names at first, by calls in order later; under `vmap`, too."""
    plain, inplace = map(Network, twins(make))
    params = plain.params()
    stacked = {name: torch.stack([p, 1.5 * p]) for name, p in params.items()}

    def watched(net, params):
        found = net.watch(params, x)
        return found.features, found.activations

    for _ in range(2):
        assert_same(watched(plain, params), watched(inplace, params))
    one, other = (vmap(lambda p, net=net: watched(net, p))(stacked) for net in (plain, inplace))
    assert_same(one, other)


@every_twin
def test_the_units_are_those_of_the_twin(make, x):
    plain, inplace = twins(make)
    assert_same(nonlinearity_calls(plain, x), nonlinearity_calls(inplace, x))
    one, other = (Network(net, example=x).units for net in (plain, inplace))
    assert [u.name for u in one] == [u.name for u in other] != []
    for a, b in zip(one, other, strict=True):
        assert (a.sites, a.exact, a.biases) == (b.sites, b.exact, b.biases)
        for kind in ("incoming", "normaliser", "outgoing"):
            mine, others = getattr(a, kind), getattr(b, kind)
            assert_same({n: e.codes for n, e in mine.items()}, {n: e.codes for n, e in others.items()})


@every_twin
def test_interventions_and_diagnostics_are_those_of_the_twin(make, x):
    plain, inplace = twins(make)
    built = [Activation("tanh").build(net, example=x) for net in (plain, inplace)]
    assert_same(built[0](x), built[1](x))
    names = [[type(m).__name__ for m in net.modules()] for net in built]
    assert names[0] == names[1]
    y = torch.zeros(len(x), dtype=torch.long)
    rows = [Monitor(net, (x, y), loss=F.cross_entropy)(0) for net in (plain, inplace)]
    assert repr(rows[0]) == repr(rows[1])
    assert rows[0]["linearized"] < 1
    found = [
        pliant.disentangle(net, inputs=x, optimizer=SGD(0.1), probe=RandomLabels(2), targets=2, steps=2)
        for net in (plain, inplace)
    ]
    assert repr(found[0].to_dict()) == repr(found[1].to_dict())


@every_twin
@pytest.mark.parametrize("member", [ReDo(tau=0.3, every=1), L2(0.1)], ids=["ReDo", "L2"])
def test_a_keeper_does_what_it_does_to_the_twin(make, x, member):
    nets = twins(make)
    for net in nets:
        net.train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        keeper = Chain(member).attach(net, optimizer)
        for _ in range(3):
            torch.manual_seed(0)
            (net(x).square().sum() + keeper.penalty()).backward()
            optimizer.step()
            keeper.step()
            optimizer.zero_grad()
    assert_same(nets[0].state_dict(), nets[1].state_dict())


def test_what_replaces_a_call_in_place_is_in_place():
    """Also where nobody reads what the call returns."""
    net = Statement(True)
    built = Activation("tanh").build(net, example=VECTORS)
    expected = net.c(torch.tanh(net.b(torch.tanh(net.a(VECTORS)))))
    assert torch.equal(built(VECTORS), expected)
    found = torch.autograd.grad(built(VECTORS).sum(), built.a.weight)
    assert_same(found, torch.autograd.grad(expected.sum(), net.a.weight))


# -- copies ------------------------------------------------------------------------------------------------------------


def test_a_copy_holds_no_graph_and_shares_nothing_but_what_cannot_be_copied():
    model = after_a_call(Caching(), VECTORS)
    made = copied(model)
    assert torch.equal(made.cache["h"], model.cache["h"])
    assert made.cache["h"].grad_fn is made.distribution.last.grad_fn is made.outputs[0].grad_fn is None
    assert made.cache["h"] is made.last
    assert made.outputs[0] is made.distribution.last is not model.distribution.last
    assert made.lock is model.lock
    made(VECTORS + 1)
    assert not torch.equal(made.cache["h"], model.cache["h"])


def test_a_module_that_cannot_be_copied_is_named():
    class Single(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("there can be only one")

    with pytest.raises(ValueError, match=r"Sequential cannot be copied \(Single: there can be only one\)"):
        Network(nn.Sequential(Single(1, 1)))


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_of_others_are_never_called(kind):
    told = []

    def hook(*args):
        told.append(args)

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    getattr(model[0], f"register_{kind}")(hook)
    y = torch.zeros(20, dtype=torch.long)
    optimizer = torch.optim.Adam(model.parameters())
    Monitor(model, (VECTORS, y), loss=F.cross_entropy)(0)
    settings = {"inputs": VECTORS, "optimizer": optimizer, "probe": RandomLabels(2), "targets": 2, "steps": 2}
    pliant.plasticity(model, **settings)
    pliant.disentangle(model, **settings)
    built = LayerNorm().build(model, example=VECTORS)
    Chain(ReDo(tau=0.1, every=1)).attach(model, optimizer).detach()
    assert told == []
    built(VECTORS.clone().requires_grad_()).sum().backward()
    assert len(told) == 1  # what is built is the user's own, hooks and all


def test_hooks_that_may_change_the_output_are_named():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.warns(UserWarning, match=r"hooks are left out .*<lambda> of '0'; .* write that into its forward"):
        Network(model)


@pytest.mark.parametrize("recipe", [LayerNorm(), Activation("leaky_relu")], ids=["LayerNorm", "Activation"])
def test_what_was_built_in_is_measured(recipe):
    model = recipe.build(Statement(False), example=VECTORS)
    monitor = Monitor(model, VECTORS, diagnostics=(PredictiveEntropy(),))
    expected = torch.distributions.Categorical(logits=model(VECTORS)).entropy().mean().item()
    assert monitor(0)["entropy"] == pytest.approx(expected, rel=1e-6)


def test_a_forward_of_the_instance_is_measured():
    """As written by hand, and as accelerate wraps it."""
    model = nn.Linear(4, 2)
    model.forward = types.MethodType(lambda self, x: F.linear(x, self.weight) + 1, model)
    net = Network(model)
    doubled = {name: 2 * p for name, p in net.params().items()}
    assert torch.equal(net(doubled, VECTORS), F.linear(VECTORS, 2 * model.weight) + 1)
    model = nn.Linear(4, 2)
    model._original_forward = model.forward
    model.forward = types.MethodType(lambda self, x: self._original_forward(x).bfloat16(), model)
    assert Network(model)(net.params(), VECTORS).dtype is torch.float32


def test_the_graph_of_a_call_is_not_copied_along():
    net = Network(Caching())
    leaves = {name: p.requires_grad_() for name, p in net.params().items()}
    gone = weakref.ref(net(leaves, VECTORS))
    bound, own = net.bound(net.params())
    net.fresh(0)
    assert bound(own, VECTORS).shape == (20, 2)
    net(net.params(), VECTORS)
    gc.collect()
    assert gone() is None
