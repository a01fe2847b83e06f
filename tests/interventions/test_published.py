"""Where published code differs from ours: both forms, written out on a small case."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from pliant.heads import HLGauss
from pliant.interventions import ContinualBackprop, Draw, L2Init, ReDo, Seen
from pliant.interventions.contrib import CChain, ProximalFeatures, SelfNormalizedResets
from pliant.network import Network

LR = torch.tensor(0.1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_layers(units=3, norm=False):
    layers = [nn.Linear(2, units), *([nn.LayerNorm(units)] if norm else []), nn.ReLU(), nn.Linear(units, 2)]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(normal(*p.shape, seed=i))
    return net


def at(step, network, params, x):
    watched = network.watch(params, x)
    return Seen(torch.tensor(step), LR, x, watched.output, watched.features, watched.activations)


# -- self-normalized resets --------------------------------------------------------------------------------------------


def share_of_gaps_reset(p, history, steps, units=1000, firing=0.05):
    """Of the times between firings of units that fire independently of the past, how many end in a reset."""
    network = Network(nn.Sequential(nn.Linear(1, units), nn.ReLU(), nn.Linear(units, 1)), example=torch.ones(1, 1))
    params = network.params()
    method = SelfNormalizedResets(p, history)
    state, generator = method.init(network, params), torch.Generator().manual_seed(0)
    gaps = resets = 0
    for step in range(steps):
        fires = torch.rand(1, units, generator=generator) < firing
        ready = state["count"]["1"] >= history
        seen = Seen(torch.tensor(step), LR, None, activations={"1": fires.float()})
        state = {**state, **method.after_step(network, params, {}, state, seen).state}
        resets += int(state["units"]["1"].sum())
        gaps += int((fires & ready).sum())
        if state["due"]:
            state |= method.renew(network, params, {}, state, Draw(0, step)).state
    return resets / (gaps + resets)


def test_what_p_buys():
    """Twice as many resets at the shortest history, about as many as it says at a long one."""
    assert share_of_gaps_reset(p=0.05, history=20, steps=700) == pytest.approx(2 / 21, abs=0.01)
    assert share_of_gaps_reset(p=0.05, history=100, steps=4000, units=50) == pytest.approx(6 / 101, abs=0.008)


@pytest.mark.parametrize(("p", "history"), [(0.01, 10), (0.01, 99), (0.3, 3), (0.5, 2.5)])
def test_a_history_in_which_p_is_no_quantile_is_refused(p, history):
    with pytest.raises(ValueError, match="history of SelfNormalizedResets to be a whole number of at least 1 / p = "):
        SelfNormalizedResets(p, history)


@pytest.mark.parametrize(("p", "history"), [(0.01, 100), (1 / 3, 3), (0.05, 20), (0.3, 4), (0.1, 10), (0.07, 15)])
def test_a_history_of_one_over_p_is_enough(p, history):
    rank = math.ceil(round((1 - p) * history, 9))
    assert rank < SelfNormalizedResets(p, history).history  # below the largest of them


# -- penalties ---------------------------------------------------------------------------------------------------------


def test_l2_init_may_skip_normalisers_as_its_agents_do():
    network = Network(two_layers(norm=True))
    start, now = network.params(), {name: 1.5 * p for name, p in network.params().items()}

    def penalty(method):
        return method.penalty(network, now, method.init(network, start), Seen(torch.tensor(0), LR, None)).item()

    squares = {name: sum(v * v for v in (p - start[name]).flatten().tolist()) for name, p in now.items()}
    without = sum(squares[name] for name in squares if not name.startswith("1."))
    assert penalty(L2Init(0.1)) == pytest.approx(0.1 * sum(squares.values()), rel=1e-12)
    assert penalty(L2Init(0.1, normalisers=False)) == pytest.approx(0.1 * without, rel=1e-12)


def test_churn_is_the_published_mean_times_the_number_of_outputs():
    """Its history ends with the latest network, which two from the end is one step before."""
    x, net = normal(5, 2, seed=9), two_layers()
    network = Network(net, example=x)
    method, params = CChain(0.5, lag=1), network.params()
    state, history = method.init(network, params), [params]
    for step in range(3):
        seen = at(step, network, params, x)
        params = {name: p + 0.1 * normal(*p.shape, seed=20 + step) for name, p in params.items()}
        state = {**state, **method.after_step(network, params, {}, state, seen).state}
        history.append(params)
    before = history[-2]
    moved = [(network(params, row[None]) - network(before, row[None])).flatten().tolist() for row in x]
    published = 0.5 * sum(sum(d * d for d in row) / len(row) for row in moved) / len(moved)
    ours = method.penalty(network, params, state, at(3, network, params, x))
    assert ours.item() == pytest.approx(2 * published, rel=1e-12)


def test_proximal_features_is_the_published_mean_times_the_number_of_features():
    x, network = normal(5, 2, seed=9), Network(two_layers(units=3))
    old, now = network.params(), {name: p + 0.1 for name, p in network.params().items()}
    method = ProximalFeatures(0.5, event="iteration")
    first = [x @ params["0.weight"].T + params["0.bias"] for params in (now, old)]
    squares = [(a - b) ** 2 for a, b in zip(*(f.flatten().tolist() for f in first), strict=True)]
    published = 0.5 * sum(squares) / len(squares)
    ours = method.penalty(network, now, method.init(network, old), at(0, network, now, x))
    assert ours.item() == pytest.approx(3 * published, rel=1e-12)


# -- resets of units ---------------------------------------------------------------------------------------------------


def test_redo_clears_the_moments_of_biases_which_the_published_code_keeps():
    net = two_layers()
    with torch.no_grad():
        net[0].bias[1] = -1000.0  # dead
    x = normal(6, 2, seed=9)
    network = Network(net, example=x)
    params = network.params()
    moments = {"exp_avg": {name: torch.ones_like(p) for name, p in params.items()}}
    method = ReDo(tau=0.0, every=1)
    state = {
        **method.init(network, params),
        **method.after_step(network, params, moments, {}, at(0, network, params, x)).state,
    }
    change = method.renew(network, params, moments, state, Draw(0, 0))
    assert change.params["0.bias"].tolist() == [params["0.bias"][0], 0.0, params["0.bias"][2]]
    published = {name: m.clone() for name, m in moments["exp_avg"].items()}
    published["0.weight"][1], published["2.weight"][:, 1] = 0.0, 0.0
    ours = {**moments["exp_avg"], **change.moments["exp_avg"]}
    assert {name for name in ours if not torch.equal(ours[name], published[name])} == {"0.bias"}
    assert ours["0.bias"].tolist() == [1.0, 0.0, 1.0]


def test_continual_backprop_compensates_which_the_published_code_undoes_first():
    """The one unit that is replaced: its mean times its outgoing weights goes to the biases; there, 0 times these."""
    x, eta = normal(6, 2, seed=9), 0.5
    network = Network(two_layers(), example=x)
    params = network.params()
    method = ContinualBackprop(rho=0.5, eta=eta, maturity=0)
    state = {**method.init(network, params), "collected": torch.tensor([0.0], dtype=torch.float64)}
    mean, averages = [0.0] * 3, []
    for step in range(2):
        seen = at(step, network, params, x)
        state = {**state, **method.after_step(network, params, {}, state, seen).state}
        for u, unit in enumerate(seen.activations["1"].T.tolist()):
            mean[u] = eta * mean[u] + (1 - eta) * sum(unit) / len(unit)
        averages.append([m / (1 - eta ** (step + 1)) for m in mean])
    assert state["due"]
    change = method.renew(network, params, {}, state, Draw(0, 1))
    gone = [u for u in range(3) if (change.params["2.weight"][:, u] == 0).all()]
    assert gone
    old, w = params["2.bias"].tolist(), params["2.weight"].tolist()
    mended = [b + sum(row[u] * averages[-1][u] for u in gone) for b, row in zip(old, w, strict=True)]
    published = [b + sum(row[u] * 0.0 for u in gone) for b, row in zip(old, w, strict=True)]
    assert change.params["2.bias"].tolist() == pytest.approx(mended, rel=1e-14)
    assert published == old != change.params["2.bias"].tolist()


# -- heads -------------------------------------------------------------------------------------------------------------


def published_hl_gauss(y, low, high, bins, sigma):
    width = (high - low) / bins
    edges = [low + i * width for i in range(bins + 1)]
    at_edges = [math.erf((edge - y) / (math.sqrt(2) * sigma * width)) for edge in edges]
    total = at_edges[-1] - at_edges[0]
    return [(b - a) / total if total else math.nan for a, b in pairwise(at_edges)]


@pytest.mark.parametrize("y", [0.0, 2.5, 3.9, 4.0])
def test_hl_gauss_is_the_published_one_within_the_support(y):
    ours = HLGauss(0.0, 4.0, 4).encode(torch.tensor(y, dtype=torch.float64))
    assert ours.tolist() == pytest.approx(published_hl_gauss(y, 0.0, 4.0, 4, 0.75), abs=1e-12)


def test_hl_gauss_moves_numbers_outside_to_the_end_which_the_published_code_does_not():
    head = HLGauss(0.0, 4.0, 4)
    ours = head.encode(torch.tensor([4.0, 5.0, 30.0], dtype=torch.float64))
    assert torch.equal(ours[1], ours[0])
    assert torch.equal(ours[2], ours[0])
    assert published_hl_gauss(5.0, 0.0, 4.0, 4, 0.75)[-1] > ours[1, -1] + 0.02
    assert all(map(math.isnan, published_hl_gauss(30.0, 0.0, 4.0, 4, 0.75)))
