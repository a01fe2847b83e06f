"""What holds for every intervention, on every kind of network, under SGD and Adam."""

import ast
import copy
import dataclasses
import functools
import inspect
import io
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
import pliant.interventions
from pliant.interventions import Chain, Draw, Intervention, Seen, contrib, registered
from pliant.interventions.wrappers import _Wrapper
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.population import Member, Population
from tests.interventions.examples import EXAMPLES
from tests.interventions.nets import NETS
from tests.listed import assert_examples, assert_public, classes
from tests.reference.interventions import base as naive

STEPS, EVENT = 12, 6  # how long the contracts train, and when the event comes
SEED = 4  # of a member in which the rarest of resets takes place, too; the next ones are its neighbours'
KEPT = 8  # steps after which a state is saved
OPTIMIZERS = {
    "SGD": (SGD(lr=0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "Adam": (Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
}
every_intervention = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
CASES = {f"{a}-{b}": (EXAMPLES[a], NETS[b]) for a in EXAMPLES for b in EXAMPLES[a].nets}


def may_warn(example):
    return [pytest.mark.filterwarnings(f"ignore:{example.warns}")] if example.warns else []


on_every_net = pytest.mark.parametrize(
    ("example", "net"), [pytest.param(*case, id=name, marks=may_warn(case[0])) for name, case in CASES.items()]
)


def somehow(examples):
    """On every net, and by every optimizer: not each by each."""
    known = list(examples)
    cases = [
        pytest.param(example, net, optimizer, id=f"{name}-{optimizer}", marks=may_warn(example))
        for name, (example, net) in CASES.items()
        for optimizer in OPTIMIZERS
        if example in known and (optimizer == "Adam" or net is NETS[next(iter(example.nets))])
    ]
    return pytest.mark.parametrize(("example", "net", "optimizer"), cases)


trained_somehow = somehow(EXAMPLES.values())


def batch(net, member, step):
    generator = torch.Generator().manual_seed(100 * member + step)
    x = torch.randn(6, *net.shape, generator=generator, dtype=torch.float64)
    return x, x.flatten(1)[:, :3].argmax(1)


def build(net, examples, chain=None):
    x, _ = batch(net, 0, 0)
    chain = Chain(*(example.intervention for example in examples)) if chain is None else chain
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        for pattern in [example.warns for example in examples if example.warns]:
            warnings.filterwarnings("ignore", message=pattern)
        return Network(chain.build(net.module(), x.float()), example=x.float())


def population(net, examples, optimizer, seeds, vary=False):
    """Members with the chain of these examples, each with numbers of its own if they are to vary."""
    optimizer = OPTIMIZERS[optimizer][0]
    chains = [
        Chain(*(e.vary(e.intervention, m) if vary else e.intervention for e in examples)) for m in range(len(seeds))
    ]
    members = [Member(seed, optimizer, chain) for seed, chain in zip(seeds, chains, strict=True)]
    return Population(build(net, examples, chains[0]), F.cross_entropy, members, dtype=torch.float64)


def train(population, net, members, steps=STEPS, state=None, start=0, events=()):
    state = population.init() if state is None else state
    for step in range(start, start + steps):
        if step == EVENT:
            for event in events:
                population.fire(state, event)
        batches = [batch(net, m, step) for m in members]
        population.step(state, torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches]))
    return state


def events(*examples):
    return list(dict.fromkeys(example.event for example in examples if example.event))


@functools.cache
def single(example, net, optimizer, member=0):
    """A population of one, without an intervention if there is no example."""
    return population(net, [example] if example else [], optimizer, [SEED + member])


@functools.cache
def alone(example, net, optimizer, member=0):
    """One member after all steps and the event: not to be changed."""
    return train(single(example, net, optimizer, member), net, [member], events=events(example) if example else ())


@functools.cache
def crowd(example, net, optimizer):
    """Three members with numbers of their own: at first, saved on the way, and after all steps: not to be changed."""
    together = population(net, [example], optimizer, [SEED, SEED + 1, SEED + 2], vary=True)
    state = together.init()
    first, file = structure(state.interventions), io.BytesIO()
    train(together, net, range(3), KEPT, state, events=events(example))
    torch.save(vars(state), file)
    train(together, net, range(3), STEPS - KEPT, state, start=KEPT)
    return together, first, file.getvalue(), state


@functools.cache
def trained(example, net, optimizer="Adam"):
    """The network, and one member's state after a few steps and a push, ready for a direct call: not to be changed."""
    one = single(example, net, optimizer)
    state = train(one, net, [0], 3)
    params, (carried,) = tree_map(lambda t: t[0].clone(), (state.params, state.interventions))
    params = {name: 1.5 * p for name, p in params.items()}
    moments = {k: g if k == "step" else tree_map(lambda t: t[0].clone(), g) for k, g in state.moments.items()}
    return one.network, params, moments, carried


def seen(example, network, net, params, step=3):
    """What a step shows, with its graph."""
    x, y = batch(net, 0, step)
    watched = network.watch(params, x)
    number = torch.tensor(0.01, dtype=torch.float64)

    def gradient():
        return grad(lambda p: F.cross_entropy(network(p, x), y))(params)

    return Seen(torch.tensor(step), number, x, watched.output, watched.features, watched.activations, gradient)


def acting_step(intervention):
    return next(step for step in range(3, 100) if intervention.active(step))


def act(example, network, net, params, moments, state, draw):
    """All that a step and the event change, one after the other, as new values."""
    intervention = example.intervention
    params = {name: p.clone() for name, p in params.items()}
    moments, state = {k: dict(g) for k, g in moments.items()}, copy.deepcopy(state)

    def note(change):
        if change is not None:
            params.update(change.params)
            for kind, group in change.moments.items():
                moments[kind].update(group)
            merge(state, change.state)
        return change is not None

    step = acting_step(intervention)
    without_count = {k: g for k, g in moments.items() if k != "step"}
    given, held = {name: p.clone() for name, p in params.items()}, copy.deepcopy((without_count, state))
    change = intervention.after_step(network, given, without_count, state, seen(example, network, net, params, step))
    in_place = {name for name, p in (change.params if change else {}).items() if p is given[name]}
    assert equal(*({n: p for n, p in ps.items() if n not in in_place} for ps in (given, params)))
    assert equal((without_count, state), held)
    acted = note(change)
    if intervention.overrides("renew") and state["due"]:
        acted |= note(intervention.renew(network, params, moments, state, draw))
    acted |= note(intervention.on_event(network, example.event or "", params, moments, state, draw))
    return (params, moments, state) if acted else None


def merge(tree, new):
    for name, value in new.items():
        if isinstance(value, dict):
            merge(tree[name], value)
        else:
            tree[name] = value


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
    examples = [example.intervention for example in EXAMPLES.values()]
    assert_examples(registered(), examples, "the file of its family in tests/interventions/examples/")


def test_what_has_no_reference_is_a_wrapper():
    for kind in classes(pliant.interventions) + classes(contrib):
        if (
            issubclass(kind, Intervention)
            and kind not in (*registered(), Intervention)
            and not issubclass(kind, _Wrapper)
        ):
            pytest.fail(f'write in {kind.__name__}: reference: ClassVar[str] = "a key of refs.bib"')


def test_every_intervention_is_public():
    assert_public(registered())


# -- the object --------------------------------------------------------------------------------------------------------


@every_intervention
def test_is_a_frozen_dataclass_that_is_its_own_config(example):
    intervention = example.intervention
    kind = type(intervention)
    names = vars(pliant.interventions) | {kind.__name__: kind}
    assert eval(repr(intervention), names) == intervention
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
    assert getattr(kind, "touches", ""), 'write touches: ClassVar[str] = what it changes, such as "weights, biases"'
    assert kind.reference in entries, f"expected a key of src/pliant/refs.bib, got {kind.reference!r}"
    assert "Source: " in inspect.getdoc(kind), "write at the end of the docstring: Source: ..."
    assert ">>> " in inspect.getdoc(kind)
    for field in dataclasses.fields(kind):
        described = re.search(rf"^ +{field.name}: ", inspect.getdoc(kind), re.MULTILINE)
        assert described, f"write under Args: of the docstring: {field.name}: what it is"


@every_intervention
def test_numbers_that_are_none_are_refused(example):
    for field in dataclasses.fields(example.intervention):
        value = getattr(example.intervention, field.name)
        if isinstance(value, float):
            for bad in (-1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=rf"expected {field.name} of "):
                    dataclasses.replace(example.intervention, **{field.name: bad})


# -- what it does ------------------------------------------------------------------------------------------------------


@somehow(example for example in EXAMPLES.values() if example.zero is not None)
def test_zero_strength_changes_nothing(example, net, optimizer):
    off = dataclasses.replace(example, intervention=example.zero)
    zero = train(population(net, [off], optimizer, [SEED]), net, [0], events=events(example))
    without, full = alone(None, net, optimizer), alone(example, net, optimizer)
    assert equal(zero.params, without.params)
    assert equal(zero.moments, without.moments)
    assert not equal(full.params, without.params)


@trained_somehow
def test_exactly_the_stated_entries_change(example, net, optimizer):
    network, params, moments, state = trained(example, net, optimizer)
    intervention, names = example.intervention, example.touches(net)
    before = copy.deepcopy((params, moments, state))
    changed = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in params.items()}
    look = seen(example, network, net, params)
    if intervention.penalty(network, params, state, look) is not None:
        derived = grad(lambda p: intervention.penalty(network, p, state, seen(example, network, net, p)))(params)
        changed = {name: g != 0 for name, g in derived.items()}
    new = act(example, network, net, params, moments, state, Draw(7, 3))
    if new is not None:
        assert structure(new) == structure((params, moments, state))
        changed = {name: changed[name] | (new[0][name] != p) for name, p in params.items()}
    assert equal((params, moments, state), before)  # what was handed over is left alone (see `act`)
    found = {name for name, where in changed.items() if where.any()}
    if example.whole:
        assert found == names
        assert all(changed[name].all() for name in names)
    else:  # which entries depends on the moment; the transcription says exactly which
        assert found <= names
    assert intervention.on_event(network, "another event", params, moments, state, Draw(7, 3)) is None
    assert intervention.events == (() if example.event is None else (example.event,))


@every_intervention
def test_has_an_effect(example):
    """On an MLP at least, within the steps that the contracts train."""
    after, without = (alone(e, NETS["MLP"], "Adam") for e in (example, None))
    assert not equal((after.params, after.moments), (without.params, without.moments))


@trained_somehow
def test_moments_are_kept_or_cleared_as_stated(example, net, optimizer):
    network, params, moments, state = trained(example, net, optimizer)
    moving = [m for group in moments.values() for name, m in group.items() if name not in example.idle(net)]
    assert all((m != 0).any() for m in moving)
    new = act(example, network, net, params, moments, state, Draw(7, 3))
    if new is not None:
        for kind, group in new[1].items():
            for name, m in group.items():
                old = moments[kind][name]
                if kind == "step":
                    assert m == (0 if example.clock == "clear" else old)
                    continue
                gone = {"keep": torch.zeros_like(m, dtype=torch.bool), "clear": torch.ones_like(m, dtype=torch.bool)}
                gone["touched"] = new[0][name] != params[name]
                if name in example.shifts(net):
                    continue
                assert torch.equal(m, torch.where(gone[example.moments], 0, old)), (kind, name)
    state = copy.deepcopy(alone(example, net, optimizer))
    train(single(example, net, optimizer), net, [0], 20, state, start=STEPS)
    assert state.diverged_at == [-1]
    assert all(p.isfinite().all() for p in state.params.values())
    assert all(m.isfinite().all() for group in state.moments.values() for m in group.values())


@trained_somehow
def test_state_has_one_structure_and_survives_save_and_load(example, net, optimizer):
    _, first, saved, state = crowd(example, net, optimizer)
    loaded = type(state)(**torch.load(io.BytesIO(saved), weights_only=True))
    assert structure(state.interventions) == structure(loaded.interventions) == first
    again = population(net, [example], optimizer, [SEED, SEED + 1, SEED + 2], vary=True)
    train(again, net, range(3), STEPS - KEPT, loaded, start=KEPT)
    assert equal((loaded.params, loaded.moments), (state.params, state.moments))
    assert equal(loaded.interventions, state.interventions)


@on_every_net
def test_draws_come_from_seed_and_step_alone(example, net):
    network, params, moments, state = trained(example, net)
    before = torch.get_rng_state()

    def again(seed, step):
        example.intervention.init(network, params)
        example.intervention.penalty(network, params, state, seen(example, network, net, params))
        return act(example, network, net, params, moments, state, Draw(seed, step))

    first = again(1, 10)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        second = again(1, 10)
    assert (first is None and second is None) or equal(first, second)
    if first is not None and example.draws:
        for seed, step in ((2, 10), (1, 11), (10, 1)):
            other = again(seed, step)
            assert any((other[0][name] != first[0][name]).any() for name in network.weights)


@trained_somehow
def test_equals_the_naive_transcription(example, net, optimizer):
    """With an event on the way."""
    one, state = single(example, net, optimizer), alone(example, net, optimizer)
    with warnings.catch_warnings():
        expected = naive.train(
            net.forward,
            one.network.fresh(SEED),
            [batch(net, 0, step) for step in range(STEPS)],
            OPTIMIZERS[optimizer][1],
            example.naive(example.touches(net)),
            event_at=EVENT if example.event else None,
            network=one.network,
            draw=lambda step: Draw(SEED, step),
        )
    assert list(expected) == list(state.params)
    for name, p in expected.items():
        close(state.params[name][0], p, example.tolerance)


@trained_somehow
def test_population_equals_a_loop_over_members(example, net, optimizer):
    together, _, _, state = crowd(example, net, optimizer)
    assert together.mode == "vmap"
    for m in (0, 2):  # the first and the last
        one = dataclasses.replace(example, intervention=example.vary(example.intervention, m))
        lonely = alone(one, net, optimizer, m)
        for name, p in state.params.items():
            close(p[m], lonely.params[name][0], 1e-7 if name in example.idle(net) else 1e-10)
        close(tree_map(lambda t, m=m: t[m], state.interventions), tree_map(lambda t: t[0], lonely.interventions))


@on_every_net
def test_closed_form_gradients_equal_autograd(example, net):
    network, params, _, state = trained(example, net)
    intervention, look = example.intervention, seen(example, network, net, params)
    penalty = intervention.penalty(network, params, state, look)
    if penalty is None or not intervention.overrides("penalty_gradient"):
        assert intervention.penalty_gradient(network, params, state, look) is None
        return

    def gradient(params):
        return {name: g.value() for name, g in intervention.penalty_gradient(network, params, state, look).items()}

    closed = gradient(params)
    assert penalty.shape == ()
    derived = grad(lambda p: intervention.penalty(network, p, state, look))(params)
    zeros = {name: torch.zeros_like(p) for name, p in params.items()}
    close({**zeros, **closed}, derived, 1e-13)
    stacked = {name: torch.stack([p, -2 * p]) for name, p in params.items()}
    together = vmap(gradient)(stacked)
    for name, g in closed.items():
        close(together[name][0], g, 1e-13)


# -- in company --------------------------------------------------------------------------------------------------------

ONE_EACH = {type(e.intervention).__name__: e for e in reversed(EXAMPLES.values()) if "MLP" in e.nets}


@pytest.mark.parametrize("first", sorted(ONE_EACH))
def test_composes_with_every_other(first):
    """Each pair in this order warns as stated; in one of its orders, by turns, it trains and keeps its structure."""
    net, names = NETS["MLP"], sorted(ONE_EACH)
    for place, second in enumerate(names):
        pair, examples = (first, second), [ONE_EACH[first], ONE_EACH[second]]
        if first in ONE_EACH[second].refuses:
            with pytest.raises(ValueError, match=second):
                population(net, examples, "Adam", [1, 2, 3])
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            together = population(net, examples, "Adam", [1, 2, 3])
            state = together.init()
        said = [str(w.message) for w in caught]
        said = [line for line in said if not any(e.warns and re.match(e.warns, line) for e in examples)]
        idle = second in ONE_EACH[first].idle_beside or first in ONE_EACH[second].idle_beside
        assert bool(said) == (idle or first in ONE_EACH[second].pointless_after), (pair, said)
        assert all((first if second in ONE_EACH[first].idle_beside else second) in line for line in said), (pair, said)
        here = names.index(first)
        if (here < place) == ((here + place) % 2 == 0):
            continue
        start = structure(state.interventions)
        train(together, net, range(3), 3, state, start=EVENT - 1, events=events(*examples))
        assert structure(state.interventions) == start, pair
        assert all(p.isfinite().all() for p in state.params.values()), pair
