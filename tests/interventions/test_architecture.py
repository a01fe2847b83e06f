"""What is built into modules of any make: what it computes, what it keeps, and what it refuses."""

import copy
import math
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from pliant.interventions import (
    L2,
    Activation,
    BatchNorm,
    Chain,
    CReLU,
    Draw,
    FourierFeatures,
    LayerNorm,
    MixedNorm,
    Only,
    PlasticityInjection,
    RMSNorm,
    SpectralNorm,
    WeightNorm,
)
from pliant.interventions.contrib import OutputNorm
from pliant.interventions.spectral_norm import largest_singular_value
from pliant.nets import CNN, MLP, ViT
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.population import Member, Population
from tests.interventions.nets import NETS, Attention, Convolutional, Perceptron, Residual

METHODS = [
    LayerNorm(axes="channels"),
    BatchNorm(),
    RMSNorm(),
    MixedNorm(mean="batch", std="layer"),
    Activation("leaky_relu"),
    SpectralNorm(num_iterations=3),
    WeightNorm(),
    CReLU(),
    FourierFeatures(equal_parameters=True),
    PlasticityInjection(layers=1),
    PlasticityInjection(layers=2),
    OutputNorm(),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=str)
every_net = pytest.mark.parametrize("net", [NETS["MLP"], NETS["CNN"]], ids=["MLP", "CNN"])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(method, module, x):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* left alone")
        return method.build(module, x)


def modules(kind, module):
    return [m for m in module.modules() if isinstance(m, kind)]


# -- all of them -------------------------------------------------------------------------------------------------------


@every_method
@every_net
def test_returns_a_copy_with_existing_names_in_order(method, net):
    torch.manual_seed(0)
    module, x = net.module().double(), normal(6, *net.shape)
    before, stream = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    made = method.build(module, x)
    assert torch.equal(torch.get_rng_state(), stream)
    assert [name for name in made.state_dict() if name in before] == list(before)
    assert all(torch.equal(p, before[name]) for name, p in module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in module.modules())
    if not isinstance(method, (CReLU, FourierFeatures)):
        assert all(torch.equal(made.state_dict()[name], p) for name, p in before.items())
        fresh = Network(made).fresh(3)
        assert all(torch.equal(fresh[name], p) for name, p in Network(module).fresh(3).items())
    assert all(p.dtype is torch.float64 for p in made.parameters())


@every_method
@every_net
@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_what_was_built_can_be_copied_and_stored(method, net, again):
    x = normal(6, *net.shape)
    made = method.build(net.module().double(), x)
    other = again(made)
    before = made(x)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    assert torch.equal(made(x), before)
    assert not torch.equal(other(x), before)  # by its own parameters


def gradient_of(network, x):
    return lambda params: grad(lambda p: network(p, x).square().sum())(params)


def stacked_draws(network):
    draws = [network.fresh(seed) for seed in range(2)]
    return draws, {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


@every_method
@every_net
def test_what_was_built_runs_under_vmap(method, net):
    x = normal(6, *net.shape)
    network = Network(method.build(net.module().double(), x), example=x)
    draws, params = stacked_draws(network)
    together = vmap(gradient_of(network, x))(params)
    for m, draw in enumerate(draws):
        for name, g in gradient_of(network, x)(draw).items():
            torch.testing.assert_close(together[name][m], g, rtol=1e-9, atol=1e-9)


@every_method
def test_what_was_built_compiles_without_a_break(method):
    x = normal(6, 1, 4, 4)
    network = Network(method.build(Convolutional().double(), x), example=x)
    _, params = stacked_draws(network)
    gradient = vmap(gradient_of(network, x))
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        compiled = torch.compile(gradient, backend="aot_eager", fullgraph=True)(params)
    for name, g in gradient(params).items():
        torch.testing.assert_close(compiled[name], g, rtol=1e-9, atol=1e-9)


@every_method
def test_refuses_what_cannot_be_built_into(method):
    class Compiled(nn.Module):  # what torch.compile returns, without its start-up time
        def __init__(self):
            super().__init__()
            self._orig_mod = Perceptron()

    name, x = type(method).__name__, torch.randn(6, 4)
    with pytest.raises(
        ValueError, match=rf"^{name} cannot be built into a compiled Perceptron: write model = torch\.c"
    ):
        method.build(Compiled(), x)
    lazy = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(
        ValueError, match=rf"^{name} needs shapes that 0\.weight of Sequential does not have yet: write"
    ):
        method.build(lazy, x)
    lazy(x)
    method.build(lazy, x)
    with torch.device("meta"):
        meta = Perceptron()
    with pytest.raises(ValueError, match=rf"^{name} cannot be built into a Perceptron with first\.weight on the meta"):
        method.build(meta, x)


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (lambda word: LayerNorm(axes=word), "axes of LayerNorm"),
        (lambda word: RMSNorm(axes=word), "axes of RMSNorm"),
        (lambda word: MixedNorm(mean=word, std="layer"), "mean of MixedNorm"),
        (lambda word: MixedNorm(mean="layer", std=word), "std of MixedNorm"),
        (Activation, "function of Activation"),
        (lambda word: SpectralNorm(3, layers=word), "layers of SpectralNorm"),
        (lambda word: PlasticityInjection(1, moments=word), "moments of PlasticityInjection"),
    ],
)
def test_another_word_is_refused(method, field):
    with pytest.raises(ValueError, match=rf"^expected {field} to be '.*' or '.*', got 'other'$"):
        method("other")


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_counts_are_whole_numbers_from_1(number):
    with pytest.raises(ValueError, match=r"^expected num_iterations of SpectralNorm to be a whole number"):
        SpectralNorm(num_iterations=number)
    with pytest.raises(ValueError, match=r"^expected layers of PlasticityInjection to be"):
        PlasticityInjection(layers=number)


# -- normalisers -------------------------------------------------------------------------------------------------------


def statistics_of_first(method, x, dims):
    """Mean and mean square of what follows the first convolution, over some axes."""
    y = built(method, Convolutional().double(), x).first(x)
    return y.mean(dims), y.square().mean(dims)


@pytest.mark.parametrize(
    ("method", "centred", "scaled"),
    [
        (LayerNorm(eps=1e-9), (1, 2, 3), (1, 2, 3)),
        (LayerNorm(eps=1e-9, axes="channels"), (1,), (1,)),
        (BatchNorm(eps=1e-9), (0, 2, 3), (0, 2, 3)),
        (RMSNorm(eps=1e-9), None, (1, 2, 3)),
        (RMSNorm(eps=1e-9, axes="channels"), None, (1,)),
        (MixedNorm(mean="batch", std="layer"), (0, 2, 3), None),
        (MixedNorm(mean="layer", std="batch", eps=1e-9), None, None),
    ],
    ids=str,
)
def test_what_a_normaliser_makes_of_a_convolution(method, centred, scaled):
    x = normal(6, 1, 4, 4)
    for dims, value, index in ((centred, 0.0, 0), (scaled, 1.0, 1)):
        if dims is not None and not (isinstance(method, MixedNorm) and index == 0):
            found = statistics_of_first(method, x, dims)[index]
            torch.testing.assert_close(found, torch.full_like(found, value), atol=1e-4, rtol=0)


@pytest.mark.parametrize("axes", ["channels_and_space", "channels"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_both_statistics_alike_are_layer_or_batch_norm(net, axes):
    module, x = net.module().double(), normal(6, *net.shape)
    layer = built(MixedNorm("layer", "layer", axes=axes), module, x)(x)
    torch.testing.assert_close(layer, built(LayerNorm(axes=axes), module, x)(x))
    torch.testing.assert_close(
        built(MixedNorm("batch", "batch", axes=axes), module, x)(x), built(BatchNorm(), module, x)(x)
    )


@pytest.mark.parametrize("method", [BatchNorm(), MixedNorm("batch", "layer"), MixedNorm("layer", "batch")], ids=str)
def test_statistics_of_the_batch_need_two_samples(method):
    module = method.build(Perceptron(), torch.randn(6, 4))
    with pytest.raises(ValueError, match=r"xpected more than "):
        module(torch.randn(1, 4))


WITHOUT_SCALES = [LayerNorm(affine=False), BatchNorm(affine=False), RMSNorm(affine=False)]


@pytest.mark.parametrize("method", [*WITHOUT_SCALES, MixedNorm("batch", "layer", affine=False)], ids=str)
def test_without_scales_nothing_is_added(method):
    for net in (NETS["MLP"], NETS["CNN"]):
        module = net.module()
        assert method.build(module, torch.randn(6, *net.shape)).state_dict().keys() == module.state_dict().keys()


@pytest.mark.parametrize("method", METHODS[:4], ids=str)
@pytest.mark.parametrize("net", [NETS["MLP"], NETS["CNN"], NETS["attention"]], ids=["MLP", "CNN", "attention"])
def test_the_unit_map_knows_scales_and_shared_statistics(method, net):
    x = torch.randn(6, *net.shape)
    units = Network(method.build(net.module(), x), example=x).units
    assert len(units) == len(net.hidden)
    for layer, group in zip(net.hidden, units, strict=True):
        assert list(group.incoming) == [f"{layer}.weight", f"{layer}.bias"]
        kinds = ("weight",) if isinstance(method, RMSNorm) else ("weight", "bias")
        assert list(group.normaliser) == [f"{layer}.norm.{kind}" for kind in kinds]
        assert group.exact
        assert group.shared_statistics == (not isinstance(method, BatchNorm))


def test_a_pattern_restricts_what_is_normalised():
    made = Only("second.*", BatchNorm()).build(Perceptron(), torch.randn(6, 4))
    assert [name for name in made.state_dict() if ".norm." in name] == ["second.norm.weight", "second.norm.bias"]


# -- activations -------------------------------------------------------------------------------------------------------


class Styles(nn.Module):
    """The same function called in every style, the output's among them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(7))
        self.shared, self.plain, self.output = nn.ReLU(inplace=True), nn.Sequential(nn.ReLU()), nn.Linear(4, 2)
        self.prelu = nn.PReLU()

    def forward(self, x):
        a, b, c, d, e, f, g = self.layers
        x = self.shared(b(self.shared(a(x))))
        x = F.relu(c(x), inplace=True)
        x = d(x).relu()
        x = e(x)
        x.relu_()
        x = self.plain(f(torch.relu(x)))
        return torch.sigmoid(self.output(self.prelu(g(x))))


def test_every_style_of_call_is_replaced():
    module, x = Styles().double(), normal(6, 4)
    made = Activation("tanh").build(module, x)
    y = x
    for i, layer in enumerate(module.layers):
        y = torch.tanh(layer(y))
        y = torch.tanh(y) if i == 4 else y
    torch.testing.assert_close(made(x), torch.sigmoid(module.output(y)))
    slopes = [site.slope for site in Network(made).trace(dict(made.named_parameters()), x).sites.values()]
    assert len(slopes) == 9  # with the one in place, and the output's own
    assert all((s != 1).all() for s in slopes)


class Both(nn.Module):
    """The same function as a module and called, in a module that holds the other."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.output(F.relu(self.second(self.act(self.first(x)))))


@pytest.mark.parametrize("method", [Activation("gelu"), Activation("relu"), CReLU(), FourierFeatures()], ids=str)
def test_a_call_is_replaced_once_where_both_styles_meet(method):
    x = torch.randn(6, 4)
    sites = Network(method.build(Both(), x)).trace(dict(method.build(Both(), x).named_parameters()), x).sites
    assert len(sites) == (2 if isinstance(method, Activation) else 4)


@pytest.mark.parametrize(
    "function",
    [F.relu, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.softplus, torch.tanh, torch.sigmoid],
    ids=lambda f: f.__name__,
)
def test_each_function_has_torchs_settings(function):
    module, x = MLP(4, 3, hidden=(5, 6), activation=nn.Hardtanh).double(), normal(6, 4)
    made = Activation(function.__name__).build(module, x)
    y = function(module.hidden[1](function(module.hidden[0](x))))
    torch.testing.assert_close(made(x), module.output(y))


def test_a_nonlinearity_written_out_is_one():
    class Swish(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.7 * x)

    made = Activation("gelu").build(nn.Sequential(nn.Linear(4, 5), Swish(), nn.Linear(5, 2)), torch.randn(6, 4))
    assert str(made[1]) == "Replacement(gelu)"


def test_the_output_keeps_its_own():
    module, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.Tanh()).double(), normal(6, 4)
    torch.testing.assert_close(Activation("elu").build(module, x)(x), module[3](module[2](F.elu(module[0](x)))))

    class Actor(Perceptron):
        def forward(self, x):
            return torch.tanh(super().forward(x))

    with pytest.raises(
        ValueError, match="Activation cannot replace 'tanh' of Actor and leave 'tanh#2' alone, which is"
    ):
        Activation("elu").build(Actor(), torch.randn(6, 4))


def test_a_pattern_restricts_what_is_replaced():
    module, x = Perceptron().double(), normal(6, 4)
    made = Only("second.*", Activation("gelu")).build(module, x)
    y = module.output(F.gelu(module.second(F.relu(module.first(x)))))
    torch.testing.assert_close(made(x), y)
    with pytest.raises(ValueError, match="Activation found no hidden nonlinearity to replace in Perceptron"):
        Only("output.*", Activation("gelu")).build(module, x)


def test_nonlinearities_are_replaced_once():
    x = torch.randn(6, 4)
    for first in (Activation("gelu"), CReLU()):
        for second in (Activation("tanh"), CReLU(), FourierFeatures()):
            with pytest.raises(ValueError, match=rf"^{type(second).__name__} comes where nonlinearities of Perceptron"):
                second.build(first.build(Perceptron(), x), x)


def test_a_call_by_keyword_is_not_passed_over_in_silence():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.output = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.output(torch.relu(input=self.first(x)))

    with pytest.raises(ValueError, match=r"Activation reached 0 of 1 nonlinearity calls of Odd: call functions by pos"):
        Activation("gelu").build(Odd(), torch.randn(6, 4))


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_weight_norm_changes_nothing_at_first_and_splits_length_from_direction(net):
    module, x = net.module().double(), normal(6, *net.shape)
    made = WeightNorm().build(module, x)
    torch.testing.assert_close(made(x), module(x))
    params = Network(made).fresh(2)
    for layer in net.layers:
        lengths = params[f"{layer}.weight"].flatten(1).norm(dim=1)
        torch.testing.assert_close(params[f"{layer}.g"], lengths)
        other = {**params, f"{layer}.weight": params[f"{layer}.weight"] * 3}
        torch.testing.assert_close(functional_call(made, other, (x,)), functional_call(made, params, (x,)))
    gradient = grad(lambda p: functional_call(made, p, (x,)).square().sum())(params)
    for name in net.weights:  # along a row, nothing changes
        assert (gradient[name] * params[name]).flatten(1).sum(1).abs().max() < 1e-12


def test_a_row_of_zeros_has_finite_gradients():
    module = Perceptron().double()
    with torch.no_grad():
        module.second.weight[1] = 0
    made, x = WeightNorm().build(module, normal(6, 4)), normal(6, 4)
    torch.testing.assert_close(made(x), module(x))
    made(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("shape", [(5, 4), (4, 9), (7, 7)])
def test_the_largest_singular_value(shape):
    matrix = normal(*shape).requires_grad_()
    sigma = largest_singular_value(matrix, 2000)
    exact = torch.linalg.svdvals(matrix)[0]
    torch.testing.assert_close(sigma, exact)
    for found, wanted in zip(torch.autograd.grad(sigma, matrix), torch.autograd.grad(exact, matrix), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    few = [largest_singular_value(matrix, n).item() for n in range(1, 6)]
    assert few == sorted(few)
    assert few[-1] <= exact + 1e-12


def test_spectral_norm_is_of_the_first_linear_layer_or_of_the_hidden_ones():
    x, images = normal(6, 4), normal(6, 1, 4, 4)
    made = SpectralNorm(100).build(Perceptron().double(), x)
    assert torch.linalg.svdvals(made.first.used())[0].item() == pytest.approx(1.0)
    assert [name for name, m in made.named_children() if hasattr(m, "used")] == ["first"]
    made = SpectralNorm(100).build(Convolutional().double(), images)
    assert [name for name, m in made.named_children() if hasattr(m, "used")] == ["hidden"]
    made = SpectralNorm(500, layers="hidden").build(Convolutional().double(), images)
    assert [name for name, m in made.named_children() if hasattr(m, "used")] == ["first", "second", "hidden"]
    assert torch.linalg.svdvals(made.second.used().flatten(1))[0].item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="SpectralNorm found no linear layer before the output layer of Residual"):
        SpectralNorm(3).build(Residual(), torch.randn(6, 1, 4, 4))


def test_spectral_norm_does_not_depend_on_the_scale_and_zeros_stay_zeros():
    made, x = SpectralNorm(5).build(Perceptron().double(), normal(6, 4)), normal(6, 4)
    params = dict(made.named_parameters())
    scaled = {**params, "first.weight": 1e3 * params["first.weight"]}
    torch.testing.assert_close(functional_call(made, scaled, (x,)), made(x))
    zeros = {name: torch.zeros_like(p) for name, p in params.items()}
    gradient = grad(lambda p: functional_call(made, p, (x,)).square().sum())(zeros)
    assert all(g.isfinite().all() for g in gradient.values())


def test_weights_are_reparametrised_once_and_only_plain_layers():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    module = nn.Sequential(Own(4, 5), nn.ReLU(), nn.Linear(5, 2))
    for method in (WeightNorm(), SpectralNorm(3)):
        name = type(method).__name__
        with pytest.raises(
            ValueError, match=rf"^{name} takes plain nn\.Linear, .*, but 0 is .*\.Own: leave it out with Only"
        ):
            method.build(module, torch.randn(6, 4))
    made = Only("2", WeightNorm()).build(module, torch.randn(6, 4))
    assert [name for name, _ in made.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias", "2.g"]


# -- two numbers a unit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "f", "g"), [(CReLU(), F.relu, lambda z: F.relu(-z)), (FourierFeatures(), torch.sin, torch.cos)]
)
def test_readers_get_twice_the_inputs(method, f, g):
    x = normal(6, 1, 4, 4)
    made = method.build(Convolutional().double(), x)
    assert made.second.weight.shape == (3, 4, 2, 2)
    assert made.hidden.weight.shape == (4, 24)
    assert made.output.weight.shape == (3, 8)

    def both(z):
        return torch.cat([f(z), g(z)], 1)

    y = both(made.second(both(made.first(x)))).flatten(1)
    torch.testing.assert_close(made(x), made.output(both(made.hidden(y))))
    for units, layer in zip(Network(made, example=x).units, ("first", "second", "hidden"), strict=True):
        assert list(units.incoming) == [f"{layer}.weight", f"{layer}.bias"]
        assert len(units.sites) == 2
        assert units.exact


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: MLP(784, 10, hidden=(256, 256)), (784,)),
        (lambda: CNN((3, 32, 32), 10), (3, 32, 32)),
        (lambda: ViT((1, 12, 12), 10, depth=2), (1, 12, 12)),
    ],
    ids=["MLP", "CNN", "ViT"],
)
@pytest.mark.parametrize("norm", [(), (LayerNorm(),), (RMSNorm(axes="channels", affine=False),)], ids=str)
def test_at_equal_parameters_there_are_as_many_as_before(make, shape, norm):
    x = torch.randn(4, *shape)
    module = Chain(*norm).build(make(), x)
    made = CReLU(equal_parameters=True).build(module, x)
    assert 0.995 * count(module) < count(made) <= count(module) < count(CReLU().build(module, x))
    assert made(x).shape == (4, 10)
    Network(made).fresh(0)


def test_resized_layers_are_drawn_as_layers_of_their_size_by_the_callers_seed():
    module, x = MLP(4, 3, hidden=(50, 60)), torch.randn(6, 4)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(CReLU().build(module, x).state_dict())
    assert torch.equal(draws[0]["hidden.0.weight"], module.hidden[0].weight)  # its size did not change
    assert torch.equal(draws[0]["hidden.1.weight"], draws[1]["hidden.1.weight"])
    assert not torch.equal(draws[0]["hidden.1.weight"], draws[2]["hidden.1.weight"])
    assert draws[0]["hidden.1.weight"].abs().max() == pytest.approx(1 / math.sqrt(100), rel=0.01)
    fresh = Network(CReLU().build(module, x)).fresh(0)
    assert fresh["hidden.1.weight"].abs().max() == pytest.approx(1 / math.sqrt(100), rel=0.01)


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.output = nn.Linear(4, 3), nn.Linear(4, 5), nn.Linear(12, 2)

    def forward(self, x):
        return self.output(torch.cat([F.relu(self.right(x)), x, F.relu(self.left(x))], -1))


def test_concatenated_units_are_found():
    x = torch.randn(6, 4)
    made = CReLU().build(Joined(), x)
    assert made.output.weight.shape == (2, 2 * 3 + 2 * 5 + 4)
    assert made(x).shape == (6, 2)


class AfterNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.output = nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)

    def forward(self, x):
        return self.output(self.norm(F.relu(self.first(x))))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, groups=2)
        self.output = nn.Linear(32, 2)

    def forward(self, x):
        return self.output(F.relu(self.second(F.relu(self.first(x)))).flatten(1))


def test_where_widths_are_fixed_doubling_is_refused():
    images = torch.randn(6, 1, 4, 4)
    with pytest.raises(ValueError, match="CReLU cannot double the units of 'act' of Residual: more than linear or con"):
        CReLU().build(Residual(), images)
    with pytest.raises(
        ValueError, match="CReLU cannot double the units of 'relu' of AfterNorm: more than linear or con"
    ):
        CReLU().build(AfterNorm(), torch.randn(6, 4))
    with pytest.raises(ValueError, match=r"CReLU cannot resize second, which is Conv2d\(2, 2, .*groups=2\)"):
        CReLU().build(Depthwise(), images)


def test_a_pattern_restricts_what_is_doubled():
    made = Only("second.*", CReLU()).build(Perceptron(), torch.randn(6, 4))
    assert made.second.weight.shape == (4, 5)
    assert made.output.weight.shape == (3, 8)


# -- plasticity injection ----------------------------------------------------------------------------------------------


def trained(chain, module, optimizer, steps, event_at=None, x_shape=(4,)):
    population = Population(
        Network(chain.build(module, normal(6, *x_shape).float()), example=normal(6, *x_shape).float()),
        F.cross_entropy,
        [Member(seed, optimizer, chain) for seed in range(3)],
        dtype=torch.float64,
    )
    state = population.init()
    for step in range(steps):
        if step == event_at:
            population.fire(state, "task_switch")
        x = normal(3, 6, *x_shape, seed=step)
        population.step(state, x, x.flatten(2)[..., :3].argmax(-1))
    return population, state


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("norm", [(), (LayerNorm(),), (WeightNorm(),)], ids=str)
def test_the_head_is_theta_plus_new_minus_frozen(layers, norm):
    plain, x = Chain(*norm).build(Perceptron().double(), normal(6, 4)), normal(6, 4)
    made = PlasticityInjection(layers).build(plain, x)
    assert torch.equal(made(x), plain(x))
    network = Network(made, example=x)
    method, params = PlasticityInjection(layers), network.fresh(0)
    change = method.on_event(network, "task_switch", params, {}, method.init(network, params), Draw(0, 0))
    after = {**params, **change.params}
    assert torch.equal(network(after, x), network(params, x))  # nothing changes at the event
    for name in after:
        if "injection.new" in name:
            after[name] = after[name] + 0.3
    head = {
        name: p
        for name, p in dict(plain.named_parameters()).items()
        if name.split(".")[0] in ["first", "second", "output"][-layers:]
    }

    def run(copy):
        own = {n: after[f"{n.split('.')[0]}.injection.{copy}.{n.split('.', 1)[1]}"] for n in head} if copy else {}
        return functional_call(plain, {**{n: params[n] for n in dict(plain.named_parameters())}, **own}, (x,))

    torch.testing.assert_close(network(after, x), run("") + run("new") - run("frozen"))
    gradient = grad(lambda p: network(p, x).square().sum())(after)
    still = {n for n, g in gradient.items() if (g == 0).all()}
    assert still == {n for n in after if "frozen" in n or n.endswith("open")} | set(head)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.9), Adam(lr=0.01)], ids=["SGD", "Adam"])
@pytest.mark.parametrize("layers", [1, 2])
def test_before_the_event_training_is_as_without_it(optimizer, layers):
    _, plain = trained(Chain(), Perceptron(), optimizer, 10)
    _, closed = trained(Chain(PlasticityInjection(layers)), Perceptron(), optimizer, 10)
    for name, p in plain.params.items():
        torch.testing.assert_close(closed.params[name], p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
def test_after_the_event_only_the_new_head_and_the_encoder_learn(layers):
    chain = Chain(L2(0.1), PlasticityInjection(layers))
    population, before = trained(chain, Perceptron(), Adam(lr=0.01), 5)
    _, after = trained(chain, Perceptron(), Adam(lr=0.01), 12, event_at=5)
    own = [f"{layer}.{leaf}" for layer in ("second", "output")[-layers:] for leaf in ("weight", "bias")]
    for name in own:
        layer, leaf = name.split(".")
        assert torch.equal(after.params[name], before.params[name])  # L2 notwithstanding
        new, frozen = (after.params[f"{layer}.injection.{kind}.{leaf}"] for kind in ("new", "frozen"))
        assert (new != frozen).any()
        assert (frozen[0] != frozen[1]).any()  # every member has its own draw
    assert (after.params["first.weight"] != before.params["first.weight"]).all()
    again = {name: p.clone() for name, p in after.params.items()}
    population.fire(after, "task_switch")
    assert all(torch.equal(p, again[name]) for name, p in after.params.items())  # once


def test_tied_copies_are_injected_with_the_same_draws():
    chain = Chain(PlasticityInjection(1))
    population, state = trained(chain, Perceptron(), SGD(lr=0.1), 3)
    target = {name: p.clone() for name, p in state.initial.items()}
    x = normal(3, 6, 4)
    before = vmap(population.network)(target, x)
    population.fire(state, "task_switch", tied=[target])
    assert torch.equal(vmap(population.network)(target, x), before)
    assert torch.equal(target["output.injection.new.weight"], state.params["output.injection.new.weight"])


def test_heads_that_are_none_are_refused():
    images, tokens = torch.randn(6, 1, 4, 4), torch.randn(6, 2, 3)
    with pytest.raises(ValueError, match="found no head of 4 layers with one output layer in Perceptron, whose layers"):
        PlasticityInjection(4).build(Perceptron(), torch.randn(6, 4))
    for module, x in ((Residual(), images), (Attention(), tokens)):
        with pytest.raises(
            ValueError, match=f"PlasticityInjection cannot take the last 2 layers of {type(module).__name__}"
        ):
            PlasticityInjection(2).build(module, x)
    mixing = BatchNorm().build(Perceptron(), torch.randn(6, 4))
    made = PlasticityInjection(2).build(mixing, torch.randn(6, 4))  # its statistics are of each copy apart
    assert made.second.injection.new.norm.weight.shape == (4,)
    between = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="PlasticityInjection cannot take the last 2 layers of Sequential for a head"):
        PlasticityInjection(2).build(between, torch.randn(6, 4))
    for method in (LayerNorm(), WeightNorm()):
        with pytest.raises(ValueError, match=rf"^{type(method).__name__} cannot follow PlasticityInjection at second"):
            method.build(Only("*", PlasticityInjection(2)).build(Perceptron(), torch.randn(6, 4)), torch.randn(6, 4))


class PolicyAndValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.policy, self.value = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.policy(x), self.value(x)


def test_each_of_several_output_layers_is_a_head():
    x = normal(6, 4)
    network = Network(PlasticityInjection(1).build(PolicyAndValue().double(), x))
    params, method = network.fresh(0), PlasticityInjection(1)
    after = {**params, **method.on_event(network, "task_switch", params, {}, {}, Draw(0, 0)).params}
    assert all(map(torch.equal, network(after, x), network(params, x)))
    after["value.injection.new.bias"] += 1
    assert torch.equal(network(after, x)[0], network(params, x)[0])
    torch.testing.assert_close(network(after, x)[1], network(params, x)[1] + 1)
    with pytest.raises(ValueError, match="found no head of 2 layers with one output layer in PolicyAndValue"):
        PlasticityInjection(2).build(PolicyAndValue(), x.float())


def test_a_network_without_branches_is_refused():
    network = Network(Perceptron())
    with pytest.raises(ValueError, match="PlasticityInjection found no branches in Perceptron: write module = Chain"):
        PlasticityInjection(1).init(network, network.params())


# -- features of length 1 ----------------------------------------------------------------------------------------------


def test_features_have_length_1_and_zeros_stay_zeros():
    made, x = OutputNorm().build(Perceptron().double(), normal(6, 4)), normal(6, 4)
    trace = Network(made).trace(dict(made.named_parameters()), x)
    torch.testing.assert_close(trace.features.norm(dim=1), torch.ones(6).double())
    params = {name: torch.zeros_like(p) for name, p in made.named_parameters()}
    gradient = grad(lambda p: functional_call(made, p, (x,)).square().sum())(params)
    assert all(g.isfinite().all() for g in gradient.values())
    assert not functional_call(made, params, (x,)).any()


def test_every_output_layer_reads_features_of_length_1():
    made, x = OutputNorm().build(PolicyAndValue().double(), normal(6, 4)), normal(6, 4)
    phi = F.normalize(F.relu(made.first(x)))
    policy, value = made(x)
    torch.testing.assert_close(policy, phi @ made.policy.weight.T + made.policy.bias)
    torch.testing.assert_close(value, phi @ made.value.weight.T + made.value.bias)
