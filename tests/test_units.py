"""The unit map: right where a unit drawn anew, with nothing reading it, leaves the network's function as it was."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from pliant.interventions import LayerNorm
from pliant.nets import CNN, MLP, ViT, batch_norm
from pliant.network import Network
from pliant.poking import find_units
from pliant.units import Entries

BIAS = -50.0  # what kills a ReLU whose inputs are of order 1


class Flat(nn.Module):
    """Convolution, pooling, flatten, linear; `last` moves the channels to the end first."""

    def __init__(self, pool=None, last=False, groups=1, batch_norm=False):
        super().__init__()
        self.pool, self.last = pool, last
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3, groups=groups)
        self.norm = nn.BatchNorm2d(6, track_running_stats=False) if batch_norm else nn.Identity()
        self.hidden, self.output = nn.Linear(6 * (4 if pool else 16), 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.norm(self.second(F.relu(self.first(x))))
        x = F.relu(x.permute(0, 2, 3, 1)) if self.last else F.relu(x)
        if self.pool:
            x = self.pool(x)
        return self.output(F.relu(self.hidden(x.flatten(1))))


class Residual(nn.Module):
    """Two blocks after a stem; what is written after a sum is read by the next sum, too."""

    def __init__(self, early=False):
        super().__init__()
        self.stem, self.output, self.early = nn.Linear(3, 4), nn.Linear(4, 2), early
        self.inner = nn.ModuleList(nn.Linear(4, 5) for _ in range(2))
        self.back = nn.ModuleList(nn.Linear(5, 4) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for inner, back in zip(self.inner, self.back, strict=True):
            x = x + back(F.relu(inner(F.relu(x) if self.early else x)))
            x = x if self.early else F.relu(x)
        return self.output(F.relu(x) if self.early else x)


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 5)
        self.join, self.output = nn.Linear(12, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.output(F.relu(self.join(torch.cat([F.relu(self.right(x)), x, F.relu(self.left(x))], -1))))


class Separable(nn.Module):
    """Depthwise and pointwise convolutions, with and without a nonlinearity between."""

    def __init__(self, between):
        super().__init__()
        self.point, self.depth = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4)
        self.last, self.output, self.between = nn.Conv2d(4, 3, 1), nn.Linear(3, 2), between

    def forward(self, x):
        x = self.depth(F.relu(self.point(x)))
        x = self.last(F.relu(x) if self.between else x)
        return self.output(F.relu(x).mean((2, 3)))


class Twice(nn.Module):
    """A block used twice: its units are active in two places."""

    def __init__(self):
        super().__init__()
        self.expand, self.contract, self.output = nn.Linear(3, 6), nn.Linear(6, 3), nn.Linear(3, 2)

    def forward(self, x):
        for _ in range(2):
            x = x + self.contract(F.relu(self.expand(x)))
        return self.output(x)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.value, self.output = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.output(F.relu(self.gate(x)) * self.value(x))


class ConvNeXt(nn.Module):
    """Channels last: a convolution, a layer norm and a perceptron over its channels, added to its input."""

    def __init__(self):
        super().__init__()
        self.depth, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4)
        self.expand, self.contract, self.output = nn.Linear(4, 7), nn.Linear(7, 4), nn.Linear(4, 2)

    def forward(self, x):
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return self.output((x.permute(0, 2, 3, 1) + self.contract(F.relu(self.expand(y)))).mean((1, 2)))


class NatureCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.linear = nn.Sequential(nn.Linear(64 * 1 * 1, 32), nn.ReLU())
        self.action, self.value = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, x):
        x = self.linear(self.cnn(x / 255))
        return self.action(x), self.value(x)


IMAGES, VECTORS = (2, 8, 8), (3,)
STRUCTURES = {  # module, shape of one example, sizes of the units that can be drawn anew, of those that cannot
    "linear": (lambda: MLP((3,), 2, hidden=(4, 5)), VECTORS, [4, 5], []),
    "flatten": (Flat, IMAGES, [4, 6, 5], []),
    "max pooling": (lambda: Flat(nn.MaxPool2d(2)), IMAGES, [4, 6, 5], []),
    "average pooling": (lambda: Flat(nn.AvgPool2d(2)), IMAGES, [4, 6, 5], []),
    "channels last": (lambda: Flat(last=True), IMAGES, [4, 6, 5], []),
    "grouped": (lambda: Flat(groups=2), IMAGES, [4, 6, 5], []),
    "batch norm": (lambda: Flat(batch_norm=True), IMAGES, [4, 6, 5], []),
    "depthwise": (lambda: Separable(True), IMAGES, [4, 4, 3], []),
    "depthwise without a nonlinearity": (lambda: Separable(False), IMAGES, [4, 3], []),
    "residual, after the sum": (Residual, VECTORS, [5, 5, 4], [4]),
    "residual, before the sum": (lambda: Residual(early=True), VECTORS, [4, 5, 5], []),
    "concatenated": (Concatenated, VECTORS, [5, 4, 4], []),
    "used twice": (Twice, VECTORS, [6], []),
    "gated": (Gated, VECTORS, [5], []),
    "ConvNeXt": (ConvNeXt, (4, 5, 5), [7], []),
    "transformer": (lambda: ViT((1, 6, 6), 2, features=8, ff=12, depth=2, heads=2, activation=nn.ReLU), (1, 6, 6),
                    [12, 12], []),
    "NatureCNN": (NatureCNN, (4, 36, 36), [32, 64, 64, 32], []),
}  # fmt: skip
every_structure = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def prepared(make, shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make().double()
    x = torch.randn(16, *shape, generator=generator(), dtype=torch.float64)
    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    return module, x, params


def kill(units, params, dead):
    """Biases so low that the units never fire."""
    for name, entries in (units.normaliser or units.incoming).items():
        if name.endswith("bias"):
            params[name] = torch.where(entries.mask(dead), BIAS, params[name])
    return params


def redrawn(units, params, dead, fresh):
    params = dict(params)
    for name, entries in {**units.incoming, **units.normaliser}.items():
        params[name] = torch.where(entries.mask(dead), fresh[name], params[name])
    for name, entries in units.outgoing.items():
        params[name] = torch.where(entries.mask(dead), 0.0, params[name])
    return params


def outputs(module, params, x):
    found = functional_call(module, params, (x,))
    return torch.cat(found, -1) if isinstance(found, tuple) else found


@every_structure
@pytest.mark.filterwarnings("ignore:no nonlinearity is seen between")  # which is so
def test_a_dead_unit_drawn_anew_changes_nothing(structure):
    make, shape, exact, _ = structure
    module, x, params = prepared(make, shape)
    network = Network(module, example=x)
    fresh = {name: p + 2.0 if name.endswith("bias") else 3 * p for name, p in network.fresh(seed=5).items()}
    found = [units for units in network.units if units.exact]
    assert [units.size for units in found] == exact
    for units in found:
        dead = torch.arange(units.size) % 3 == 0
        old = kill(units, dict(params), dead)
        before = outputs(module, old, x)
        activity = units.activity(network.watch(old, x).activations)
        assert (activity[:, dead] == 0).all()
        assert (activity[:, ~dead] != 0).any()
        new = redrawn(units, old, dead, fresh)
        torch.testing.assert_close(outputs(module, new, x), before, rtol=0, atol=1e-12)
        alive = units.activity(network.watch(new, x).activations)[:, dead]
        assert (alive != 0).any()  # they were drawn anew indeed


@pytest.mark.parametrize(
    "structure", [s for name, s in STRUCTURES.items() if "residual" not in name],
    ids=[name for name in STRUCTURES if "residual" not in name],
)  # fmt: skip
def test_the_map_names_every_entry_that_a_unit_owns(structure):
    """A unit scaled on its way in and scaled back on its way out, ReLU being homogeneous, is the same function.

    Not on a residual stream, which sums several units.
    """
    make, shape, _, _ = structure
    module, x, params = prepared(make, shape)
    for units in find_units(module, x):
        if not units.exact or units.name.startswith("gate") or len(units.sites) > 1:
            continue  # a layer that reads itself, and a stream that sums several layers, are scaled twice
        factor = torch.rand(units.size, generator=generator(3), dtype=torch.float64) + 0.5
        new = dict(params)
        feeding = units.normaliser or _last_layer(units)
        for name, entries in feeding.items():
            new[name] = torch.where(entries.mask(torch.ones(units.size, dtype=torch.bool)),
                                    new[name] * entries.spread(factor), new[name])  # fmt: skip
        for name, entries in units.outgoing.items():
            scale = torch.where(entries.codes >= 0, 1 / entries.spread(factor), 1.0)
            new[name] = new[name] * scale
        torch.testing.assert_close(outputs(module, new, x), outputs(module, params, x), rtol=1e-9, atol=1e-12)


def _last_layer(units):
    """Of several layers in a row that feed a unit, the last."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in units.incoming))
    return {name: e for name, e in units.incoming.items() if name.startswith(layers[-1])}


def test_a_unit_on_a_residual_stream_is_named_and_loses_only_what_it_can():
    module, x, params = prepared(Residual, VECTORS)
    (stream,) = [units for units in find_units(module, x) if not units.exact]
    assert stream.size == 4
    assert set(stream.outgoing) == {"inner.1.weight"}
    dead = torch.tensor([True, False, False, True])
    old = dict(params)
    old["back.0.bias"] = torch.where(dead, BIAS, old["back.0.bias"])
    new = dict(old)
    new["inner.1.weight"] = torch.where(stream.outgoing["inner.1.weight"].mask(dead), 0.0, old["inner.1.weight"])
    torch.testing.assert_close(outputs(module, new, x), outputs(module, old, x), rtol=0, atol=1e-12)
    assert not torch.equal(new["inner.1.weight"], old["inner.1.weight"])


def test_what_two_units_read_together_belongs_to_neither():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.output = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.output(F.relu(self.a(x)) + F.relu(self.b(x)))

    for units in find_units(Sum(), torch.ones(2, 3)):
        assert not units.exact
        assert units.outgoing == {}


def test_behind_a_layer_norm_the_statistics_are_shared():
    module, x, _ = prepared(lambda: MLP((3,), 2, hidden=(4, 5)), VECTORS)
    normed = LayerNorm().build(module, x)
    for i, units in enumerate(find_units(normed, x)):
        assert units.exact
        assert units.shared_statistics
        assert set(units.normaliser) == {f"hidden.{i}.norm.weight", f"hidden.{i}.norm.bias"}
    assert not any(units.shared_statistics for units in find_units(module, x))
    batch = MLP((3,), 2, hidden=(4, 5), norm=batch_norm)
    assert not any(units.shared_statistics for units in find_units(batch, x))


def test_a_layer_that_reads_itself_is_left_alone():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.output = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.output(F.relu(self.shared(F.relu(self.shared(self.first(x))))))

    (units,) = find_units(Recurrent(), torch.ones(2, 3))
    assert [site for site, _ in units.sites] == ["relu", "relu#2"]
    assert not units.exact  # the same column reads the unit and the input


def test_a_normaliser_after_the_nonlinearity_makes_a_unit_inexact():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    (units,) = find_units(module, torch.ones(2, 3, dtype=torch.float64))
    assert not units.exact


def test_sites_without_units_are_named():
    class Embedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.output = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.output(F.relu(self.table(x).sum(1) ** 2))

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(4, 2)

        def forward(self, x):
            return self.output(F.relu(x))

    with pytest.warns(UserWarning, match="no weights feed the units of relu one by one"):
        assert find_units(Fixed(), torch.ones(2, 4)) == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [u.size for u in find_units(Embedding(), torch.ones(2, 3, dtype=torch.int64))] == [4]


def test_the_module_and_the_global_stream_are_left_alone():
    module = CNN((1, 8, 8), 3, channels=(4, 4), hidden=(5,), norm=batch_norm)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    state = torch.get_rng_state()
    find_units(module, torch.ones(2, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_the_map_is_the_same_every_time():
    module = CNN((1, 8, 8), 3, channels=(4, 4), hidden=(5,))
    first, second = (find_units(module, torch.randn(2, 1, 8, 8)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert (a.name, a.sites, a.exact) == (b.name, b.sites, b.exact)
        for left, right in ((a.incoming, b.incoming), (a.outgoing, b.outgoing)):
            assert all(torch.equal(left[name].codes, right[name].codes) for name in left | right)


@pytest.mark.parametrize("codes", [[[0, 0, 1, 1, 2, 2]], [[0, 1, 2, 0, 1, 2]], [[0, 1, 2, -1, 1, 0]], [[0], [1], [2]]])
def test_sums_a_unit(codes):
    entries = Entries(torch.tensor(codes), size=3)
    values = torch.randn(entries.codes.shape, generator=generator(), dtype=torch.float64)
    for unit in range(3):
        assert torch.isclose(entries.sums(values)[unit], values[entries.codes == unit].sum())
        assert torch.equal(entries.mask(torch.arange(3) == unit), entries.codes == unit)
    stacked = torch.stack([values, 2 * values])
    torch.testing.assert_close(torch.vmap(entries.sums)(stacked)[1], 2 * entries.sums(values))
