"""Resets of dead units leave the function alone; of others, what they promise; wrappers; hand-computed values."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.interventions import (
    L2,
    Chain,
    ContinualBackprop,
    Draw,
    LayerNorm,
    Only,
    ReDo,
    Scheduled,
    Seen,
    ShrinkAndPerturb,
    WeightNormRescale,
)
from pliant.interventions.contrib import SelfNormalizedResets
from pliant.nets import MLP, batch_norm
from pliant.network import Network
from pliant.optim import SGD, Adam, Shampoo
from pliant.population import Member, Population
from tests.test_units import STRUCTURES, Separable, kill, outputs, prepared

LR = torch.tensor(0.1)


def seen(network, params, x, step=0):
    watched = network.watch(params, x)
    return Seen(torch.tensor(step), LR, x, activations=watched.activations)


def reset(method, network, params, x, moments=None):
    """The parameters after one step's reset."""
    state = method.init(network, params)
    moments = moments or {}
    change = method.after_step(network, params, moments, state, seen(network, params, x))
    assert change.state["due"]
    change = method.renew(network, params, moments, {**state, **change.state}, Draw(1, 2))
    return {**params, **change.params}, change.moments


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.filterwarnings("ignore:no nonlinearity is seen between", "ignore:ReDo draws no units of")  # which is so
def test_redo_of_dead_units_changes_nothing(structure):
    """The residual stream is in: a dead unit there loses its outgoing weights, and that changes nothing, either."""
    make, shape, _, _ = structure
    module, x, params = prepared(make, shape)
    network = Network(module, example=x)
    for units in network.units:
        dead = torch.arange(units.size) % 3 == 0
        old = kill(units, dict(params), dead)
        new, _ = reset(ReDo(tau=0.0, every=1), network, old, x)
        assert any(not torch.equal(new[name], old[name]) for name in units.outgoing)
        torch.testing.assert_close(outputs(module, new, x), outputs(module, old, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", [None, batch_norm], ids=["none", "batch norm"])
def test_dead_units_live_again(norm):
    module, x, params = prepared(lambda: MLP((3,), 2, hidden=(6, 5), norm=norm), (3,))
    network = Network(module, example=x)
    for units in network.units:
        params = kill(units, params, torch.arange(units.size) < 3)
    new, _ = reset(ReDo(tau=0.0, every=1), network, params, x)
    before, after = (network.watch(p, x).activations for p in (params, new))
    for units in network.units:
        assert (units.activity(before).abs().sum(0) == 0).sum() >= 3
        assert (units.activity(after).abs().sum(0) == 0).sum() <= 1


@pytest.mark.filterwarnings("ignore:no nonlinearity is seen between")  # which is so in one of them
@pytest.mark.parametrize("between", [True, False])
def test_a_kernel_between_two_dead_channels_is_drawn(between):
    """One reset is enough: with a kernel of 0, the channel behind it would stay dead."""
    module, x, params = prepared(lambda: Separable(between), (2, 8, 8))
    network = Network(module, example=x)
    for units in network.units[:2]:
        params = kill(units, params, torch.arange(units.size) < 2)
    params["depth.bias"][:2] = -50.0
    new, _ = reset(ReDo(tau=0.0, every=1), network, params, x)
    torch.testing.assert_close(outputs(module, new, x), outputs(module, params, x), rtol=0, atol=1e-12)
    if between:
        assert (new["depth.weight"][:2] != 0).all()
    posts = network.watch(new, x).activations
    assert all((units.activity(posts)[:, :2] != 0).any(0).all() for units in network.units[: 1 + between])


def test_a_layer_behind_a_layer_that_was_all_dead_lives_again():
    module, x, params = prepared(lambda: MLP((3,), 2, hidden=(6, 5)), (3,))
    network = Network(module, example=x)
    for units in network.units:
        params = kill(units, params, torch.ones(units.size, dtype=torch.bool))
    new, _ = reset(ReDo(tau=0.0, every=1), network, params, x)
    assert (new["hidden.1.weight"] != 0).all()
    torch.testing.assert_close(outputs(module, new, x), outputs(module, params, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "method", [ReDo(0.1), ContinualBackprop(), SelfNormalizedResets(p=0.1, history=10)], ids=lambda m: type(m).__name__
)
def test_units_that_no_reset_changes_are_named(method):
    layers = [nn.utils.parametrizations.weight_norm(nn.Linear(*sizes)) for sizes in ((3, 5), (5, 2))]
    network = Network(nn.Sequential(layers[0], nn.ReLU(), layers[1]), example=torch.ones(4, 3))
    with pytest.warns(UserWarning, match=f"{type(method).__name__} leaves the units of 1 as they are: no weights"):
        method.init(network, network.params())
    replace(method, side_effects=True).init(network, network.params())


@pytest.mark.parametrize(
    "method", [ReDo(0.1), ContinualBackprop(), SelfNormalizedResets(p=0.1, history=10)], ids=lambda m: type(m).__name__
)
def test_units_that_are_only_cut_off_are_named(method):
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.LocalResponseNorm(3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)]
    network = Network(nn.Sequential(*layers), example=torch.ones(4, 1, 8, 8))
    with pytest.warns(UserWarning, match=f"{type(method).__name__} draws no units of 1 anew and only sets to 0"):
        method.init(network, network.params())
    replace(method, side_effects=True).init(network, network.params())


def test_behind_a_layer_norm_only_affine_and_outgoing_entries_are_reset():
    module, x, _ = prepared(lambda: MLP((3,), 2, hidden=(6,)), (3,))
    normed = LayerNorm().build(module, x)
    network = Network(normed, example=x)
    params = kill(network.units[0], network.params(), torch.arange(6) < 2)
    before = network(params, x)
    new, _ = reset(ReDo(tau=0.0, every=1), network, params, x)
    torch.testing.assert_close(network(new, x), before, rtol=0, atol=1e-12)
    assert torch.equal(new["hidden.0.weight"], params["hidden.0.weight"])
    assert new["hidden.0.norm.bias"][:2].tolist() == [0.0, 0.0]
    assert (new["output.weight"][:, :2] == 0).all()
    assert (network.units[0].activity(network.watch(new, x).activations)[:, :2] > 0).any()
    moved, _ = reset(ReDo(tau=0.0, every=1, side_effects=True), network, params, x)
    assert not torch.equal(moved["hidden.0.weight"][:2], params["hidden.0.weight"][:2])
    assert torch.equal(moved["hidden.0.weight"][2:], params["hidden.0.weight"][2:])
    assert not torch.allclose(network(moved, x), before)  # announced


def test_moments_of_exactly_the_reset_entries_are_cleared():
    module, x, params = prepared(lambda: MLP((3,), 2, hidden=(4,)), (3,))
    network = Network(module, example=x)
    params = kill(network.units[0], params, torch.tensor([False, True, False, False]))
    ones = {name: torch.ones_like(p) for name, p in params.items()}
    moments = {"exp_avg": ones, "exp_avg_sq": {n: 2 * one for n, one in ones.items()}, "step": {"": torch.tensor(7.0)}}
    _, new = reset(ReDo(tau=0.0, every=1), network, params, x, moments)
    assert set(new) == {"exp_avg", "exp_avg_sq"}
    assert new["exp_avg"]["hidden.0.weight"].tolist() == [[1.0] * 3, [0.0] * 3, [1.0] * 3, [1.0] * 3]
    assert new["exp_avg_sq"]["hidden.0.bias"].tolist() == [2.0, 0.0, 2.0, 2.0]
    assert new["exp_avg"]["output.weight"].tolist() == [[1.0, 0.0, 1.0, 1.0]] * 2
    assert "output.bias" not in new["exp_avg"]


def test_fresh_rows_come_from_the_layers_own_distribution():
    """Not from one with a ReLU gain, 2.45 times as wide: the draws are uniform on the layer's own interval."""
    stats = pytest.importorskip("scipy.stats")
    network = Network(MLP((100,), 2, hidden=(120,)), example=torch.ones(2, 100))
    params = {name: torch.zeros_like(p) for name, p in network.params().items()}
    new, _ = reset(ReDo(tau=0.0, every=1), network, params, torch.ones(2, 100))
    bound = 1 / 100**0.5
    sample = new["hidden.0.weight"].flatten().double().numpy()
    assert stats.kstest(sample, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert stats.kstest(sample, stats.uniform(-2.45 * bound, 4.9 * bound).cdf).pvalue < 1e-9


def test_continual_backprop_replaces_the_least_useful_unit_and_its_mean_lives_on():
    network = Network(nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)), example=torch.ones(2, 1))
    params = {
        "0.weight": torch.zeros(3, 1),
        "0.bias": torch.tensor([1.0, 2.0, 3.0]),  # constant units
        "2.weight": torch.tensor([[5.0, 1.0, 4.0]]),
        "2.bias": torch.tensor([0.5]),
    }
    method = ContinualBackprop(rho=0.34, eta=0.5, maturity=0)
    x = torch.ones(4, 1)
    before = network(params, x)
    new, _ = reset(method, network, params, x)
    assert new["2.weight"].tolist() == [[5.0, 0.0, 4.0]]  # utilities 5, 2, 12
    assert new["2.bias"].item() == pytest.approx(0.5 + 2.0 * 1.0)
    assert torch.equal(network(new, x), before)  # what it gave on average, the bias gives now
    assert new["0.bias"].tolist() == [1.0, 0.0, 3.0]


def test_fractions_of_units_add_up():
    network = Network(MLP((2,), 2, hidden=(10,)), example=torch.ones(2, 2))
    members = [Member(0, Adam(), Chain(ContinualBackprop(rho=0.02, eta=0.9, maturity=5)))]
    population = Population(network, F.mse_loss, members)
    state = population.init()
    ages = []
    for _ in range(40):
        population.step(state, torch.ones(1, 4, 2), torch.zeros(1, 4, 2))
        ages.append(state.interventions[0]["age"][0].clone())
    replaced = sum(int((new == 0).sum()) for new in ages)
    mature = sum(int((a + 1 > 5).sum()) for a in [torch.zeros(10), *ages[:-1]])
    assert replaced == int(0.02 * mature + 1e-6)
    assert replaced >= 5


@pytest.mark.parametrize("make", [lambda: ReDo(0.1), ContinualBackprop], ids=["ReDo", "ContinualBackprop"])
def test_a_network_without_hidden_units_is_refused(make):
    method = make()
    network = Network(nn.Linear(2, 1), example=torch.ones(1, 2))
    with pytest.raises(ValueError, match=f"{type(method).__name__} found no hidden units in Linear"):
        method.init(network, network.params())
    with pytest.raises(ValueError, match=r"write Network\(module, example=x\)"):
        method.init(Network(nn.Linear(2, 1)), network.params())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ReDo(tau=-0.1), "tau of ReDo to be at least 0 and finite, got -0.1"),
        (lambda: ReDo(0.1, every=0), "every of ReDo to be at least 1 step, got 0"),
        (lambda: ReDo(0.1, incoming="he"), "incoming of ReDo to be 'initial' or 'xavier', got 'he'"),
        (lambda: ReDo(0.1, moments="drop"), "moments of ReDo to be 'clear' or 'keep', got 'drop'"),
        (lambda: ContinualBackprop(rho=1.5), r"rho of ContinualBackprop to be in \[0, 1\], got 1.5"),
        (lambda: ContinualBackprop(eta=1.0), r"eta of ContinualBackprop to be in \[0, 1\), got 1.0"),
        (lambda: ContinualBackprop(maturity=-1), "maturity of ContinualBackprop to be at least 0 steps, got -1"),
        (lambda: Scheduled(L2(0.1), every=2), "every of Scheduled to be 1, got 2: L2 does nothing after a step"),
        (lambda: Scheduled(ReDo(0.1), warmup=2), "warmup of Scheduled to be 0, got 2: ReDo is no penalty"),
        (lambda: Scheduled(L2(0.1), start=3, stop=3), "stop of Scheduled to be after start=3, got 3"),
        (lambda: Scheduled(L2(0.1), start=-1), "start of Scheduled to be at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


# -- wrappers ----------------------------------------------------------------------------------------------------------


def train(chain, steps=10, seeds=(0,), events=()):
    module = chain.build(MLP((3,), 2, hidden=(4, 4)), torch.ones(2, 3))
    population = Population(
        Network(module, example=torch.ones(2, 3)), F.mse_loss, [Member(s, SGD(lr=0.1), chain) for s in seeds]
    )
    state = population.init()
    for step in range(steps):
        for event in events if step == 5 else ():
            population.fire(state, event)
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(1, 8, 3, generator=generator).expand(len(seeds), 8, 3)
        population.step(state, x, x[..., :2])
    return state


def test_only_touches_what_matches():
    plain, part = train(Chain(), 1), train(Chain(Only("hidden.1.*", L2(0.1))), 1)
    changed = [name for name in plain.params if not torch.equal(plain.params[name], part.params[name])]
    assert changed == ["hidden.1.weight", "hidden.1.bias"]
    state = train(Chain(Only("hidden.0.*", WeightNormRescale())))
    norms = {name: p[0].norm() / state.initial[name][0].norm() for name, p in state.params.items() if "weight" in name}
    assert norms["hidden.0.weight"] == pytest.approx(1.0, abs=1e-6)
    assert norms["output.weight"] != pytest.approx(1.0, abs=1e-3)
    built = Chain(Only("hidden.0", LayerNorm())).build(MLP((3,), 2, hidden=(4, 4)), torch.ones(2, 3))
    assert [name for name, _ in built.named_parameters() if "norm" in name] == [
        "hidden.0.norm.weight",
        "hidden.0.norm.bias",
    ]


def test_only_restricts_resets_to_the_units_of_a_layer():
    module, x, params = prepared(lambda: MLP((3,), 2, hidden=(6, 5)), (3,))
    network = Network(module, example=x)
    for units in network.units:
        params = kill(units, params, torch.arange(units.size) < 2)
    new, _ = reset(Only("hidden.1.*", ReDo(tau=0.0, every=1)), network, params, x)
    changed = {name for name in params if not torch.equal(new[name], params[name])}
    assert changed == {"hidden.1.weight", "hidden.1.bias", "output.weight"}


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"a pattern that matches some of hidden.0.weight, .*, got 'head.\*'"):
        train(Chain(Only("head.*", L2(0.1))))


def test_scheduled_penalties_and_resets_keep_to_their_window():
    whole, early = train(Chain(), 3), train(Chain(Scheduled(L2(0.1), start=3)), 3)
    assert all(torch.equal(whole.params[name], p) for name, p in early.params.items())
    late = train(Chain(Scheduled(L2(0.1), start=3)), 4)
    assert not torch.equal(late.params["output.weight"], train(Chain(), 4).params["output.weight"])
    method = Scheduled(ReDo(tau=0.1, every=1), every=3, start=2, stop=9)
    assert [step for step in range(12) if method.active(step)] == [4, 7]
    out = Scheduled(ShrinkAndPerturb(0.5, 0.0), stop=5)
    calm, hit = train(Chain(), 6, events=["task_switch"]), train(Chain(out), 6, events=["task_switch"])
    assert torch.equal(calm.params["output.weight"], hit.params["output.weight"])


def test_a_penalty_warms_up_in_a_compiled_or_stacked_population():
    one, many = (train(Chain(Scheduled(L2(0.1), warmup=8)), 6, seeds=s) for s in ((0,), (0, 1, 2)))
    torch.testing.assert_close(one.params["output.weight"][0], many.params["output.weight"][0])


def test_members_may_differ_inside_a_wrapper():
    chains = [Chain(Only("output.*", Scheduled(L2(strength)))) for strength in (0.0, 0.5, 0.7)]
    network = Network(MLP((3,), 2, hidden=(4,)))
    population = Population(network, F.mse_loss, [Member(0, SGD(lr=0.1), chain) for chain in chains])
    state = population.init()
    population.step(state, torch.ones(3, 4, 3), torch.zeros(3, 4, 2))
    assert not torch.equal(state.params["output.weight"][0], state.params["output.weight"][1])
    assert torch.equal(state.params["hidden.0.weight"][0], state.params["hidden.0.weight"][1])


def test_periods_are_shared_by_a_population():
    chains = [Chain(ReDo(tau=0.1, every=every)) for every in (2, 3)]
    network = Network(MLP((3,), 2, hidden=(4,)), example=torch.ones(2, 3))
    with pytest.raises(ValueError, match="share counts and periods, got every=2 and others of ReDo"):
        Population(network, F.mse_loss, [Member(0, SGD(lr=0.1), chain) for chain in chains])


@pytest.mark.parametrize("members", [1, 2])
def test_moments_of_whole_axes_cannot_be_cleared_by_the_entry(members):
    network = Network(MLP(4, 3, hidden=(6,)), example=torch.zeros(1, 4))
    x, y = torch.randn(members, 8, 4), torch.randint(3, (members, 8))

    def steps(moments):
        chain = Chain(ReDo(tau=0.9, every=1, moments=moments))
        population = Population(network, F.cross_entropy, [Member(m, Shampoo(1e-2), chain) for m in range(members)])
        state = population.init()
        for _ in range(2):
            population.step(state, x, y)

    with pytest.raises(ValueError, match=r"one of second_moments for every entry of \S+, got .* write moments='keep'"):
        steps("clear")
    steps("keep")
