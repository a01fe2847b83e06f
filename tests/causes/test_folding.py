"""The units repair leaves the function as it was, whatever reads the units, and still takes out what can be."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.causes import Norm, Repaired, Units, disentangle
from pliant.causes.folding import _Mixture, moved
from pliant.causes.repairs import axes
from pliant.functional import units as functional
from pliant.interventions import Draw
from pliant.nets import MLP, ViT
from pliant.network import Network
from pliant.optim import Adam
from pliant.probe import FreshLabels
from tests.test_units import NatureCNN, Residual

MOVED = 1e-4
ALONE = "linearized left alone (others do not make them up)"
BOUND = "linearized left alone (what reads them cannot take them over)"
DEAD = "dead left alone (what reads them cannot take them over)"


class Gated(nn.Module):
    """A block of a language model: a residual stream, and a perceptron with a gate."""

    def __init__(self, activation=F.silu, bias=True):
        super().__init__()
        self.first, self.head, self.activation = nn.Linear(4, 6), nn.Linear(6, 2), activation
        self.gate, self.value, self.out = nn.Linear(6, 24), nn.Linear(6, 24), nn.Linear(24, 6, bias=bias)

    def forward(self, x):
        x = self.first(x)
        return self.head(x + self.out(self.activation(self.gate(x)) * self.value(x)))


class ResidualCNN(nn.Module):
    def __init__(self, padding=0):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 2)
        self.inner, self.back = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 4, 1 + 2 * padding, padding=padding)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.back(F.relu(self.inner(x)))).flatten(1))


def cnn(padding=0, pool=None):
    layers = [nn.Conv2d(1, 16, 3, padding=padding), nn.ReLU(), pool or nn.Identity(), nn.Conv2d(16, 4, 3, 2), nn.ReLU()]
    if padding:
        layers[3] = nn.Conv2d(16, 4, 3, 2, padding=1)
    size = nn.Sequential(*layers)(torch.zeros(1, 1, 8, 8)).numel()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, 2))


def vit():
    return ViT((1, 6, 6), 2, features=8, ff=24, depth=1, heads=2, activation=nn.ReLU)


# What is always active is a function of the inputs: so many units of the first group make up the rest as there are of
# these, and one more for the constant where zeros pad. (module, example, active units, how many are folded, and bound)
IMAGE = (1, 8, 8)
NETS = {
    "perceptron": (lambda: MLP((4,), 2, hidden=(16, 8)), (4,), 12, 12 - 4, 0),
    "flatten": (
        lambda: nn.Sequential(nn.Conv2d(1, 16, 2), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2)),
        IMAGE,
        12,
        8,
        0,
    ),
    "convolutions": (cnn, IMAGE, 12, 12 - 9, 0),
    "zero-padded": (lambda: cnn(1), IMAGE, 12, 12 - 9 - 1, 1),
    "average-pooled": (lambda: cnn(0, nn.AvgPool2d(2)), IMAGE, 12, 12 - 9, 0),
    "max-pooled": (lambda: cnn(0, nn.MaxPool2d(2)), IMAGE, 12, 0, 12 - 9),
    "residual": (ResidualCNN, IMAGE, 9, 9 - 4, 0),
    "residual, zero-padded": (lambda: ResidualCNN(1), IMAGE, 9, 9 - 4 - 1, 1),
    "transformer": (vit, (1, 6, 6), 18, 18 - 7, 0),  # a layer norm takes one of 8 away
    "gated, SiLU": (Gated, (4,), 18, 0, 18 - 4),
    "gated, ReLU": (lambda: Gated(F.relu), (4,), 19, 0, 19 - 4 - 1),  # one is off, but rarely
}


def planted(make, shape, shift=30.0, size=200, groups=1):
    """A network and parameters where three of four units of the first groups are always active; inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make()
        x = torch.randn(size, *shape)
    network = Network(module, example=x[:4])
    params = network.params()
    for group in network.units[:groups]:
        up = torch.arange(group.size) % 4 != 0
        for name, entries in (group.normaliser or group.incoming).items():
            if name.endswith("bias"):
                params[name] = torch.where(entries.mask(up), params[name] + shift, params[name])
    return network, params, x


def redrawn(group, before, after):
    """How many units have other incoming weights now."""
    changed = torch.zeros(group.size, dtype=torch.bool)
    for name, entries in group.incoming.items():
        changed |= entries.sums((before[name] != after[name]).float()) > 0
    return int(changed.sum())


def evidence(network, params, x, units=None):
    return (units or Units()).evidence(
        network, Repaired(params, {}), x, network.trace(params, x, axes(network)), params
    )


def linearized(network, params, x, group):
    site = network.trace(params, x, axes(network)).sites[group.name]
    return int(functional.linearized(*site).sum())


@pytest.mark.parametrize(("make", "shape", "active", "folded", "bound"), NETS.values(), ids=NETS)
def test_the_function_stays_and_what_can_be_folded_is(make, shape, active, folded, bound):
    network, params, x = planted(make, shape)
    first = network.units[0]
    assert linearized(network, params, x, first) == active
    kept = copy.deepcopy(params)
    after = Units().repair(network, Repaired(params, {}), x, Draw(0, 0)).params
    assert moved(network(params, x), network(after, x)) <= MOVED
    assert redrawn(first, params, after) == folded
    assert evidence(network, params, x).get(BOUND, 0) == bound
    assert all(torch.equal(p, kept[name]) for name, p in params.items())
    anyway = Units(moved=math.inf).repair(network, Repaired(params, {}), x, Draw(0, 0)).params
    assert moved(network(params, x), network(anyway, x)) > 10 * MOVED
    assert redrawn(first, params, anyway) == active
    assert {BOUND, ALONE}.isdisjoint(evidence(network, params, x, Units(moved=math.inf)))


@pytest.mark.parametrize(("make", "shape"), [n[:2] for n in NETS.values()], ids=NETS)
def test_the_function_stays_where_all_layers_are_linearized_and_dead(make, shape):
    network, params, x = planted(make, shape, groups=9)
    for seed in (0, 1):
        after = Units().repair(network, Repaired(params, {}), x, Draw(seed, 0)).params
        assert moved(network(params, x), network(after, x)) <= MOVED


def test_the_more_a_repair_may_move_the_more_it_folds():
    network, params, x = planted(lambda: MLP((9,), 2, hidden=(32, 8)), (9,))
    x = x * 10.0 ** -torch.arange(9)  # each direction matters less
    found = []
    for most in (1e-6, 1e-4, math.inf):
        after = Units(moved=most).repair(network, Repaired(params, {}), x, Draw(0, 0)).params
        assert moved(network(params, x), network(after, x)) <= most
        found.append(sum(redrawn(group, params, after) for group in network.units))
    assert found == sorted(found)
    assert len(set(found)) == 3


def test_dead_units_that_say_something_stay_where_they_are_multiplied():
    """A gate that is stuck at 1 passes the other branch: it is no constant. One that is stuck at 0 passes nothing."""
    network, params, x = planted(lambda: Gated(torch.sigmoid), (4,), shift=0.0)
    bias = params["gate.bias"].clone()
    bias[:5], bias[5:8] = 200.0, -200.0
    params = {name: p.double() for name, p in params.items()} | {"gate.bias": bias.double()}
    network, x = Network(network.module.double(), example=x[:4].double()), x.double()
    assert float(network.trace(params, x).sites["sigmoid"].slope[:, :5].abs().max()) < 1e-30
    params["gate.bias"][:8] *= 10  # now the slopes are 0
    said = network.trace(params, x).sites["sigmoid"].post
    assert said[:, :5].eq(1).all()
    assert said[:, 5:8].eq(0).all()
    after = Units().repair(network, Repaired(params, {}), x, Draw(0, 0)).params
    torch.testing.assert_close(network(after, x), network(params, x), rtol=0, atol=1e-12)
    (group,) = network.units
    assert redrawn(group, params, after) == 3
    assert evidence(network, params, x)[DEAD] == 5


@pytest.mark.parametrize(("padding", "left"), [(0, 0), (1, 5)])
def test_dead_units_that_say_something_stay_where_zeros_pad(padding, left):
    def make():
        last = nn.Conv2d(16, 2, 3, padding=padding)
        return nn.Sequential(nn.Conv2d(1, 16, 3), nn.Tanh(), last, nn.Flatten()).double()

    network = Network(make(), example=torch.zeros(1, *IMAGE).double())
    x, params = torch.randn(50, *IMAGE, dtype=torch.float64), network.params()
    params["0.bias"][:5] = 50.0
    after = Units().repair(network, Repaired(params, {}), x, Draw(0, 0)).params
    torch.testing.assert_close(network(after, x), network(params, x), rtol=0, atol=1e-12)
    assert redrawn(network.units[0], params, after) == 5 - left
    assert evidence(network, params, x).get(DEAD, 0) == left


def test_units_are_folded_without_a_constant_where_the_reader_has_no_bias():
    def make():
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2, bias=False))

    network, params, x = planted(make, (4,))
    after = Units().repair(network, Repaired(params, {}), x, Draw(0, 0)).params
    assert moved(network(params, x), network(after, x)) <= MOVED
    assert redrawn(network.units[0], params, after) == 12 - 4 - 1
    assert evidence(network, params, x)[BOUND] == 1


def test_linearized_units_that_a_residual_stream_reads_are_left_alone():
    network, params, x = planted(Residual, (3,), groups=9)
    stream = [group for group in network.units if not group.exact]
    assert stream
    after = Units().repair(network, Repaired(params, {}), x, Draw(0, 0)).params
    assert moved(network(params, x), network(after, x)) <= MOVED
    left = sum(linearized(network, params, x, group) for group in stream)
    assert evidence(network, params, x)[BOUND] >= left > 0
    assert torch.equal(after["stem.weight"], params["stem.weight"])


def test_every_output_counts():
    """Of two heads, the one that moves most decides."""
    network, params, x = planted(NatureCNN, (4, 36, 36), size=8)
    params = params | {"value.weight": 1e-6 * params["value.weight"], "value.bias": 0 * params["value.bias"]}
    after = Units().repair(network, Repaired(params, {}), x, Draw(0, 0)).params
    assert redrawn(network.units[0], params, after) > 0
    for before, now in zip(network(params, x), network(after, x), strict=True):
        assert moved(before, now) <= MOVED
    one, two = torch.tensor([1.0, 1.0]), torch.tensor([100.0])
    assert moved((one, two), (one + 0.5, two)) == 0.5
    assert moved({"a": one, "b": two}, {"a": one, "b": two / 2}) == 0.5
    assert math.isnan(moved((one, two), (one, two * math.nan)))
    assert math.isnan(moved("nothing", "nothing"))


def test_draws_do_not_decide_what_is_folded():
    network, params, x = planted(*NETS["zero-padded"][:2])
    one, same, other = (Units().repair(network, Repaired(params, {}), x, Draw(s, 0)).params for s in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    first, *_ = network.units
    (name,) = first.outgoing
    assert torch.equal(one[name] == 0, other[name] == 0)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_disentangle_says_what_was_left_alone():
    network, params, x = planted(*NETS["gated, ReLU"][:2])
    network.module.load_state_dict(params)
    causes = disentangle(
        network.module, inputs=x[:64], optimizer=Adam(1e-2), probe=FreshLabels(2), targets=2, steps=2,
        repairs=(Units(), Norm()),
    )  # fmt: skip
    assert causes.idle == ("units",)
    assert causes.evidence["units"][BOUND] == 14
    assert causes.evidence["units"][ALONE] == 4
    assert causes.changed["units"] == 0


# -- combinations ------------------------------------------------------------------------------------------------------


def table(samples, kind):
    """Activations, which are neither dead nor linearized, which are linearized, and what readers weigh them by."""
    rng = np.random.default_rng(samples)
    post = rng.standard_normal((samples, 9)) * 10.0 ** rng.uniform(-2, 2, 9) + rng.standard_normal(9)
    keep, linear, weight = np.zeros(9, bool), np.zeros(9, bool), rng.uniform(0.1, 2, 9)
    keep[:4], linear[4:8] = True, True
    if kind == "copies":
        post[:, 1], post[:, 3], post[:, 5] = post[:, 0], 0.0, 2 * post[:, 4] - 3
    elif kind == "none kept":
        keep[:] = False
    elif kind == "unread":
        weight[6] = 0.0
    return *(torch.from_numpy(a) for a in (post, keep, linear, weight)), post


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("kind", ["plain", "copies", "none kept", "unread"])
@pytest.mark.parametrize("samples", [3, 50])
def test_combinations_are_those_of_least_squares(samples, kind, constant):
    post, keep, linear, weight, h = table(samples, kind)
    mixture = _Mixture(post, keep, linear, weight, constant)
    stayed = set()
    for stay in range(5):
        gone, mixed, offset = mixture.without(stay)
        assert int(gone.sum()) == 4 - stay
        assert not (gone & ~linear).any()
        stays = set((linear & ~gone).nonzero().flatten().tolist())
        assert stayed <= stays  # ever more of them
        stayed = stays
        others = [h[:, i] for i in np.flatnonzero(keep)] + [h[:, i] for i in sorted(stays)]
        basis = np.stack([*others, *([np.ones(samples)] if constant else [])], 1) if others or constant else h[:, :0]
        folded = np.flatnonzero(gone.numpy())
        best = basis @ np.linalg.pinv(basis, rcond=1e-12) @ h[:, folded] if basis.size else 0 * h[:, folded]
        found = (h @ mixed.numpy() + offset.numpy())[:, folded]
        read = [i for i, unit in enumerate(folded) if weight[unit] > 0]
        np.testing.assert_allclose(found[:, read], best[:, read], rtol=0, atol=1e-7 * np.abs(h).max())
        missing = np.linalg.norm((best - h[:, folded]) * weight.numpy()[folded])
        assert mixture.missing[stay] == pytest.approx(missing, abs=1e-9 * np.abs(h).max())
        plain = np.flatnonzero(~gone.numpy())
        np.testing.assert_array_equal(mixed.numpy()[:, plain], np.eye(9)[:, plain])
    assert mixture.missing[mixture.rank] <= 1e-5 * max(mixture.missing[0], np.abs(h).max())
    assert [mixture.enough(m) for m in (math.inf, 0.0)] == [0, mixture.rank]
