"""What holds for every intervention, on every kind of network, under SGD and Adam."""

import ast
import copy
import dataclasses
import inspect
import io
import itertools
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap
from torch.utils._pytree import tree_flatten, tree_map

import pliant
from pliant.interventions import Chain, Draw, LayerNorm, WeightNormRescale
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.population import Member, Population
from tests.interventions.examples import EXAMPLES, NETS, registered
from tests.reference import interventions as naive

OPTIMIZERS = {
    "SGD": (SGD(lr=0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "Adam": (Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
}
every_intervention = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def batch(net, member, step):
    generator = torch.Generator().manual_seed(100 * member + step)
    x = torch.randn(6, *net.shape, generator=generator, dtype=torch.float64)
    return x, x.flatten(1)[:, :3].argmax(1)


def build(net, chain):
    x, _ = batch(net, 0, 0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        if net.unfed:
            warnings.filterwarnings("ignore", message="LayerNorm left alone")
        return Network(Chain(*chain).build(net.module(), x.float()))


def population(net, chains, optimizer, seeds):
    members = [Member(seed, OPTIMIZERS[optimizer][0], Chain(*c)) for seed, c in zip(seeds, chains, strict=True)]
    return Population(build(net, chains[0]), F.cross_entropy, members, dtype=torch.float64)


def train(population, net, members, steps=20, state=None, start=0, events=()):
    state = population.init() if state is None else state
    for step in range(start, start + steps):
        if step == 10:
            for event in events:
                population.fire(state, event)
        batches = [batch(net, m, step) for m in members]
        population.step(state, torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches]))
    return state


def trained(example, net, optimizer="Adam", steps=3):
    """The network, and one member's state after a few steps and a push, ready for a direct call."""
    one = population(net, [[example.intervention]], optimizer, [7])
    state = train(one, net, [0], steps)
    params, (carried,) = tree_map(lambda t: t[0].clone(), (state.params, state.interventions))
    params = {name: 1.5 * p for name, p in params.items()}
    moments = {k: g if k == "step" else tree_map(lambda t: t[0].clone(), g) for k, g in state.moments.items()}
    return one.network, params, moments, carried


def equal(a, b):
    (left, first), (right, second) = tree_flatten(a), tree_flatten(b)
    return first == second and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def structure(tree):
    leaves, spec = tree_flatten(tree)
    return spec, [(leaf.shape, leaf.dtype) for leaf in leaves]


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -- the list ----------------------------------------------------------------------------------------------------------


def test_every_intervention_has_an_example():
    assert {type(example.intervention) for example in EXAMPLES.values()} == set(registered())


def test_every_intervention_is_public():
    assert {kind.__name__ for kind in registered()} <= set(pliant.interventions.__all__)


# -- the object --------------------------------------------------------------------------------------------------------


@every_intervention
def test_is_a_frozen_dataclass_that_is_its_own_config(example):
    intervention = example.intervention
    kind = type(intervention)
    assert eval(repr(intervention), vars(pliant.interventions)) == intervention
    assert kind(**dataclasses.asdict(intervention)) == intervention
    assert dataclasses.replace(intervention) == intervention
    assert hash(dataclasses.replace(intervention)) == hash(intervention)
    assert pickle.loads(pickle.dumps(intervention)) == intervention
    assert copy.deepcopy(intervention) == intervention
    assert ast.literal_eval(repr(dataclasses.asdict(intervention))) == dataclasses.asdict(intervention)  # plain values
    for field in dataclasses.fields(intervention):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(intervention, field.name, 1)
    if example.zero is not None:
        assert example.zero != intervention


@every_intervention
def test_says_where_it_comes_from(example):
    kind = type(example.intervention)
    entries = re.findall(r"^@\w+\{(\w+),", (Path(pliant.__file__).parent / "refs.bib").read_text(), re.MULTILINE)
    assert kind.reference in entries
    assert "Source: " in inspect.getdoc(kind)
    assert ">>> " in inspect.getdoc(kind)
    for field in dataclasses.fields(kind):
        assert re.search(rf"^ +{field.name}: ", inspect.getdoc(kind), re.MULTILINE), field.name


@every_intervention
def test_numbers_that_are_none_are_refused(example):
    for field in dataclasses.fields(example.intervention):
        value = getattr(example.intervention, field.name)
        if isinstance(value, float):
            for bad in (-1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=rf"expected {field.name} of "):
                    dataclasses.replace(example.intervention, **{field.name: bad})


# -- what it does ------------------------------------------------------------------------------------------------------


@every_optimizer
@every_net
@pytest.mark.parametrize("name", [name for name, example in EXAMPLES.items() if example.zero is not None])
def test_zero_strength_changes_nothing(name, net, optimizer):
    example = EXAMPLES[name]
    events = [example.event] if example.event else []
    without = train(population(net, [[]], optimizer, [3]), net, [0])
    zero = train(population(net, [[example.zero]], optimizer, [3]), net, [0], events=events)
    assert equal(zero.params, without.params)
    assert equal(zero.moments, without.moments)
    full = train(population(net, [[example.intervention]], optimizer, [3]), net, [0], events=events)
    assert not equal(full.params, without.params)


@every_optimizer
@every_net
@every_intervention
def test_exactly_the_stated_entries_change(example, net, optimizer):
    network, params, moments, state = trained(example, net, optimizer)
    intervention, names = example.intervention, example.touches(net)
    before = copy.deepcopy((params, moments, state))
    acted = False
    gradient = intervention.penalty_gradient(network, params, state)
    if gradient is not None:
        acted = True
        assert set(gradient) == names
        assert all(gradient[name].shape == params[name].shape and (gradient[name] != 0).all() for name in names)
    for new in (
        intervention.after_step(network, params, moments, state),
        intervention.on_event(network, example.event or "", params, moments, state, Draw(7, 3)),
    ):
        if new is not None:
            acted = True
            assert structure(new[0]) == structure(params)
            assert structure(new[1]) == structure(moments)
            assert structure(new[2]) == structure(state)
            for name, p in params.items():
                assert (new[0][name] != p).all() if name in names else torch.equal(new[0][name], p), name
    assert equal((params, moments, state), before)  # what was handed over is left alone
    assert acted == bool(names)
    assert intervention.on_event(network, "another event", params, moments, state, Draw(7, 3)) is None


@every_optimizer
@every_net
@every_intervention
def test_moments_are_kept_or_cleared_as_stated(example, net, optimizer):
    one = population(net, [[example.intervention]], optimizer, [7])
    state = train(one, net, [0], 3)
    assert all((m != 0).any() for group in state.moments.values() for m in group.values())
    before = copy.deepcopy(state.moments)
    one.fire(state, example.event or "")
    for kind, group in state.moments.items():
        for name, m in group.items():
            expected = torch.zeros_like(m) if example.moments == "clear" else before[kind][name]
            assert torch.equal(m, expected), (kind, name)
    if optimizer == "Adam":
        assert state.moments["step"][""] == (0 if example.moments == "clear" else 3)
    train(one, net, [0], 100, state, start=20)
    assert state.diverged_at == [-1]
    assert all(p.isfinite().all() for p in state.params.values())
    assert all(m.isfinite().all() for group in state.moments.values() for m in group.values())


@every_net
@every_intervention
def test_steps_keep_the_moments(example, net):
    network, params, moments, state = trained(example, net)
    new = example.intervention.after_step(network, params, moments, state)
    if new is not None:
        assert equal(new[1], moments)


@every_optimizer
@every_net
@every_intervention
def test_state_has_one_structure_and_survives_save_and_load(example, net, optimizer):
    def fresh():
        return population(net, [[example.intervention]] * 2, optimizer, [1, 2])

    events = [example.event] if example.event else []
    one = fresh()
    state = one.init()
    before = structure(state.interventions)
    train(one, net, range(2), 12, state, events=events)
    assert structure(state.interventions) == before
    file = io.BytesIO()
    torch.save(vars(state), file)
    file.seek(0)
    loaded = type(state)(**torch.load(file, weights_only=True))
    train(one, net, range(2), 5, state, start=12)
    train(fresh(), net, range(2), 5, loaded, start=12)
    assert equal((loaded.params, loaded.moments), (state.params, state.moments))
    assert equal(loaded.interventions, state.interventions)


@every_net
@every_intervention
def test_draws_come_from_seed_and_step_alone(example, net):
    intervention = example.intervention
    network, params, moments, state = trained(example, net)
    before = torch.get_rng_state()

    def act(seed, step):
        intervention.init(network, params)
        intervention.penalty(network, params, state)
        intervention.penalty_gradient(network, params, state)
        intervention.after_step(network, params, moments, state)
        return intervention.on_event(network, example.event or "", params, moments, state, Draw(seed, step))

    first = act(1, 10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    torch.manual_seed(99)
    second = act(1, 10)
    if first is None:
        assert second is None
        return
    assert equal(first, second)
    for seed, step in ((2, 10), (1, 11), (10, 1)):
        other = act(seed, step)
        assert all((other[0][name] != first[0][name]).any() for name in network.weights)


@every_optimizer
@every_net
@every_intervention
def test_equals_the_naive_transcription(example, net, optimizer):
    """20 steps with an event on the way."""
    one = population(net, [[example.intervention]], optimizer, [5])
    state = train(one, net, [0], 20, events=[example.event] if example.event else [])
    expected = naive.train(
        net.forward,
        getattr(example.intervention, "eps", 0.0),
        one.network.fresh(5),
        [batch(net, 0, step) for step in range(20)],
        OPTIMIZERS[optimizer][1],
        example.naive(example.touches(net)),
        event_at=10 if example.event else None,
        fresh=Draw(5, 10).fresh(one.network),
    )
    assert list(expected) == list(state.params)
    for name, p in expected.items():
        rounding_alone = name == "key.bias"  # softmax cancels its gradient, and Adam divides what is left by itself
        close(state.params[name][0], p, 1e-8 if rounding_alone else 1e-11)


@every_optimizer
@every_net
@every_intervention
def test_population_equals_a_loop_over_members(example, net, optimizer):
    chains = [[example.vary(example.intervention, m)] for m in range(3)]
    events = [example.event] if example.event else []
    together = population(net, chains, optimizer, [4, 5, 6])
    crowd = train(together, net, range(3), 20, events=events)
    assert together.mode == "vmap"
    for m in range(3):
        alone = train(population(net, [chains[m]], optimizer, [4 + m]), net, [m], 20, events=events)
        close(tree_map(lambda t, m=m: t[m], crowd.params), tree_map(lambda t: t[0], alone.params))
        close(tree_map(lambda t, m=m: t[m], crowd.interventions), tree_map(lambda t: t[0], alone.interventions))


@every_net
@every_intervention
def test_closed_form_gradients_equal_autograd(example, net):
    network, params, _, state = trained(example, net)
    intervention = example.intervention
    penalty = intervention.penalty(network, params, state)
    closed = intervention.penalty_gradient(network, params, state)
    if penalty is None:
        assert closed is None
        return
    assert penalty.shape == ()
    derived = grad(lambda p: intervention.penalty(network, p, state))(params)
    if closed is not None:
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        close({**zeros, **closed}, derived, 1e-13)
        stacked = {name: torch.stack([p, -2 * p]) for name, p in params.items()}
        together = vmap(lambda p: intervention.penalty_gradient(network, p, state))(stacked)
        for name, g in closed.items():
            close(together[name][0], g, 1e-13)


# -- in company --------------------------------------------------------------------------------------------------------

PAIRS = {f"{a}, {b}": (EXAMPLES[a], EXAMPLES[b]) for a, b in itertools.product(EXAMPLES, EXAMPLES)}
REFUSED = {"LayerNorm, LayerNorm": "build it into a module once"}


@pytest.mark.parametrize("pair", PAIRS)
def test_composes_with_every_other(pair):
    net, (first, second) = NETS["MLP"], PAIRS[pair]
    chains = [[first.vary(first.intervention, m), second.vary(second.intervention, m)] for m in range(2)]
    if pair in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[pair]):
            build(net, chains[0])
        return
    events = list(dict.fromkeys(e for e in (first.event, second.event) if e))
    together = population(net, chains, "Adam", [1, 2])
    start = structure(together.init().interventions)
    crowd = train(together, net, range(2), 20, events=events)
    assert structure(crowd.interventions) == start
    assert all(p.isfinite().all() for p in crowd.params.values())
    alone = train(population(net, chains[1:], "Adam", [2]), net, [1], 20, events=events)
    close(tree_map(lambda t: t[1], crowd.params), tree_map(lambda t: t[0], alone.params))
    for member, example in enumerate((first, second)):
        if example.touches(net) or isinstance(example.intervention, LayerNorm):  # each has an effect of its own
            other = [chain[:member] + chain[member + 1 :] for chain in chains]
            without = train(population(net, other, "Adam", [1, 2]), net, range(2), 20, events=events)
            assert not equal(without.params, crowd.params)


@pytest.mark.parametrize("name", EXAMPLES)
def test_rescaling_has_the_last_word(name):
    net = NETS["MLP"]
    one = population(net, [[EXAMPLES[name].intervention, WeightNormRescale()]], "Adam", [1])
    state = train(one, net, [0], 20, events=[e for e in [EXAMPLES[name].event] if e])
    for weight in one.network.weights:
        close(state.params[weight].norm(), state.initial[weight].norm(), 1e-13)
