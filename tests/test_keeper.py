"""A chain in a loop of one's own: the same as a population of one, whatever the loop does, and no trace left."""

from __future__ import annotations

import copy
import io
import pickle
import re
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

import pliant
from pliant import optim
from pliant.interventions import (
    L2,
    Chain,
    Change,
    ContinualBackprop,
    FeatureNormPenalty,
    GradientNormPenalty,
    InFeR,
    Intervention,
    L2Init,
    LayerNorm,
    Only,
    Parseval,
    ReDo,
    Scheduled,
    ShrinkAndPerturb,
    WeightDecay,
    WeightNormRescale,
)
from pliant.interventions.base import cleared
from pliant.network import Network
from pliant.population import Member, Population
from tests.interventions.examples import EXAMPLES
from tests.interventions.nets import NETS

OPTIMIZERS = {
    "SGD": (optim.SGD(lr=0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "Adam": (optim.Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01, fused=True)),  # the kernel that ours has
}
CASES = {f"{a}-{b}": (EXAMPLES[a], NETS[b]) for a in EXAMPLES for b in ("MLP", "CNN") if b in EXAMPLES[a].nets}


def batch(net, step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, *net.shape, generator=generator, dtype=torch.float64)
    return x, x.flatten(1)[:, :3].argmax(1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("example", "net"), CASES.values(), ids=CASES)
def test_equals_a_population_of_one(example, net, optimizer):
    """20 steps in float64, an event on the way."""
    ours, theirs = OPTIMIZERS[optimizer]
    chain, (x, _) = Chain(example.intervention), batch(net, 0)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        model = chain.build(net.module().double(), x)
    network = Network(model, example=x)
    population = Population(network, F.cross_entropy, [Member(5, ours, chain)], dtype=torch.float64)
    state = population.init()
    model.load_state_dict(network.fresh(5), strict=False)
    optimizer = theirs(model.parameters())
    keeper = chain.attach(model, optimizer, seed=5)
    before = torch.get_rng_state()
    for step in range(20):
        x, y = batch(net, step)
        if step == 10 and example.event:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                population.fire(state, example.event)
            with warnings.catch_warnings():
                for same in said:
                    warnings.filterwarnings("ignore", message=re.escape(str(same.message)))
                keeper.event(example.event)
        population.step(state, x[None], y[None])
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        (loss + keeper.penalty(loss)).backward()
        optimizer.step()
        keeper.step()
    assert torch.equal(torch.get_rng_state(), before)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, state.params[name][0], rtol=1e-10, atol=1e-10)
        for kind, moment in optimizer.state[p].items():
            own = state.moments[kind]
            torch.testing.assert_close(moment, own[""] if kind == "step" else own[name][0], rtol=1e-10, atol=1e-10)
    expected = tree_map(lambda t: t[0], state.interventions)
    torch.testing.assert_close(keeper.state, expected, rtol=1e-10, atol=1e-10)
    keeper.detach()


# -- models and loops --------------------------------------------------------------------------------------------------


def mlp(seed=0, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def data(step=0, size=6, width=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, width, generator=generator, dtype=dtype), torch.randint(3, (size,), generator=generator)


def train(model, optimizer, keeper=None, steps=4, start=0):
    for step in range(start, start + steps):
        x, y = data(step, dtype=next(model.parameters()).dtype)
        loss = F.cross_entropy(model(x), y)
        if keeper is not None:
            loss = loss + keeper.penalty(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if keeper is not None:
            keeper.step()


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def equal(a, b):
    (left, one), (right, two) = tree_flatten(a), tree_flatten(b)
    pairs = zip(left, right, strict=True)
    return one == two and all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def modes():
    return torch._C._len_torch_function_stack()


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


@dataclass(frozen=True)
class ClearFirst(Intervention):
    """After each step, the first entry of every parameter becomes 0 and its moments, too; at an event, all moments."""

    reference = ""

    def after_step(self, network, params, moments, state, seen):
        masks = {n: torch.arange(params[n].numel()).view_as(params[n]) == 0 for n in network.names}
        new = {name: torch.where(mask, 0, params[name]) for name, mask in masks.items()}
        return Change(new, cleared(moments, masks))

    @property
    def events(self):
        return ("clear",)

    def on_event(self, network, event, params, moments, state, draw):
        return Change(moments=tree_map(torch.zeros_like, moments))


@dataclass(frozen=True)
class Watcher(Intervention):
    """Keeps all it is shown after a step."""

    reference = ""
    needs = frozenset({"activations", "features"})

    def after_step(self, network, params, moments, state, seen):
        SEEN.append(seen)
        return Change(params={})


SEEN: list = []


def watched(model, run, chain=None):
    """What `Watcher` is shown by one step in which `run(keeper)` is what the user does."""
    SEEN.clear()
    chain = Chain(Watcher()) if chain is None else chain
    keeper = chain.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    run(keeper)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Watcher\(\) touches nothing")
        keeper.step()
    keeper.detach()
    return SEEN[0]


# -- optimizers --------------------------------------------------------------------------------------------------------

TORCH = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "SGD with momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
}
FORMS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
EVERY_FORM = [(name, form) for name in TORCH for form in FORMS if (name, form) != ("RMSprop", "fused")]


@pytest.mark.parametrize(("name", "form"), EVERY_FORM)
def test_moments_of_torch_optimizers_are_edited_in_place_and_entry_by_entry(name, form):
    kind, settings = TORCH[name]
    model, plain = mlp(), mlp()
    optimizer, reference = (kind(m.parameters(), **settings, **FORMS[form]) for m in (model, plain))
    keeper = Chain(ClearFirst()).attach(model, optimizer)
    keeper.event("clear")  # valid before any step
    train(model, optimizer, keeper, 1)
    train(plain, reference, steps=1)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert p.flatten()[0] == 0
        assert torch.equal(p.flatten()[1:], q.flatten()[1:])
        for moment, value in reference.state[q].items():
            if moment == "step" or value is None:
                assert optimizer.state[p][moment] == value
                continue
            assert optimizer.state[p][moment].flatten()[0] == 0
            assert torch.equal(optimizer.state[p][moment].flatten()[1:], value.flatten()[1:])
    before = {id(t) for state in optimizer.state.values() for t in state.values() if t is not None}
    keeper.event("clear")
    left = [t for state in optimizer.state.values() for t in state.values() if t is not None]
    assert {id(t) for t in left} == before
    assert all((t == 0).all() for t in left)
    train(model, optimizer, keeper, 20, start=1)
    assert all(p.isfinite().all() for p in model.parameters())


def test_our_own_optimizers_are_known():
    model = mlp()
    optimizer = optim.TorchOptimizer(model, optim.Adam(lr=0.01, eps_root=1e-3))
    keeper = Chain(ClearFirst()).attach(model, optimizer)
    train(model, optimizer, keeper)
    keeper.event("clear")
    assert all((t == 0).all() for state in optimizer.state.values() for t in state.values())


def test_an_unknown_optimizer_is_fine_until_moments_are_to_change():
    model = mlp()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
    keeper = Chain(L2(0.1), ShrinkAndPerturb(0.5, 0.1), WeightNormRescale()).attach(model, optimizer)
    train(model, optimizer, keeper)
    keeper.event("task_switch")
    keeper = Chain(ShrinkAndPerturb(0.5, 0.1, moments="clear")).attach(model, optimizer)
    with pytest.raises(ValueError, match=r"ShrinkAndPerturb\(.* those of Adagrad are not known"):
        keeper.event("task_switch")


def test_optimizer_state_that_is_loaded_later_is_found():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keeper = Chain(ClearFirst()).attach(model, optimizer)
    train(model, optimizer, keeper)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    keeper.event("clear")
    assert all((t == 0).all() for state in optimizer.state.values() for t in state.values())


def test_parameter_groups_with_learning_rates_of_their_own():
    model = mlp(dtype=torch.float64)
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.2}]
    groups.append({"params": model[4].parameters(), "lr": 0.0})
    optimizer = torch.optim.SGD(groups, lr=0.5)
    keeper = Chain(WeightDecay(0.5)).attach(model, optimizer)
    x, y = data(dtype=torch.float64)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    keeper.step()
    for p, old, lr in zip(model.parameters(), before, [0.1, 0.1, 0.2, 0.2, 0.0, 0.0], strict=True):
        torch.testing.assert_close(p, (1 - lr * 0.5) * old, rtol=1e-14, atol=0)


@pytest.mark.parametrize("chain", [Chain(ContinualBackprop(rho=0.3, maturity=1)), Chain(ReDo(tau=0.9, every=2))])
def test_parameter_groups_do_not_matter_where_the_learning_rate_does_not(chain):
    one, two = mlp(), mlp()
    groups = [
        {"params": [p for p in two.parameters() if p.ndim > 1]},
        {"params": [p for p in two.parameters() if p.ndim == 1]},
    ]
    optimizers = [torch.optim.Adam(one.parameters(), lr=0.01), torch.optim.Adam(groups, lr=0.01)]
    for model, optimizer in zip((one, two), optimizers, strict=True):
        train(model, optimizer, chain.attach(model, optimizer), 8)
    assert same(one, two)
    three, calls = mlp(), []

    @dataclass(frozen=True)
    class Count(Intervention):
        reference = ""

        def after_step(self, network, params, moments, state, seen):
            calls.append(seen.step)
            return Change({name: params[name] for name in network.names})

    optimizer = torch.optim.SGD(
        [{"params": three[0].parameters()}, {"params": three[2].parameters(), "lr": 0.2}], lr=0.1
    )
    with pytest.warns(UserWarning, match="lacks 4.weight, 4.bias"):
        keeper = Chain(Count()).attach(three, optimizer)
    train(three, optimizer, keeper, 3)
    assert len(calls) == 3


# -- what is left alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chain",
    [
        Chain(L2(1.0), WeightDecay(1.0), ShrinkAndPerturb(0.5, 0.5, moments="clear")),
        Chain(L2Init(1.0), ReDo(tau=2.0, every=1, side_effects=True)),
        Chain(ContinualBackprop(rho=1.0, maturity=0)),
        Chain(Only("*.weight", ShrinkAndPerturb(0.5, 0.5))),
    ],
    ids=repr,
)
@pytest.mark.parametrize("frozen", [["0.weight", "0.bias"], ["2.bias"], ["4.weight", "4.bias"]], ids=repr)
def test_frozen_parameters_are_left_alone(chain, frozen):
    model = mlp()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    keeper = chain.attach(model, optimizer)
    train(model, optimizer, keeper, 3)
    for event in chain.events:
        keeper.event(event)
    after = model.state_dict()
    assert {name for name in before if torch.equal(before[name], after[name])} == set(frozen)


class Dropped(nn.Module):
    """With running statistics and dropout, as many a model has."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.drop(F.relu(self.norm(self.first(x)))))


@pytest.mark.parametrize("make", [mlp, Dropped])
def test_nothing_to_do_is_training_bitwise_as_without(make):
    """Seen, but not touched: the same numbers, the same random stream, the same running statistics."""
    chain = Chain(L2(0.0), FeatureNormPenalty(0.0), ContinualBackprop(rho=0.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = make()
    kept, streams = copy.deepcopy(plain), []
    for model, attach in ((plain, False), (kept, True)):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            train(model, optimizer, chain.attach(model, optimizer) if attach else None, 6)
            streams.append(torch.get_rng_state())
    assert same(plain, kept)
    assert torch.equal(*streams)


def test_models_with_running_statistics_and_dropout_have_units():
    torch.manual_seed(0)
    model = Dropped()
    with torch.no_grad():
        model.first.bias[:] = 0
        model.norm.bias[2] = -100.0  # dead
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    keeper = Chain(ReDo(tau=0.0, every=1)).attach(model, optimizer)
    x, y = data()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    keeper.step()
    assert (model.last.weight[:, 2] == 0).all()
    assert (model.last.weight[:, [0, 1, 3, 4, 5, 6, 7]] != 0).all()
    assert model.norm.bias[2] == 0
    assert (optimizer.state[model.last.weight]["exp_avg"][:, 2] == 0).all()


# -- forward passes ----------------------------------------------------------------------------------------------------


def test_a_step_is_shown_what_the_training_forward_pass_showed():
    model, (x, _) = mlp(), data()
    seen = watched(model, lambda keeper: model(x))
    first = F.relu(model[0](x))
    assert list(seen.activations) == ["1", "3"]
    assert torch.equal(seen.activations["1"], first)
    assert torch.equal(seen.features, torch.tanh(model[2](first)))
    assert not any(t.requires_grad for t in (seen.features, *seen.activations.values()))
    assert seen.x is x or torch.equal(seen.x, x)


def test_forward_passes_that_do_not_train_do_not_count():
    model, (x, _) = mlp(), data()

    def run(keeper):
        model(x)
        with torch.no_grad():
            model(2 * x)
        with torch.inference_mode():
            model(3 * x)
        model.eval()
        model(4 * x)
        model.train()

    assert torch.equal(watched(model, run).x, x)


def test_the_first_forward_pass_may_be_in_inference_mode():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    keeper = Chain(ContinualBackprop(rho=0.5, maturity=0), L2Init(0.1)).attach(model, optimizer)
    with torch.inference_mode():
        model(data()[0])
    train(model, optimizer, keeper)
    assert keeper.steps == 4


def test_all_micro_batches_of_a_step_count():
    model, (x, _) = mlp(), data()
    whole = watched(model, lambda keeper: model(x))
    parts = watched(model, lambda keeper: [model(part) for part in x.split([1, 3, 2])])
    assert torch.equal(parts.x, x)
    torch.testing.assert_close(parts.activations, whole.activations)
    torch.testing.assert_close(parts.features, whole.features)


def test_accumulated_gradients_train_like_the_whole_batch():
    chain = Chain(L2(0.1), ContinualBackprop(rho=0.4, maturity=1), ReDo(tau=0.8, every=3))
    whole, parts = mlp(dtype=torch.float64), mlp(dtype=torch.float64)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (whole, parts)]
    keepers = [chain.attach(m, o) for m, o in zip((whole, parts), optimizers, strict=True)]
    train(whole, optimizers[0], keepers[0], 9)
    for step in range(9):
        x, y = data(step, dtype=torch.float64)
        optimizers[1].zero_grad()
        for x_part, y_part in zip(x.split(3), y.split(3), strict=True):
            ((F.cross_entropy(parts(x_part), y_part) + keepers[1].penalty()) / 2).backward()
        optimizers[1].step()
        keepers[1].step()
    torch.testing.assert_close(whole.state_dict(), parts.state_dict(), rtol=1e-10, atol=1e-10)


class Tokens(nn.Module):
    """A sequence model with a mask: several inputs, some of them named."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.expand, self.contract, self.output = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, tokens, mask, *, batch=None, scale=1.0):
        x = self.embed(tokens)
        x = x + self.contract(F.gelu(self.expand(x)))
        x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return scale * self.output(x if batch is None else x + batch["shift"])


def sentences(length, size=4):
    generator = torch.Generator().manual_seed(length)
    return torch.randint(10, (size, length), generator=generator), torch.ones(size, length)


def test_models_of_several_and_named_inputs():
    torch.manual_seed(0)
    model = Tokens()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keeper = Chain(L2(1e-3), ContinualBackprop(rho=0.5, maturity=1)).attach(model, optimizer)
    for step in range(4):
        optimizer.zero_grad()
        for length in (3, 5):  # sentences of two lengths in one step
            out = model(*sentences(length), batch={"shift": torch.ones(4, 4)}, scale=2.0)
            (F.cross_entropy(out, torch.tensor([0, 1, 2, step % 3])) + keeper.penalty()).backward()
        optimizer.step()
        keeper.step()
    assert (model.contract.weight == 0).any()
    activity = watched(model, lambda _: [model(*sentences(3)), model(*sentences(5))]).activations["gelu"]
    assert activity.shape == (4 * 3 + 4 * 5, 1, 8)


def test_models_of_several_inputs_are_built():
    torch.manual_seed(0)
    inputs = pliant.Inputs(sentences(3), {"scale": 2.0})
    model = Chain(LayerNorm()).build(Tokens(), example=inputs)
    assert isinstance(model.expand.norm, nn.LayerNorm)
    assert torch.equal(Network(model)(dict(model.named_parameters()), inputs), model(*inputs.args, **inputs.kwargs))


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.error = mlp(), None

    def forward(self, x):
        x = self.net(x)
        if self.error is not None:
            raise self.error
        return x


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
def test_a_forward_pass_that_raises_leaves_nothing_behind(error):
    model, (x, _) = Failing(), data()
    before = modes(), hooks(model)

    def run(keeper):
        attached = hooks(model)
        model.error = error
        with pytest.raises(type(error)):
            model(2 * x)
        if isinstance(error, Exception):
            assert (modes(), hooks(model)) == (before[0], attached)
        model.error = None
        model(x)
        assert (modes(), hooks(model)) == (before[0], attached)

    assert torch.equal(watched(model, run).x, x)
    assert (modes(), hooks(model)) == before


def test_two_keepers_of_one_model():
    model, (x, _) = mlp(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keepers = [Chain(member).attach(model, optimizer) for member in (ContinualBackprop(), FeatureNormPenalty(0.1))]
    stance = torch._dynamo.eval_frame._stance
    model(x)
    assert modes() == 0
    assert torch._dynamo.eval_frame._stance == stance
    assert keepers[1].penalty() > 0
    keepers[0].step()


def test_detach_leaves_nothing_behind():
    model = mlp()
    before, attributes = hooks(model), {name: set(vars(m)) for name, m in model.named_modules()}
    optimizer = torch.optim.Adam(model.parameters())
    keeper = Chain(L2(0.1), ContinualBackprop()).attach(model, optimizer)
    train(model, optimizer, keeper)
    assert hooks(model) != before
    keeper.detach()
    keeper.detach()
    assert hooks(model) == before
    assert {name: set(vars(m)) for name, m in model.named_modules()} == attributes
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks


def test_copies_of_the_model_are_not_watched():
    model, (x, _) = mlp(), data()

    def run(keeper):
        model(x)
        copy.deepcopy(model)(2 * x)
        pickle.loads(pickle.dumps(model))(3 * x)

    assert torch.equal(watched(model, run).x, x)


# -- compiled models, mixed precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [mlp, Dropped])
def test_a_compiled_model_trains_like_the_original(make):
    chain = Chain(L2(0.1), FeatureNormPenalty(0.1), ContinualBackprop(rho=0.4, maturity=1), ShrinkAndPerturb(0.9, 0.1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = make()
    inner = copy.deepcopy(plain)
    compiled = torch.compile(inner, backend="eager")
    streams = []
    for model, called in ((plain, plain), (inner, compiled)):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        keeper = chain.attach(called, optimizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            train(called, optimizer, keeper, 3)
            keeper.event("task_switch", tied=[copy.deepcopy(model)])
            train(called, optimizer, keeper, 3)
            streams.append(torch.get_rng_state())
        keeper.detach()
        assert not any(hooks(model))
    torch.testing.assert_close(inner.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    assert torch.equal(*streams)
    assert modes() == 0


@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_compiled_after_attach_is_not_seen_and_that_is_said(in_place):
    torch._dynamo.reset()
    for chain in (Chain(L2(0.1)), Chain(ContinualBackprop())):
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters())
        keeper = chain.attach(model, optimizer)
        if in_place:
            model.compile(backend="eager")
        called = model if in_place else torch.compile(model, backend="eager")
        if "activations" in chain[0].needs:
            with pytest.raises(ValueError, match=r"write recipe.attach\(torch.compile\(model\), optimizer\)"):
                train(called, optimizer, keeper, 2)
        else:
            with pytest.warns(UserWarning, match=r"write recipe.attach\(torch.compile\(model\), optimizer\)"):
                train(called, optimizer, keeper, 2)


def test_autocast():
    """Activations come in the precision of the parameters, and penalties are computed in it."""
    model, (x, y) = mlp(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exact = sum(1e-3 * p.square().sum() for p in model.parameters())
    keeper = Chain(L2(1e-3), FeatureNormPenalty(0.1), Parseval(0.1, scale=1.0), Watcher()).attach(model, optimizer)
    SEEN.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
        alone = Chain(L2(1e-3)).attach(model, optimizer).penalty()
        penalty = keeper.penalty()
    assert penalty.dtype == alone.dtype == torch.float32
    torch.testing.assert_close(alone, exact)
    (loss + penalty).backward()
    optimizer.step()
    with pytest.warns(UserWarning, match=r"Watcher\(\) touches nothing"):
        keeper.step()
    assert {t.dtype for t in (SEEN[0].features, *SEEN[0].activations.values())} == {torch.float32}


def test_scaled_losses():
    model, (x, y) = mlp(), data()
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    keeper = Chain(L2(0.1), L2Init(0.1)).attach(model, optimizer)
    scaler.scale(F.cross_entropy(model(x), y) + keeper.penalty()).backward()
    scaler.unscale_(optimizer)
    found = [p.grad.clone() for p in model.parameters()]
    optimizer.zero_grad()
    (F.cross_entropy(model(x), y) + sum(0.1 * p.square().sum() for p in model.parameters())).backward()
    torch.testing.assert_close(found, [p.grad for p in model.parameters()])


# -- penalties ---------------------------------------------------------------------------------------------------------


def test_penalties_are_what_they_are_by_hand():
    model, (x, y) = mlp(dtype=torch.float64), data(dtype=torch.float64)
    keeper = Chain(
        L2(0.1), Only("0.*", L2(0.2)), FeatureNormPenalty(0.3), GradientNormPenalty(0.4), Scheduled(L2(0.5), start=3)
    ).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    loss = F.cross_entropy(model(x), y)
    penalty = keeper.penalty(loss)
    ours = torch.autograd.grad(loss + 2 * penalty, list(model.parameters()))
    loss = F.cross_entropy(model(x), y)
    by_hand = 0.1 * sum(p.square().sum() for p in model.parameters())
    by_hand = by_hand + 0.2 * sum(p.square().sum() for p in model[0].parameters())
    by_hand = by_hand + 0.3 * model[:4](x).square().sum(1).mean()
    gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    by_hand = by_hand + 0.4 * sum(g.square().sum() for g in gradient)
    torch.testing.assert_close(penalty, by_hand)
    torch.testing.assert_close(ours, torch.autograd.grad(loss + 2 * by_hand, list(model.parameters())))


def test_closed_forms_can_be_differentiated_twice():
    model = mlp(dtype=torch.float64)
    params = list(model.parameters())
    keeper = Chain(L2(0.1)).attach(model, torch.optim.SGD(params, lr=0.1))
    found = torch.autograd.grad(keeper.penalty().square(), params, create_graph=True)
    twice = torch.autograd.grad(sum(g.square().sum() for g in found), params)
    by_hand = torch.autograd.grad((0.1 * sum(p.square().sum() for p in params)).square(), params, create_graph=True)
    torch.testing.assert_close(twice, torch.autograd.grad(sum(g.square().sum() for g in by_hand), params))


def test_a_recipe_without_penalties_adds_nothing():
    model = mlp()
    keeper = Chain(ReDo(tau=0.1)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(data()[0])
    assert keeper.penalty() == 0
    with torch.no_grad():
        assert Chain(L2(1.0)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).penalty() > 0


def test_a_penalty_on_the_gradient_asks_for_the_loss():
    model = mlp()
    keeper = Chain(GradientNormPenalty(0.1)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(data()[0])
    with pytest.raises(ValueError, match=r"write loss = loss \+ keeper.penalty\(loss\)"):
        keeper.penalty()


# -- events ------------------------------------------------------------------------------------------------------------


def test_tied_copies_get_the_same_draws():
    model, target, other = mlp(), mlp(), mlp(seed=1)
    for p in target.parameters():
        p.requires_grad_(False)
    chain = Chain(ShrinkAndPerturb(0.5, 0.5), Only("0.*", ShrinkAndPerturb(0.0, 1.0)))
    optimizer = torch.optim.Adam(model.parameters())
    keeper = chain.attach(model, optimizer, seed=3)
    train(model, optimizer, keeper, 2)
    before = [[p.detach().clone() for p in m.parameters()] for m in (model, other)]
    keeper.event("task_switch", tied=[target, torch.compile(other, backend="eager")])
    new = [list(m.parameters()) for m in (model, other)]
    assert all(torch.equal(m[0].weight, model[0].weight) for m in (target, other))
    for a, b, c, d in zip(*(side[2:] for pair in zip(before, new, strict=True) for side in pair), strict=True):
        torch.testing.assert_close(b - 0.5 * a, d - 0.5 * c)  # 0.5 times the same draw
    with pytest.raises(ValueError, match=r"expected a tied copy to have the parameters of the model, .* 2.weight"):
        keeper.event("task_switch", tied=nn.Sequential(nn.Linear(4, 8)))


def test_draws_are_those_of_seed_and_step():
    def after(seed, steps):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        keeper = Chain(ShrinkAndPerturb(0.0, 1.0)).attach(model, optimizer, seed=seed)
        train(model, optimizer, keeper, steps)
        keeper.event("task_switch")
        return model

    assert same(after(1, 2), after(1, 2))
    assert not same(after(1, 2), after(2, 2))
    assert not same(after(1, 2), after(1, 3))


def test_fresh_draws_of_a_model_with_an_initialisation_of_its_own():
    def make():
        model = mlp()
        for p in model.parameters():
            nn.init.constant_(p, 7.0)
        return model

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(5.0))

        def forward(self, x):
            return self.scale * x

    for maker, value in ((make, 7.0), (Bare, 5.0)):
        model = maker()
        optimizer = torch.optim.Adam(model.parameters())
        keeper = Chain(ShrinkAndPerturb(0.0, 2.0)).attach(model, optimizer, fresh=maker)
        keeper.event("task_switch")
        assert all((p == 2 * value).all() for p in model.parameters())
    with pytest.raises(ValueError, match=r"no reset_parameters\(\) draws 'scale' .* fresh=make_model"):
        Chain(ShrinkAndPerturb(0.0, 2.0)).attach(model, optimizer).event("task_switch")
    with pytest.raises(ValueError, match=r"expected the same architecture, got the model with nothing .*0.bias"):
        Chain(L2(1.0)).attach(model, optimizer, fresh=make)


# -- saving and loading ------------------------------------------------------------------------------------------------

RECIPE = Chain(L2Init(0.01), ContinualBackprop(rho=0.3, maturity=1), ReDo(tau=0.5, every=3), ShrinkAndPerturb(0.9, 0.1))


@pytest.mark.parametrize("after_first", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one_bitwise(after_first):
    straight = mlp()
    optimizer = torch.optim.Adam(straight.parameters(), lr=0.01)
    keeper = RECIPE.attach(straight, optimizer, seed=4)
    train(straight, optimizer, keeper, 5)
    keeper.event("task_switch")
    file = io.BytesIO()
    torch.save([straight.state_dict(), optimizer.state_dict(), keeper.state_dict()], file)
    train(straight, optimizer, keeper, 5, start=5)
    keeper.event("task_switch")
    keeper.detach()

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = mlp(seed=9)
    optimizer = torch.optim.Adam(resumed.parameters())
    again = RECIPE.attach(resumed, optimizer)
    if after_first:
        with torch.no_grad():
            resumed(data()[0])
    for part, state in zip((resumed, optimizer, again), saved, strict=True):
        part.load_state_dict(state)
    assert equal(again.state_dict(), saved[2])
    train(resumed, optimizer, again, 5, start=5)
    again.event("task_switch")
    again.detach()
    assert same(resumed, straight)
    assert equal(again.state_dict(), keeper.state_dict())


def test_a_saved_state_is_a_copy():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keeper = RECIPE.attach(model, optimizer)
    train(model, optimizer, keeper, 2)
    saved = keeper.state_dict()
    before = copy.deepcopy(saved)
    train(model, optimizer, keeper, 2)
    assert equal(saved, before)
    assert not equal(keeper.state_dict(), before)


def test_the_state_of_another_recipe_or_model_is_refused():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    keeper = RECIPE.attach(model, optimizer)
    with pytest.raises(ValueError, match="expected the state of L2, got that of L2Init, ContinualBackprop"):
        Chain(L2(0.1)).attach(model, optimizer).load_state_dict(keeper.state_dict())
    model(data()[0])
    wider = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    other = RECIPE.attach(wider, torch.optim.Adam(wider.parameters()))
    other.steps = 7
    other.load_state_dict({**keeper.state_dict(), "steps": 40})
    assert other.steps == 40
    with pytest.raises(ValueError, match="got one of another structure"):
        wider(data()[0])
    assert other.steps == 7
    wider(data()[0])  # as if nothing had been loaded
    before = other.state_dict()
    good = before | {"steps": 40}
    broken = [good | {name: value} for name, value in (("steps", "40"), ("fired", 3), ("kept", [1, 2]), ("state", 7),
              ("seed", None), ("members", 2), ("kept", before["kept"][:1]))]  # fmt: skip
    for state in (keeper.state_dict() | {"steps": 40}, {"members": []}, {}, None, *broken):
        with pytest.raises(
            ValueError, match=r"got one of another structure|expected what keeper.state_dict\(\) returned"
        ):
            other.load_state_dict(state)
        assert equal(other.state_dict(), before)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def attach(model=None, chain=None, optimizer=None):
    model = mlp() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer
    return (Chain(L2(0.1)) if chain is None else chain).attach(model, optimizer)


def test_attach_before_build_is_refused():
    chain, x = Chain(LayerNorm(), L2(0.1)), data()[0]
    with pytest.raises(ValueError, match=r"LayerNorm\(.*\) is not built into the model: write model = recipe.build"):
        attach(mlp(), chain)
    built = chain.build(mlp(), example=x)
    for model in (built, copy.deepcopy(built), nn.Sequential(built), torch.compile(built, backend="eager")):
        attach(model, chain).detach()
    with pytest.raises(ValueError, match="is not built into the model"):
        attach(built, Chain(LayerNorm(eps=0.1)))
    attach(Chain(InFeR(), LayerNorm()).build(mlp(), example=x), chain).detach()


def test_an_optimizer_of_other_parameters_is_refused_or_named():
    model = mlp()
    early = torch.optim.SGD(mlp().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="got one that holds none of them: write it after the build"):
        attach(model, optimizer=early)
    with pytest.warns(UserWarning, match="the optimizer holds 1 parameters that are not the model's"):
        attach(model, optimizer=torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(1))], lr=0.1))
    with pytest.warns(UserWarning, match=r"the optimizer lacks 2.weight, 2.bias: left alone"):
        attach(model, optimizer=torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=0.1))
    with pytest.raises(ValueError, match="got one that holds none of them"):
        attach(mlp().requires_grad_(False))


def test_tied_weights_are_named_and_touched_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with pytest.warns(UserWarning, match=r"0.weight and 2.weight are one tensor: it is touched once, as 0.weight"):
        keeper = attach(model, Chain(L2(1.0), ShrinkAndPerturb(0.5, 0.0)))
    torch.testing.assert_close(keeper.penalty(), sum(p.square().sum() for p in model.parameters()))
    before = model[0].weight.clone()
    keeper.event("task_switch")
    assert torch.equal(model[2].weight, 0.5 * before)


def test_parameters_without_values_are_refused():
    with pytest.raises(ValueError, match=r"got lazy weight: call model\(x\)"):
        attach(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="got weight on the meta device"):
        attach(nn.Linear(3, 3, device="meta"))


def test_an_event_nobody_answers_to_is_named_with_the_nearest():
    keeper = attach(chain=Chain(L2(0.1), ShrinkAndPerturb(0.5, 0.1)))
    with pytest.warns(UserWarning, match="nobody in the recipe answers to 'task_swich', did you mean 'task_switch'"):
        keeper.event("task_swich")
    with pytest.warns(UserWarning, match="nobody in the recipe answers to 'task_switch'$"):
        attach().event("task_switch")
    attach(chain=Chain()).event("task_switch")  # the arm without a recipe


def test_an_event_that_was_never_fired_is_named():
    keeper = attach(chain=Chain(ShrinkAndPerturb(0.5, 0.1), ShrinkAndPerturb(0.5, 0.1, event="target_update")))
    keeper.event("target_update")
    with pytest.warns(UserWarning, match="the event 'task_switch' was never fired") as said:
        keeper.detach()
    assert len(said) == 1


def test_penalties_that_are_not_in_the_loss_are_named():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keeper = attach(model, optimizer=optimizer)
    for last in (False, True):
        model(data()[0])
        optimizer.step()
        if not last:
            keeper.step()
    with pytest.warns(UserWarning, match=r"write loss = loss \+ keeper.penalty\(\)"):
        keeper.step()


class Single(nn.Sequential):
    def forward(self, x):
        if x.dtype is not torch.float32:
            raise RuntimeError("expected scalar type Float")
        return super().forward(x)


def test_a_recipe_that_cannot_begin_says_why():
    model = Single(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    attach(model, Chain(ReDo(tau=0.0, every=1)))
    with pytest.raises(ValueError, match=r"^ReDo cannot begin on Single: expected scalar type Float$"):
        model(torch.ones(3, 4))


def test_a_step_without_a_forward_pass_is_named():
    model = mlp()
    keeper = attach(model, Chain(ContinualBackprop()))
    with pytest.raises(ValueError, match="a forward pass must come first: call the attached model"):
        keeper.step()
    with torch.no_grad():
        model(data()[0])
    with (
        pytest.warns(UserWarning, match="without a forward pass before it"),
        pytest.raises(ValueError, match=r"needs the activations of a forward pass before step\(\)"),
    ):
        keeper.step()
    assert keeper.steps == 0
    with pytest.raises(ValueError, match=r"needs the features of a forward pass before penalty\(\)"):
        attach(mlp(), Chain(FeatureNormPenalty(0.1))).penalty()


def test_a_member_that_touches_nothing_is_named():
    @dataclass(frozen=True)
    class Idle(Intervention):
        reference = ""

        def after_step(self, network, params, moments, state, seen):
            return Change()

    model = nn.Sequential(nn.LayerNorm(4))
    with pytest.warns(UserWarning, match=r"L2\(.*\) touches nothing in this model"):
        attach(model, Chain(L2(0.1))).penalty()
    keeper = attach(model, Chain(Idle()))
    model(torch.ones(2, 4))
    with pytest.warns(UserWarning, match=r"Idle\(\) touches nothing in this model"):
        keeper.step()
    attach(linear := nn.Linear(4, 3), Chain(ReDo(tau=0.1)))
    with pytest.raises(ValueError, match="ReDo found no hidden units"):
        linear(torch.ones(2, 4))
    with pytest.raises(ValueError, match="expected a pattern that matches some of"):
        attach(mlp(), Chain(Only("head.*", L2(0.1)))).penalty()
