"""Dead and linearized units drawn anew: the function stays where it should, and exactly the stated entries change."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.causes import Preactivations, Repaired, Units
from pliant.causes.repairs import axes
from pliant.functional import units as functional
from pliant.interventions import Draw
from pliant.interventions._recycling import recycle
from pliant.nets import MLP
from pliant.network import Network
from pliant.optim import Adam
from pliant.units import Entries
from tests.probe.setting import assert_same
from tests.test_units import STRUCTURES, kill, outputs

SEED = Draw(11, 0)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def setting(module, x, aged=None):
    """A network, and parameters with a full optimizer state."""
    network = Network(module, example=x[:4])
    params = aged or network.params()
    moments = Adam().init(params)
    for i, kind in enumerate(("exp_avg", "exp_avg_sq")):
        moments[kind] = {name: randn(*p.shape, seed=i).abs().to(p) + 1 for name, p in params.items()}
    moments["step"][""].fill_(40)
    return network, Repaired(params, moments)


def built(make, shape, size=200):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make().double()
    return module, randn(size, *shape)


def changed(before, after):
    """Which entries of which parameters are others now."""
    masks = {name: after[name] != p for name, p in before.items()}
    return {name: mask for name, mask in masks.items() if mask.any()}


def dead_share(network, params, x):
    return float(torch.cat([functional.dead(site.slope) for site in network.trace(params, x).sites.values()])
                 .double().mean())  # fmt: skip


# -- units -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "structure",
    [pytest.param(s, id=name) for name, s in STRUCTURES.items()],
)
@pytest.mark.filterwarnings("ignore:no nonlinearity is seen between")  # which is so
def test_dead_units_are_drawn_anew_and_the_function_stays(structure):
    make, shape, _, _ = structure
    module, x = built(make, shape)
    network = Network(module, example=x[:4])
    params = network.params()
    for group in network.units:
        params = kill(group, params, torch.arange(group.size) % 3 == 0)
    before = Repaired(params, {})
    kept = copy.deepcopy(before)
    after = Units(tolerance=-1.0).repair(network, before, x, SEED)  # no unit is linearized
    assert changed(params, after.params)
    torch.testing.assert_close(outputs(module, after.params, x), outputs(module, params, x), rtol=0, atol=1e-11)
    assert_same(tuple(before), tuple(kept))
    redrawn = [group for group in network.units if group.exact and not group.shared_statistics]
    trace = network.trace(after.params, x, {site: axis for group in redrawn for site, axis in group.sites})
    for group in redrawn:
        slopes = torch.cat([trace.sites[name].slope for name, _ in group.sites])
        killed = torch.arange(group.size) % 3 == 0
        assert not functional.dead(slopes)[killed].all()


def test_exactly_the_entries_of_dead_units_change():
    module, x = built(lambda: MLP((3,), 2, hidden=(4, 5)), (3,))
    network, now = setting(module, x)
    first, second = network.units
    params = {name: p + (1 if name.endswith("bias") else 0) for name, p in now.params.items()}
    params = kill(first, params, torch.tensor([True, False, False, True]))
    params = kill(second, params, torch.tensor([False, False, True, False, False]))
    assert [
        functional.dead(site.slope).nonzero().flatten().tolist() for site in network.trace(params, x).sites.values()
    ] == [[0, 3], [2]]
    after = Units(tolerance=-1.0).repair(network, Repaired(params, now.moments), x, SEED)
    (w1, b1), (w2, b2), (w3, _) = ([n for n in network.names if n.startswith(layer)] for layer in _layers(network))
    expected = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in params.items()}
    expected[w1][[0, 3]] = expected[b1][[0, 3]] = True
    expected[w2][:, [0, 3]] = expected[w2][2] = expected[b2][2] = True
    expected[w3][:, 2] = True
    assert_same(changed(params, after.params), {name: mask for name, mask in expected.items() if mask.any()})
    assert (after.params[w2][[0, 1, 3, 4]][:, [0, 3]] == 0).all()
    assert (after.params[w2][2] != 0).all()  # a new unit reads new units
    assert (after.params[w3][:, 2] == 0).all()
    assert (after.params[b1][[0, 3]] == 0).all()
    for kind in ("exp_avg", "exp_avg_sq"):
        cleared = {name: torch.where(mask, 0.0, now.moments[kind][name]) for name, mask in expected.items()}
        assert_same(after.moments[kind], cleared)
    assert float(after.moments["step"][""]) == 40


def _layers(network):
    return list(dict.fromkeys(name.rpartition(".")[0] for name in network.names))


def test_a_dead_unit_that_says_something_is_taken_over_by_the_biases():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = randn(100, 3)
    network, now = setting(module, x)
    params = now.params | {"0.bias": torch.tensor([50.0, 0, -50, 0]).double()}  # tanh is 1 and -1
    after = Units(tolerance=-1.0).repair(network, Repaired(params, {}), x, SEED)
    torch.testing.assert_close(network(after.params, x), network(params, x), rtol=0, atol=1e-12)
    shift = params["2.weight"][:, 0] - params["2.weight"][:, 2]
    torch.testing.assert_close(after.params["2.bias"], params["2.bias"] + shift, rtol=0, atol=1e-12)
    assert (after.params["2.weight"][:, [0, 2]] == 0).all()
    assert dead_share(network, after.params, x) == 0 < dead_share(network, params, x)


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("kind", ["linear", "flatten", "hidden"])
def test_a_linearized_unit_that_others_make_up_is_folded_into_them(kind, dtype, exact):
    """relu(2 a + 20) = 2 relu(a) - 2 relu(-a) + 20 where a > -10."""
    if kind == "linear":
        module, x = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2)), torch.linspace(-3, 3, 100)[:, None]
    elif kind == "hidden":
        module = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        x = torch.linspace(-3, 3, 100)[:, None]
    else:
        module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
        x = randn(50, 1, 2, 2).clamp(-3, 3)
    module, x = module.to(dtype), x.to(dtype)
    network, now = setting(module, x)
    weight = torch.tensor([1.0, -1.0, 2.0], dtype=dtype).reshape(now.params["0.weight"].shape)
    params = now.params | {"0.weight": weight, "0.bias": torch.tensor([0.0, 0.0, 20.0], dtype=dtype)}
    reader = "3.weight" if kind == "flatten" else "2.weight"
    trace = network.trace(params, x)
    assert Units().evidence(network, now, x, trace, params)["linearized"] > 0
    after = Units().repair(network, Repaired(params, now.moments), x, SEED)
    torch.testing.assert_close(network(after.params, x), network(params, x), rtol=exact, atol=exact)
    read = after.params[reader].unflatten(1, (3, -1))
    old = params[reader].unflatten(1, (3, -1))
    assert (read[:, 2] == 0).all()
    torch.testing.assert_close(read[:, 0], old[:, 0] + 2 * old[:, 2], rtol=exact, atol=20 * exact)
    torch.testing.assert_close(read[:, 1], old[:, 1] - 2 * old[:, 2], rtol=exact, atol=20 * exact)
    assert after.params["0.weight"].flatten()[2] != 2
    assert after.params["0.bias"][2] == 0


def test_folding_is_the_best_that_least_squares_can_do():
    module, x = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double(), randn(300, 3)
    network, now = setting(module, x)
    params = now.params | {"0.bias": torch.tensor([9.0, 0, 0, 0, 0, 0]).double()}
    h = F.relu(x @ params["0.weight"].T + params["0.bias"])
    basis = torch.cat([h[:, 1:], torch.ones(300, 1).double()], 1)
    fit = basis @ torch.linalg.pinv(basis) @ h[:, :1]
    assert Units().repair(network, Repaired(params, {}), x, SEED).params is params  # it would move the function
    after = Units(moved=math.inf).repair(network, Repaired(params, {}), x, SEED)
    expected = (fit - h[:, :1]) * params["2.weight"][:, 0]
    torch.testing.assert_close(network(after.params, x) - network(params, x), expected, rtol=0, atol=1e-9)
    assert expected.abs().max() > 1e-3


def test_units_that_no_sample_reaches_are_left_alone():
    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.output = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(9, 2)

        def forward(self, x):
            large = (x[:, 0] > 0).nonzero()[:, 0]
            there = torch.zeros(len(x), 5, dtype=x.dtype).index_add(0, large, torch.relu(self.second(x[large])))
            return self.output(torch.cat([torch.relu(self.first(x)), there], 1))

    module, x = built(Expert, (3,))
    network, now = setting(module, x)
    with pytest.warns(UserWarning, match=r"no sample of this batch reaches"):
        after = Units().repair(network, now, -x.abs(), SEED).params
    assert torch.equal(after["second.weight"], now.params["second.weight"])


def test_all_units_dead_leaves_a_network_that_learns():
    module, x = built(lambda: MLP((3,), 2, hidden=(6, 6, 6)), (3,))
    network, now = setting(module, x)
    params = dict(now.params)
    for group in network.units:
        params = kill(group, params, torch.ones(group.size, dtype=torch.bool))
    everything = {group.name: torch.ones(group.size, dtype=torch.bool) for group in network.units}
    apart = params | recycle(network, everything, params, {}, SEED).params
    joined = Units().repair(network, Repaired(params, {}), x, SEED).params
    y = randn(200, 2, seed=5)
    torch.testing.assert_close(network(joined, x), network(params, x), rtol=0, atol=1e-12)

    def learned(params):
        """Which weight matrices a few steps of gradient descent move."""
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        for _ in range(3):
            grads = torch.autograd.grad(F.mse_loss(network(leaves, x), y), leaves.values())
            leaves = {
                n: (p - 0.1 * g).detach().requires_grad_() for (n, p), g in zip(leaves.items(), grads, strict=True)
            }
        return [name for name in network.weights if not torch.equal(leaves[name], params[name])]

    assert learned(joined) == list(network.weights)
    assert learned(apart) == list(network.weights)  # a layer that reads new units alone is drawn, too


def test_with_nothing_to_repair_units_give_back_what_they_got():
    module, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double(), 3 * randn(500, 3)
    network, now = setting(module, x)
    assert Units().repair(network, now, x, SEED) is now
    assert Units().evidence(network, now, x, network.trace(now.params, x), now.params) == {"dead": 0, "linearized": 0}


def test_units_behind_a_layer_norm_keep_their_incoming_weights():
    module = nn.Sequential(nn.Linear(9, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = randn(100, 9)
    network, now = setting(module, x)
    params = dict(now.params)
    params["1.bias"] = torch.tensor([-50.0, 0, 0, 0, 0, 0]).double()
    after = Units().repair(network, Repaired(params, {}), x, SEED).params
    torch.testing.assert_close(network(after, x), network(params, x), rtol=0, atol=1e-12)
    assert set(changed(params, after)) == {"1.bias", "3.weight"}
    assert after["1.bias"][0] == 0
    assert dead_share(network, after, x) == 0


LAYOUTS = {
    "rows": (torch.arange(3)[:, None].expand(3, 4), 3),
    "columns": (torch.arange(3).expand(4, 3), 3),
    "kernels": (torch.arange(3)[None, :, None, None].expand(2, 3, 2, 2), 3),
    "flattened": (torch.arange(3).repeat_interleave(4).expand(2, 12), 3),
    "flattened, channels last": (torch.arange(3).repeat(4).expand(2, 12), 3),
}


@pytest.mark.parametrize(("codes", "size"), LAYOUTS.values(), ids=LAYOUTS)
def test_entries_mix_with_those_at_the_same_place_of_other_units(codes, size):
    entries, values, weights = Entries(codes, size), randn(*codes.shape), randn(size, size, seed=1)
    found = entries.mixed(values, weights)
    expected = torch.zeros(codes.numel()).double()
    flat, owners = values.flatten(), codes.flatten().tolist()
    places = [
        [i for i, owner in enumerate(owners) if owner == unit] for unit in range(size)
    ]  # in order, place by place
    for k in range(size):
        for n, i in enumerate(places[k]):
            expected[i] = sum(weights[k, m] * flat[places[m][n]] for m in range(size))
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(entries.mixed(values, torch.eye(size).double()), values, rtol=0, atol=0)


def test_entries_that_do_not_lie_alike_do_not_mix():
    assert Entries(torch.tensor([0, 0, 1]), 2).mixed(torch.ones(3), torch.eye(2)) is None
    assert Entries(torch.tensor([0, 1, 1, 0]), 2).mixed(torch.ones(4), torch.eye(2)) is None


class Routed(nn.Module):
    """Two experts, of which the second is never chosen."""

    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(4, 6), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(2))

    def forward(self, x):
        h = torch.tanh(self.inp(x))
        chosen = torch.zeros(len(x), dtype=torch.long)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero()[:, 0]
            h = h.index_add(0, rows, expert(h[rows]))
        return self.out(h)


@pytest.mark.filterwarnings("ignore:no weights feed|no sample of this batch|no nonlinearity is seen")
def test_an_expert_without_samples_has_nothing_to_repair():
    torch.manual_seed(0)
    model, x = Routed().double(), torch.randn(30, 4, dtype=torch.float64)
    with torch.no_grad():
        model.experts[0][0].weight[:2], model.experts[0][0].bias[:2] = 0.0, -1.0
    network = Network(model, example=x)
    before = Repaired(network.params(), {})
    trace = network.trace(before.params, x, axes(network))
    evidence = Units().evidence(network, before, x, trace, before.params)
    silent = int((trace.sites["experts.0.1"].post == 0).all(0).sum())
    assert silent >= 2
    assert evidence["dead"] == pytest.approx(silent / (6 + 5))  # of what some sample reaches
    after = Units().repair(network, before, x, Draw(0, 0))
    changed = {name for name, p in after.params.items() if not torch.equal(p, before.params[name])}
    assert changed <= {"experts.0.0.weight", "experts.0.0.bias", "experts.0.2.weight", "experts.0.2.bias"}
    assert changed


# -- preactivations ----------------------------------------------------------------------------------------------------


def test_shifted_preactivations_are_centred_and_what_reads_them_gets_the_same_mean():
    module, x = built(lambda: MLP((3,), 2, hidden=(20, 20)), (3,))
    network, now = setting(module, x)
    shift = torch.linspace(4, 7, 20).double()
    shift[1] = 0
    params = now.params | {n: p + shift for n, p in now.params.items() if n.startswith("hidden") and p.ndim == 1}
    params["hidden.0.bias"][0] = -90  # dead: it is left to `Units`
    before = Repaired(params, now.moments)
    after = Preactivations().repair(network, before, x, SEED)
    assert set(changed(params, after.params)) == {"hidden.0.bias", "hidden.1.bias", "output.bias"}
    assert after.params["hidden.0.bias"][0] == -90
    assert after.params["hidden.0.bias"][1] == params["hidden.0.bias"][1], "it has not drifted"
    assert after.moments is before.moments
    for site in network.trace(after.params, x).sites.values():
        assert site.pre.mean(0)[2:].abs().max() < 1e-10
    assert (network(params, x).mean(0) - network(after.params, x).mean(0)).abs().max() < 1e-10
    found = [Preactivations().evidence(network, r, x, network.trace(r.params, x, axes(network)), SEED.fresh(network))
             for r in (before, after)]  # fmt: skip
    assert found[0]["mean_over_deviation"] > 2 * found[0]["of_a_fresh_network"]


def test_preactivations_behind_a_normaliser_are_its_offsets():
    module = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)).double()
    network, before = setting(module, randn(50, 3))
    assert Preactivations().repair(network, before, randn(50, 3), SEED) is before
