"""A model of a user as the network that is measured: the same function, whatever it is made of; and nobody is told."""

import copy
import gc
import pickle
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
from pliant.interventions import Activation, FeatureNormPenalty
from pliant.interventions._nonlinearities import nonlinearity_calls
from pliant.optim import SGD
from pliant.probe import FreshLabels
from tests.models import MODELS, TWINS, Agent, Caching, Statement, after_a_call, assert_same, check_contract, normal

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
        pliant.disentangle(net, inputs=x, optimizer=SGD(0.1), probe=FreshLabels(2), targets=2, steps=2)
        for net in (plain, inplace)
    ]
    assert repr(found[0].to_dict()) == repr(found[1].to_dict())


@every_twin
@pytest.mark.filterwarnings("ignore:ReDo leaves the units of gelu", "ignore:ReDo draws no units of")  # of both twins
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
    settings = {"inputs": VECTORS, "optimizer": optimizer, "probe": FreshLabels(2), "targets": 2, "steps": 2}
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


# -- agents without forward --------------------------------------------------------------------------------------------


def actor(agent, x):
    return agent.actor(x)


def test_an_agent_without_forward_is_measured_by_a_method():
    agent = Agent()
    found = Monitor(agent, VECTORS, call="get_value")(0)
    assert repr(found) == repr(Monitor(WithForward(agent), VECTORS)(0)).replace("agent.", "")


class WithForward(nn.Module):
    """The same agent in a module that has a forward."""

    def __init__(self, agent):
        super().__init__()
        self.agent = agent

    def forward(self, x):
        return self.agent.get_value(x)


def test_an_agent_without_forward_is_probed_by_a_function():
    agent = Agent()
    x = normal(20, 4)
    settings = {"inputs": x, "probe": FreshLabels(2), "targets": 2, "steps": 5}
    for ask in (pliant.plasticity, pliant.disentangle):
        found = ask(agent, optimizer=SGD(0.1), call=actor, **settings)
        other = ask(agent.actor, optimizer=SGD(0.1), **settings)
        assert "verdict" in found.to_dict()
        assert found.to_dict().keys() == other.to_dict().keys()


def test_an_agent_without_forward_is_built_and_kept():
    """Layer norm and resets, in training through the method; copies and pickles of the agent carry a plain one."""
    built = Chain(LayerNorm()).build(Agent(), VECTORS, call="get_action_and_value")
    assert [n for n, _ in built.named_parameters() if "norm" in n] == [
        "critic.0.norm.weight", "critic.0.norm.bias", "actor.0.norm.weight", "actor.0.norm.bias",
    ]  # fmt: skip
    assert "forward" not in vars(built)
    with torch.no_grad():
        built.actor[0].norm.weight[:3] = 0.0
        built.actor[0].norm.bias[:3] = 0.0
    optimizer = torch.optim.Adam(built.parameters(), lr=0.0)
    recipe = Chain(LayerNorm(), ReDo(tau=0.0, every=1), L2(0.1))
    keeper = recipe.attach(built, optimizer, call="get_action_and_value")
    for twin in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert_same(twin.get_action_and_value(VECTORS)[1:], built.get_action_and_value(VECTORS)[1:])
    for _ in range(2):
        _, _, entropy, value = built.get_action_and_value(VECTORS)
        assert keeper.penalty() > 0
        (value.square().mean() - entropy.mean() + keeper.penalty()).backward()
        optimizer.step()
        keeper.step()
    assert keeper.steps == 2
    assert (built.actor[0].norm.weight[:3] != 0).all()  # the dead units were reset
    keeper.detach()
    assert "get_action_and_value" not in vars(built)


def test_a_method_counts_like_a_forward_pass():
    """The same numbers as of a model that is called itself."""
    torch.manual_seed(0)
    agent = Agent()
    model = WithForward(copy.deepcopy(agent))
    for trained, called, call in ((agent, agent.get_value, "get_value"), (model, model, None)):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        keeper = Chain(ReDo(tau=0.5, every=1)).attach(trained, optimizer, call=call)
        called = getattr(trained, call) if call else trained
        for step in range(3):
            called(normal(20, 4, seed=step)).square().sum().backward()
            optimizer.step()
            keeper.step()
            optimizer.zero_grad()
        keeper.detach()
    assert_same(agent.state_dict(), model.agent.state_dict())


NEEDS_CALL = {
    "Network": lambda agent: Network(agent)(dict(agent.named_parameters()), VECTORS),
    "units": lambda agent: Network(agent, example=VECTORS).units,
    "Monitor": lambda agent: Monitor(agent, VECTORS),
    "plasticity": lambda agent: pliant.plasticity(agent, inputs=VECTORS, optimizer=SGD(0.1), targets=2, steps=2),
    "build": lambda agent: LayerNorm().build(agent, example=VECTORS),
    "step": lambda agent: (
        Chain(ReDo(tau=0.1, every=1)).attach(agent, torch.optim.SGD(agent.parameters(), lr=0.1)).step()
    ),
}


@pytest.mark.parametrize("ask", NEEDS_CALL.values(), ids=NEEDS_CALL)
def test_the_error_without_it_names_the_fix(ask):
    with pytest.raises(ValueError, match=r"write .*call='get_action_and_value' \(or one of get_value\)"):
        ask(Agent())


WRONG = {
    "near": ("get_valu", r"a method of Agent, got 'get_valu', did you mean 'get_value'\?"),
    "far": ("predict", r"a method of Agent, got 'predict': it has get_value, get_action_and_value"),
    "neither": (3, r"the name of a method or a function \(model, \*inputs\), got 3"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        Network(Agent(), call=call)


@pytest.mark.parametrize(
    "chain", [Chain(ReDo(tau=0.3, every=2), L2(0.01)), Chain(FeatureNormPenalty(0.1))], ids=["units", "features"]
)
def test_a_keeper_with_a_function_is_one_with_a_method(chain):
    """Where the loop calls it by the keeper; in place of a method, and of what a method does."""

    def trained(call):
        torch.manual_seed(0)
        agent = Agent()
        optimizer = torch.optim.Adam(agent.parameters(), lr=0.05)
        keeper = chain.attach(agent, optimizer, call=call)
        for _ in range(4):
            loss = keeper.call(VECTORS).square().mean()
            optimizer.zero_grad()
            (loss + keeper.penalty()).backward()
            optimizer.step()
            keeper.step()
        keeper.detach()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in agent.modules())
        assert torch.equal(keeper.call(VECTORS), agent.get_value(VECTORS))
        return agent.state_dict()

    wanted = trained("get_value")
    for call in (lambda agent, x: agent.get_value(x), lambda agent, x: agent.critic(x)):
        found = trained(call)
        assert all(torch.equal(t, found[name]) for name, t in wanted.items())


def test_a_function_has_to_be_called_by_the_keeper():
    agent = Agent()
    keeper = Chain(ReDo(tau=0.1, every=1)).attach(agent, torch.optim.SGD(agent.parameters(), lr=0.1), call=actor)
    actor(agent, VECTORS)
    with pytest.raises(ValueError, match=r"call keeper.call\(x\), which calls the function, in train mode"):
        keeper.step()


def test_functions_called_in_a_method_cannot_be_replaced():
    class Functional(Agent):
        def get_value(self, x):
            return self.critic[2](torch.relu(self.critic[0](x)))

    with pytest.raises(ValueError, match=r"Activation cannot reach 'relu'.*write an nn.Module for it"):
        Chain(Activation("tanh")).build(Functional(), VECTORS, call="get_value")
    assert type(Chain(Activation("elu")).build(Agent(), VECTORS, call="get_value").critic[1]).__name__ == "Replacement"


# -- modes -------------------------------------------------------------------------------------------------------------


class Louder(nn.Module):
    """Louder in train mode, by far."""

    def __init__(self, draws=False):
        super().__init__()
        self.a, self.drop, self.b, self.draws = nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2), draws

    def forward(self, x):
        x = self.drop(torch.relu(self.a(x)))
        x = F.dropout(x, 0.5, self.training and self.draws)
        return self.b(10 * x if self.training else x)


def entropy(model, x):
    return torch.distributions.Categorical(logits=model(x)).entropy().mean().item()


@pytest.mark.parametrize("draws", [False, True], ids=["pure", "draws in train mode"])
def test_a_monitor_measures_in_the_mode_of_each_call(draws):
    """Without dropout all the same; what draws is measured as at the start."""
    model = Louder(draws).eval()
    monitor = Monitor(model, VECTORS, diagnostics=(PredictiveEntropy(),), every=1)
    quiet = entropy(model, VECTORS)
    model.train()
    model.drop.eval()
    model.draws = False
    loud = entropy(model, VECTORS)
    model.drop.train()
    model.draws = draws
    assert monitor(0)["entropy"] == pytest.approx(quiet if draws else loud, rel=1e-5)
    model.eval()
    assert monitor(1)["entropy"] == pytest.approx(quiet, rel=1e-5)
    assert abs(loud - quiet) > 0.01


class Pair(nn.Module):
    """Two outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x, twice=False):
        hidden = F.relu(self.body(x))
        return self.head(hidden) * (2 if twice else 1), hidden


@pytest.mark.parametrize("compiled", [False, True])
def test_a_function_may_call_the_model_itself(compiled):
    """Also where the model's `forward` is one of its own, and where members run at once."""
    model = Pair()
    model.forward = types.MethodType(Pair.forward, model)
    for made in (Pair(), model):
        network = Network(made, example=VECTORS, call=lambda m, x: m(x, twice=True)[0])
        run = torch.compile(network, backend="eager") if compiled else network
        params = network.params()
        assert torch.equal(run(params, VECTORS), made(VECTORS, twice=True)[0])
        stacked = {name: torch.stack([p, 2 * p]) for name, p in params.items()}
        together = vmap(run, in_dims=(0, None))(stacked, VECTORS)
        torch.testing.assert_close(together[0], made(VECTORS, twice=True)[0])
        assert made(VECTORS)[1].shape == (20, 3)
