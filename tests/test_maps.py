"""A linear layer is one however its product is written: every part of pliant counts it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pliant
from pliant.causes.repairs import Norm, OutputLayer, Repaired, TargetScale
from pliant.diagnostics import FeatureOffset, Observation
from pliant.diagnostics._layers import layers_of
from pliant.diagnostics._poke import scale_invariant
from pliant.interventions import LayerNorm, NormalizeAndProject
from pliant.interventions._recycling import recycle
from pliant.interventions.base import Draw
from pliant.maps import Weights, linear_map
from pliant.modules import output_layers
from pliant.network import Network


class Layer(nn.Module):
    """x @ W + b, with W as `(inputs, outputs)` unless said otherwise."""

    turned = True

    def __init__(self, inputs, outputs):
        super().__init__()
        shape = (inputs, outputs) if self.turned else (outputs, inputs)
        self.weight, self.bias = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    def reset_parameters(self):
        for p in (self.weight, self.bias):
            nn.init.uniform_(p, -0.5, 0.5)


class Addmm(Layer):
    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Matmul(Layer):
    def forward(self, x):
        return x @ self.weight + self.bias


class Mm(Layer):
    def forward(self, x):
        return torch.mm(x, self.weight).add_(self.bias)


class Turned(Layer):
    turned = False

    def forward(self, x):
        return torch.matmul(x, self.weight.T) + self.bias


class Before(Layer):
    """W x, samples along the second axis for as long as it takes."""

    turned = False

    def forward(self, x):
        return torch.matmul(self.weight, x.mT).mT + self.bias


class Einsum(Layer):
    def forward(self, x):
        return torch.einsum("...i,io->...o", x, self.weight) + self.bias


class Tensordot(Layer):
    def forward(self, x):
        return torch.tensordot(x, self.weight, dims=([1], [0])) + self.bias


class Cast(Layer):
    def forward(self, x):
        return x @ self.weight.to(x.dtype) + self.bias


SPELLED = (Addmm, Matmul, Mm, Turned, Before, Einsum, Tensordot, Cast)
every_spelling = pytest.mark.parametrize("kind", SPELLED)
X = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))


def net(kind):
    torch.manual_seed(0)
    return nn.Sequential(kind(3, 5), nn.ReLU(), kind(5, 5), nn.GELU(), kind(5, 2))


def twin(module):
    """The same network of `nn.Linear`."""
    other = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 2))
    with torch.no_grad():
        for ours, theirs in zip(module, other, strict=True):
            if isinstance(ours, Layer):
                theirs.weight.copy_(ours.weight.T if ours.turned else ours.weight)
                theirs.bias.copy_(ours.bias)
    return other


def networks(kind):
    module = net(kind)
    return Network(module, example=X), Network(twin(module), example=X)


def turned(kind, t):
    return t.T if kind.turned and t.ndim == 2 else t


@every_spelling
def test_it_is_seen_like_a_linear_layer(kind):
    ours, theirs = networks(kind)
    a, b = (network.trace(network.params(), X) for network in (ours, theirs))
    torch.testing.assert_close(a.features, b.features)
    assert list(a.sites) == list(b.sites)
    for site, other in zip(a.sites.values(), b.sites.values(), strict=True):
        torch.testing.assert_close(tuple(site), tuple(other))
    for watched in [ours.watch(ours.params(), X) for _ in range(2)]:  # with hooks, and without
        torch.testing.assert_close(watched.features, b.features)
    assert ours.weights == theirs.weights
    assert ours.head == theirs.head == ("4.weight", "4.bias")


@every_spelling
def test_its_units_are_those_of_a_linear_layer(kind):
    ours, theirs = networks(kind)
    for a, b in zip(ours.units, theirs.units, strict=True):
        assert (a.name, a.sites, a.size, a.biases, a.exact) == (b.name, b.sites, b.size, b.biases, b.exact)
        for one, other in ((a.incoming, b.incoming), (a.outgoing, b.outgoing)):
            assert list(one) == list(other)
            assert all(torch.equal(turned(kind, one[name].codes), other[name].codes) for name in one)


@every_spelling
def test_diagnostics_of_layers_read_it_alike(kind):
    ours, theirs = networks(kind)
    params = ours.params(), theirs.params()
    for a, b in zip(layers_of(ours, params[0], X), layers_of(theirs, params[1], X), strict=True):
        assert (a.weight, a.name) == (b.weight, b.name)
        torch.testing.assert_close(a.input, b.input)
        torch.testing.assert_close(a.rows(params[0][a.weight]), b.rows(params[1][b.weight]))
        torch.testing.assert_close(a.apply(params[0][a.weight]), b.apply(params[1][b.weight]))
    seen = [Observation(p, network=network, x=X) for network, p in zip((ours, theirs), params, strict=True)]
    found = [FeatureOffset().measure(one) for one in seen]
    torch.testing.assert_close(*found)


@every_spelling
@pytest.mark.parametrize("repair", [Norm(), OutputLayer(), TargetScale()])
def test_repairs_mend_it_alike(kind, repair):
    ours, theirs = networks(kind)
    drawn = ours.fresh(5)

    class Same(Draw):
        """Both networks are drawn alike."""

        def fresh(self, network, only=None):
            like = drawn if network is ours else {name: turned(kind, p) for name, p in drawn.items()}
            return {name: p for name, p in like.items() if only is None or name in only}

    a, b = (repair.repair(n, Repaired(n.params(), {}), X, Same(0, 0)).params for n in (ours, theirs))
    for name, p in a.items():
        torch.testing.assert_close(turned(kind, p), b[name], msg=name)
    assert any(not torch.equal(p, ours.params()[name]) for name, p in a.items())


@every_spelling
def test_what_a_replaced_unit_meant_goes_into_the_bias_that_follows(kind):
    ours, theirs = networks(kind)
    mean = {units.name: torch.rand(units.size) for units in ours.units}
    chosen = {units.name: torch.arange(units.size) < 2 for units in ours.units}
    draw, found = Draw(0, 0), []
    for network in (ours, theirs):
        params = network.params()
        change = recycle(network, chosen, params, {}, draw, compensate=mean, clear=False)
        found.append({name: p for name, p in (params | change.params).items() if name.endswith("bias")})
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", [kind for kind in SPELLED if kind is not Before])
@pytest.mark.parametrize("method", [LayerNorm(), NormalizeAndProject(scales="free")])
def test_normalisers_follow_it(kind, method):
    module = net(kind)
    built, other = (method.build(m, example=X) for m in (module, twin(module)))
    torch.testing.assert_close(built(X), other(X))
    norms = {f"{i}.norm.{name}" for i in (0, 2) for name in ("weight", "bias")}
    assert {name for name, _ in built.named_parameters()} >= norms
    assert set(scale_invariant(Network(LayerNorm().build(module, X), example=X))) == {"0.weight", "2.weight"}


def test_a_normaliser_says_where_it_cannot_follow():
    with pytest.raises(ValueError, match=r"LayerNorm found no .*0, 2: its units are not along the last axis"):
        LayerNorm().build(net(Before), example=X)

    class Inline(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(3, 4), nn.Parameter(torch.rand(4, 4)), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(torch.relu(torch.relu(self.first(x)) @ self.second))

    with pytest.warns(UserWarning, match="^LayerNorm left alone relu#2: no layer feeds them directly$"):
        built = LayerNorm().build(Inline(), example=X)
    assert [name for name, _ in built.named_modules() if name.endswith("norm")] == ["first.norm"]


def test_a_residual_sum_in_a_module_is_no_layer():
    class Sum(Matmul):
        def forward(self, x):
            return x + super().forward(x)

    with pytest.raises(ValueError, match="no layer feeds them directly"):
        LayerNorm().build(nn.Sequential(Sum(3, 3), nn.ReLU(), nn.Linear(3, 1)), example=X)


class Siren(nn.Module):
    def __init__(self, scale=lambda y: 30.0 * y):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.scale, self.number = scale, nn.Parameter(torch.tensor(30.0))

    def forward(self, x):
        for layer in (self.first, self.second):
            x = torch.sin(self.scale(layer(x)))
        return self.head(x)


SCALES = {
    "times": lambda y: 30.0 * y,
    "in place": lambda y: y.mul_(30.0),
    "over": lambda y: y / 0.2 + 0.0,
    "twice": lambda y: torch.mul(2.0 * y, 4.0),
    "viewed": lambda y: 5.0 * y.view(-1, 8),
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_what_a_scaled_nonlinearity_reads_is_normalised(scale):
    torch.manual_seed(0)
    built = Network(LayerNorm(eps=1e-9).build(Siren(scale).double(), example=X.double()))
    for site in built.trace(built.params(), X.double()).sites.values():
        torch.testing.assert_close(site.pre.mean(1), torch.zeros(len(X)).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(site.pre.var(1, unbiased=False), torch.ones(len(X)).double(), atol=1e-4, rtol=0)


def test_a_layer_that_is_read_at_two_scales_is_left_alone():
    class Both(Siren):
        def forward(self, x):
            y = self.first(x)
            return self.head(torch.sin(self.second(torch.sin(2 * y) + torch.cos(3 * y))))

    with pytest.warns(UserWarning, match="^LayerNorm left alone first: read at several scales$"):
        LayerNorm().build(Both(), example=X)


def test_a_layer_whose_scale_is_learned_a_unit_is_left_alone():
    class Learned(Siren):
        def forward(self, x):
            return self.head(torch.sin(self.second.bias.exp() * self.first(x)))

    with pytest.raises(ValueError, match=r"left alone sin: no layer feeds them directly"):
        LayerNorm().build(Learned(), example=X)


class Gated(nn.Module):
    """Value and gate of one layer, as transformers and Mamba write them."""

    def __init__(self, split):
        super().__init__()
        self.split, self.both, self.head = split, nn.Linear(3, 8), nn.Linear(4, 2)

    def forward(self, x):
        value, gate = self.split(self.both(x))
        return self.head((value * torch.nn.functional.silu(gate)).reshape(-1, 4))


HALVES = {
    "chunk": lambda y: y.chunk(2, -1),
    "slices": lambda y: (y[..., :4], y[..., 4:]),
    "gate first": lambda y: y.chunk(2, -1)[::-1],
    "channels first": lambda y: [t.mT for t in y.unflatten(0, (4, 5)).mT.chunk(2, 1)],
}


@pytest.mark.parametrize("split", HALVES.values(), ids=HALVES)
def test_a_gate_that_is_split_off_is_normalised_alone(split):
    module = Gated(split)
    built = LayerNorm(eps=1e-9).build(module, example=X)
    assert built.both.norm.normalized_shape == (4,)
    value, gate = split(module.both(X))
    expected = module.head((value * F.silu(F.layer_norm(gate, (4,), eps=1e-9))).reshape(-1, 4))
    torch.testing.assert_close(built(X), expected)
    kept = NormalizeAndProject(scales="free").build(module, example=X)
    assert kept.both.bias is not None  # the value's is needed


def test_gates_of_which_each_is_read_alone_are_left_alone():
    class Both(Gated):
        def forward(self, x):
            value, gate = self.both(x).chunk(2, -1)
            return self.head(torch.tanh(value) * torch.sigmoid(gate))

    with pytest.raises(ValueError, match="left alone tanh, sigmoid: no layer feeds them directly"):
        LayerNorm().build(Both(None), example=X)


def test_products_of_activations_are_no_layers():
    w, x = nn.Parameter(torch.ones(3, 3)), torch.ones(3, 3)
    weights = Weights({"w": w})
    assert linear_map(torch.matmul, (x, x), {}, weights) is None
    assert linear_map(torch.matmul, (w, w), {}, weights) is None  # a weight yet to be used
    assert linear_map(torch.einsum, ("bi,i->bi", x, w[0]), {}, weights) is None  # it scales
    assert linear_map(torch.relu, (x,), {}, weights) is None


def test_a_product_of_weights_is_a_weight():
    """As in LoRA merged on the way."""

    class Merged(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.rand(3, 2)), nn.Parameter(torch.rand(2, 1))

        def forward(self, x):
            return torch.relu(x) @ (self.a @ self.b)

    merged = Merged()
    assert output_layers(merged, X) == {"a", "b"}
    network = Network(merged, example=X)
    torch.testing.assert_close(network.trace(network.params(), X).features, torch.relu(X))


@pytest.mark.parametrize(
    ("equation", "operands", "units", "incoming"),
    [
        ("btd,de->bte", ((2, 5, 3), (3, 4)), 4, 3),
        ("de,btd->bte", ((3, 4), (2, 5, 3)), 4, 3),
        ("bd,hde->bhe", ((2, 3), (6, 3, 4)), 24, 3),
        ("bhe,hed->bd", ((2, 6, 4), (6, 4, 3)), 3, 24),
        ("bd,d->b", ((2, 3), (3,)), 1, 3),
        ("bd,de", ((2, 3), (3, 4)), 4, 3),
    ],
)
def test_einsum_by_letters(equation, operands, units, incoming):
    a, b = (torch.randn(shape) for shape in operands)
    first = equation.startswith("de")
    w, x = (a, b) if first else (b, a)
    found = linear_map(torch.einsum, (equation, a, b), {}, Weights({"w": w}))
    assert found.rows(w).shape == (units, incoming)
    expected = torch.einsum(equation, a, b)
    torch.testing.assert_close(found.apply(w), expected)
    samples = found.input.reshape(-1, incoming)
    by_hand = samples @ found.rows(w).T
    torch.testing.assert_close(by_hand.flatten().sort().values, expected.flatten().sort().values, atol=1e-5, rtol=1e-5)
    assert x.numel() == samples.numel()


def test_a_vector_each_has_its_units_along_its_own_axis():
    """Kernels of a state-space model: a vector a channel, at every moment."""
    w, x = torch.randn(5, 4), torch.randn(5, 4, 7)
    assert linear_map(torch.einsum, ("hn,hnl->hl", w, x), {}, Weights({"w": w})).dim == -2


def test_a_product_inside_vmap_is_a_layer():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.head = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 2))

        def forward(self, x):
            return torch.vmap(lambda row: torch.relu(row @ self.w) @ self.head)(x)

    module = Mapped()
    network = Network(module, example=X)
    trace = network.trace(network.params(), X)
    torch.testing.assert_close(trace.features, torch.relu(X @ module.w).detach())
    assert network.head == ("head",)
    assert [units.size for units in network.units] == [4]


def test_a_population_sees_what_one_network_sees():
    network = Network(net(Addmm))
    params = [network.fresh(seed) for seed in range(3)]
    stacked = {name: torch.stack([p[name] for p in params]) for name in params[0]}
    seen = torch.vmap(lambda p: network.watch(p, X).features)(stacked)
    alone = torch.stack([network.watch(p, X).features for p in params])
    torch.testing.assert_close(seen, alone)


def test_it_trains_with_a_recipe_that_reads_features():
    """As GPT-2's blocks are written: built into, attached, its dead units drawn anew, its function kept."""
    module = net(Addmm)
    with torch.no_grad():
        module[0].bias[:2] = -100.0
    optimizer = torch.optim.Adam(module.parameters(), lr=0.0)
    recipe = pliant.Chain(pliant.ReDo(tau=0.0, every=1), pliant.interventions.FeatureNormPenalty(0.1))
    keeper = recipe.attach(module, optimizer, fresh=lambda: net(Addmm))
    before = module(X)
    features = F.gelu(module[2](F.relu(module[0](X))))
    penalty = keeper.penalty()
    torch.testing.assert_close(penalty, 0.1 * features.square().sum(-1).mean())
    (before.sum() + penalty).backward()
    optimizer.step()
    keeper.step()
    torch.testing.assert_close(module(X), before)
    assert module[0].bias[:2].abs().max() == 0
