"""A module as a pure function of its parameters: its numbers, fresh draws, and what a trace sees."""

import copy
import functools
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn
from torch.func import grad, vmap

from pliant.nets import CNN, MLP, Dropout
from pliant.network import Network

IMPORT_WARNING = "ignore:.torch.jit.script:DeprecationWarning"  # raised when torch.compile imports its compiler


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear_net(*middle, inputs=4, outputs=2, units=8):
    return nn.Sequential(nn.Linear(inputs, units), *middle, nn.Linear(units, outputs))


class Between(nn.Module):
    """A hidden layer, a function written in the forward pass, an output layer."""

    def __init__(self, function):
        super().__init__()
        self.hidden, self.output, self.function = nn.Linear(4, 8), nn.Linear(8, 2), function

    def forward(self, x):
        return self.output(self.function(self.hidden(x)))


class WrittenGELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.value, self.output = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.output(F.silu(self.gate(x)) * self.value(x))


class SquaredReLU(nn.Module):
    def forward(self, x):
        return x.clamp(min=0) ** 2


class SharedActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), nn.ReLU()

    def forward(self, x):
        return self.c(self.act(self.b(self.act(self.a(x)))))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return x + F.relu(self.linear(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.expand, self.contract = nn.Linear(8, 12), nn.Linear(12, 2)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.contract(F.gelu(self.expand(x)))


class Policy(nn.Module):
    """Nonlinearities of what is no activation: a learned deviation, whole numbers."""

    def __init__(self):
        super().__init__()
        self.hidden, self.mean, self.deviation = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.zeros(2))

    def reset_parameters(self):
        nn.init.zeros_(self.deviation)

    def forward(self, x):
        wave = torch.cos(torch.arange(6).reshape(3, 2)).sum()
        return self.mean(torch.tanh(self.hidden(x))) * F.softplus(self.deviation) + wave


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory, self.output = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.output(F.relu(self.memory(x)[0]))


def transformer_layer(**settings):
    return nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **settings)


VECTORS, TOKENS, IMAGES = normal(5, 4), normal(5, 3, 4), normal(5, 3, 6, 7)
SEEN = {  # module, inputs, shape of every site by name
    "nn.ReLU": (lambda: linear_net(nn.ReLU()), VECTORS, {"1": (5, 8)}),
    "nn.ReLU in place": (lambda: linear_net(nn.ReLU(inplace=True)), VECTORS, {"1": (5, 8)}),
    "F.relu": (lambda: Between(F.relu), VECTORS, {"relu": (5, 8)}),
    "F.relu in place": (lambda: Between(functools.partial(F.relu, inplace=True)), VECTORS, {"relu": (5, 8)}),
    "F.relu_": (lambda: Between(F.relu_), VECTORS, {"relu": (5, 8)}),
    "x.relu()": (lambda: Between(lambda x: x.relu()), VECTORS, {"relu": (5, 8)}),
    "x.relu_()": (lambda: Between(lambda x: x.relu_()), VECTORS, {"relu": (5, 8)}),
    "torch.tanh": (lambda: Between(torch.tanh), VECTORS, {"tanh": (5, 8)}),
    "input=": (lambda: Between(lambda x: F.relu(input=x)), VECTORS, {"relu": (5, 8)}),
    "two in a row": (lambda: Between(lambda x: torch.sin(F.elu(x))), VECTORS, {"elu": (5, 8), "sin": (5, 8)}),
    "shared module": (SharedActivation, VECTORS, {"act": (5, 8), "act#2": (5, 6)}),
    "GELU written out": (lambda: linear_net(WrittenGELU()), VECTORS, {"1": (5, 8)}),
    "own function": (lambda: linear_net(SquaredReLU()), VECTORS, {"1": (5, 8)}),
    "SwiGLU": (SwiGLU, VECTORS, {"silu": (5, 8)}),
    "nested": (
        lambda: linear_net(nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Tanh()))),
        VECTORS,
        {"1.0.1": (5, 8)},
    ),
    "a Sequential of functions": (lambda: linear_net(nn.Sequential(nn.Identity(), nn.ReLU())), VECTORS, {"1": (5, 8)}),
    "in a block": (lambda: linear_net(Block(), Block()), VECTORS, {"1.relu": (5, 8), "2.relu": (5, 8)}),
    "PReLU": (lambda: linear_net(nn.PReLU(8)), VECTORS, {"1.prelu": (5, 8)}),
    "evaluation dropout": (lambda: linear_net(nn.Dropout(), nn.ReLU()).eval(), VECTORS, {"2": (5, 8)}),
    "no units": (Policy, VECTORS, {"tanh": (5, 8)}),
    "tokens": (lambda: linear_net(nn.GELU()), TOKENS, {"1": (15, 8)}),
    "MultiheadAttention": (Attention, TOKENS, {"gelu": (15, 12)}),
    "TransformerEncoderLayer": (
        lambda: nn.Sequential(nn.Linear(4, 8), transformer_layer(dropout=0.0), nn.Linear(8, 2)),
        TOKENS,
        {"1.relu": (15, 12)},
    ),
    "its fast path": (
        lambda: nn.Sequential(nn.Linear(4, 8), transformer_layer(activation="gelu"), nn.Linear(8, 2)).eval(),
        TOKENS,
        {"1.gelu": (15, 12)},
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 6), nn.ReLU(), nn.Linear(6, 2)
        ),
        IMAGES,
        {"1": (5 * 4 * 5, 4), "4": (5, 6)},
    ),
    "pooled convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), nn.Linear(4, 2)),
        IMAGES,
        {"3": (5, 4)},
    ),
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(224, 2)),
        IMAGES,
        {"1": (5 * 7 * 8, 4)},
    ),
    "after a convolution to tokens": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 2)),
        IMAGES,
        {"3": (5 * 4, 6)},
    ),
}
every_net = pytest.mark.parametrize(("make", "x", "sites"), SEEN.values(), ids=SEEN)


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# -- the function ------------------------------------------------------------------------------------------------------


@every_net
def test_equals_the_module_and_leaves_it_alone(make, x, sites):
    module = make().double()
    before, mode, words = copy.deepcopy(module.state_dict()), module.training, repr(module)
    net = Network(module)
    torch.testing.assert_close(net(net.params(), x.double()), module(x.double()))
    net.trace(net.params(), x.double())
    net.fresh(0)
    for p in net.params().values():
        p.fill_(7.0)
    assert same(module.state_dict(), before)
    assert module.training == mode
    assert repr(module) == words
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@every_net
def test_bound_equals_the_function(make, x, sites):
    """The same outputs and gradients from the tensors themselves, also after they have been written to."""
    net = Network(make().double())
    params = net.fresh(0)
    function, leaves = net.bound(params)
    for p in params.values():
        p.mul_(0.9)
    free = {name: p.clone().requires_grad_() for name, p in params.items()}
    close(function(leaves, x.double()), net(params, x.double()))
    found = torch.autograd.grad(function(leaves, x.double()).sin().sum(), [*leaves.values()])
    expected = torch.autograd.grad(net(free, x.double()).sin().sum(), [*free.values()])
    close(found, expected)
    assert list(leaves) == list(params)


def test_bound_takes_a_key_and_forgets_it():
    net = Network(linear_net(nn.ReLU(), Dropout(0.5)))
    params = net.fresh(0)
    function, leaves = net.bound(params)
    key = torch.tensor([1, 2])
    assert torch.equal(function(leaves, VECTORS, key), net(params, VECTORS, key))
    assert torch.equal(function(leaves, VECTORS), net(params, VECTORS))
    assert not torch.equal(net(params, VECTORS, key), net(params, VECTORS))


def test_shared_parameters_are_one():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    module[2].weight = module[0].weight
    net = Network(module)
    params = net.params()
    assert list(params) == ["0.weight", "0.bias", "2.bias", "4.weight", "4.bias"]
    moved = {name: p + 0.5 for name, p in params.items()}
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for p in copied.parameters():
            p.add_(0.5)
    assert torch.equal(net(moved, VECTORS), copied(VECTORS))
    copied(VECTORS).sum().backward()
    gradient = grad(lambda p: net(p, VECTORS).sum())(moved)["0.weight"]
    torch.testing.assert_close(gradient, copied[0].weight.grad)
    assert net.fresh(0).keys() == params.keys()


def test_any_input_is_one_argument():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            image, action = (x["image"], x["action"]) if isinstance(x, dict) else x
            return self.b(F.relu(self.a(image) + action))

    net = Network(Fused())
    parts = VECTORS, normal(5, 8, seed=1)
    named = dict(zip(("image", "action"), parts, strict=True))
    assert torch.equal(net(net.params(), parts), net(net.params(), named))
    assert net.trace(net.params(), named).sites["relu"].pre.shape == (5, 8)


def test_an_output_may_be_anything():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.value, self.policy = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 3)

        def forward(self, x):
            x = self.body(x).relu()
            return {"value": self.value(x), "policy": (self.policy(x),)}

    net = Network(TwoHeads())
    output = net.trace(net.params(), VECTORS).output
    assert torch.equal(output["policy"][0], net(net.params(), VECTORS)["policy"][0])


@pytest.mark.parametrize(("wrong", "got"), [(lambda: 3, "int"), (lambda: nn.Linear, "type"), (3.0, "float")])
def test_refuses_what_is_no_module(wrong, got):
    with pytest.raises(ValueError, match=f"expected an nn.Module or a function that returns one, got {got}"):
        Network(wrong)


def test_names_of_weights_and_normalisers():
    module = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 4, 3), batch=nn.BatchNorm2d(4, track_running_stats=False), act=nn.PReLU(),
            flat=nn.Flatten(), hidden=nn.Linear(80, 6), layer=nn.LayerNorm((6,)), act2=nn.ReLU(), out=nn.Linear(6, 2),
        )
    )  # fmt: skip
    net = Network(module)
    assert net.normalisers == {"batch.weight", "batch.bias", "layer.weight", "layer.bias"}
    assert net.weights == ("conv.weight", "hidden.weight", "out.weight")
    assert Network(nn.LayerNorm((4, 5))).normalisers == {"weight", "bias"}
    assert Network(nn.LayerNorm((4, 5))).weights == ()


def test_pickles():
    net = Network(MLP(4, 2, hidden=(8,)))
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again(net.fresh(0), VECTORS), net(net.fresh(0), VECTORS))
    assert list(again.trace(net.fresh(0), VECTORS).sites) == ["activations.0"]


# -- what is no function -----------------------------------------------------------------------------------------------

IMPURE = {
    "Dropout": (nn.Dropout(0.1), r"Dropout '1' draws .* pliant.nets.Dropout\(p\)"),
    "AlphaDropout": (nn.AlphaDropout(0.1), "AlphaDropout '1' draws"),
    "BatchNorm1d": (nn.BatchNorm1d(8), "BatchNorm1d '1' updates .* track_running_stats=False"),
    "InstanceNorm1d": (nn.InstanceNorm1d(8, track_running_stats=True), "InstanceNorm1d '1' updates running"),
}


@pytest.mark.parametrize(("layer", "message"), IMPURE.values(), ids=IMPURE)
def test_refuses_random_layers_and_running_statistics_in_training(layer, message):
    with pytest.raises(ValueError, match=message):
        Network(linear_net(layer, nn.ReLU()))
    Network(linear_net(layer, nn.ReLU()).eval())


@pytest.mark.parametrize("layer", [nn.Dropout(0.0), nn.BatchNorm1d(8, track_running_stats=False), nn.InstanceNorm1d(8)])
def test_accepts_their_pure_forms_in_training(layer):
    Network(linear_net(layer, nn.ReLU()))


def evaluated():
    """Batch normalisation with running statistics that are not those of the start."""
    module = linear_net(nn.BatchNorm1d(8), nn.ReLU())
    for seed in range(5):
        module(3 + normal(20, 4, seed=seed))
    return module.eval()


def test_running_statistics_are_constants():
    module = evaluated()
    net = Network(module)
    params = {name: torch.stack([net.fresh(seed)[name] for seed in range(3)]) for name in net.params()}
    together = vmap(net, in_dims=(0, None))(params, VECTORS)
    loop = torch.stack([net({name: p[m] for name, p in params.items()}, VECTORS) for m in range(3)])
    torch.testing.assert_close(together, loop)
    assert torch.equal(net(net.params(), VECTORS), module(VECTORS))
    assert same(dict(net.module.named_buffers()), dict(module.named_buffers()))


@pytest.mark.parametrize("how", ["call", "bound", "trace", "vmap"])
def test_buffers_follow_the_dtype_of_the_parameters(how):
    module = evaluated()
    net, expected = Network(module), copy.deepcopy(module).double()(VECTORS.double())
    params = {name: p.double() for name, p in net.params().items()}
    calls = {
        "call": lambda: net(params, VECTORS.double()),
        "bound": lambda: net.bound(params)[0](params, VECTORS.double()),
        "trace": lambda: net.trace(params, VECTORS.double()).output,
        "vmap": lambda: vmap(net, in_dims=(0, None))({k: p[None] for k, p in params.items()}, VECTORS.double())[0],
    }
    torch.testing.assert_close(calls[how](), expected)
    assert net.module[1].running_mean.dtype is torch.float32


# -- fresh draws -------------------------------------------------------------------------------------------------------


@every_net
def test_fresh_is_a_function_of_the_seed(make, x, sites):
    net = Network(make())
    before = torch.get_rng_state()
    first, again, other = net.fresh(3), net.fresh(3), net.fresh(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert same(first, again)
    assert same(first, net.fresh(3))
    assert not any(torch.equal(first[name], other[name]) for name in net.weights)
    assert {n: (p.shape, p.dtype) for n, p in first.items()} == {n: (p.shape, p.dtype) for n, p in net.params().items()}


LAYERS = {
    "Linear": lambda: nn.Linear(20, 100),
    "Conv1d": lambda: nn.Conv1d(5, 100, 3),
    "Conv2d": lambda: nn.Conv2d(5, 100, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(100, 100, 2),
    "Bilinear": lambda: nn.Bilinear(5, 5, 100),
    "Embedding": lambda: nn.Embedding(100, 20),
    "LayerNorm": lambda: nn.LayerNorm(100),
    "BatchNorm1d": lambda: nn.BatchNorm1d(100, track_running_stats=False),
    "PReLU": lambda: nn.PReLU(100),
    "LSTM": lambda: nn.LSTM(5, 25),
    "MultiheadAttention": lambda: nn.MultiheadAttention(100, 2),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(100, 2, 100, dropout=0.0),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_fresh_draws_come_from_the_layers_own_distribution(make):
    """A two-sample test on 10,000 draws, from a module whose own parameters are far away."""
    module = make()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(100.0)
    net = Network(module)
    for name, p in net.params().items():
        seeds = range(-(-10_000 // p.numel()))
        drawn = torch.cat([net.fresh(seed)[name].flatten() for seed in seeds])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(123)
            built = torch.cat([dict(make().named_parameters())[name].detach().flatten() for _ in seeds])
        if built.std() == 0:
            assert torch.equal(drawn, built), name
        else:
            assert stats.ks_2samp(drawn.numpy(), built.numpy()).pvalue > 1e-3, name


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_fresh_draws_what_the_constructor_draws(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        expected = {name: p.detach() for name, p in make().named_parameters()}
    assert same(Network(make()).fresh(11), expected)


def test_fresh_keeps_the_dtype_of_the_module():
    assert all(p.dtype is torch.float64 for p in Network(linear_net(nn.ReLU()).double()).fresh(0).values())


def orthogonal():
    module = linear_net(nn.ReLU())
    nn.init.orthogonal_(module[0].weight)
    return module


def test_a_factory_keeps_its_own_initialisation():
    before = torch.get_rng_state()
    net = Network(orthogonal)
    weight = net.fresh(0)["0.weight"]
    torch.testing.assert_close(weight.T @ weight, torch.eye(4))
    assert same(net.fresh(0), net.fresh(0))
    assert not torch.equal(weight, net.fresh(1)["0.weight"])
    assert torch.equal(before, torch.get_rng_state())
    assert same(net.params(), Network(orthogonal).params())


def own_parameter():
    layer = nn.Module()
    layer.scale = nn.Parameter(torch.randn(3))
    return nn.Sequential(nn.Linear(4, 3), layer)


class ScaledLinear(nn.Linear):
    """Draws its weight and bias, and forgets its scale."""

    def __init__(self):
        super().__init__(4, 3)
        self.scale = nn.Parameter(torch.randn(3))


class ForgetfulNorm(nn.LayerNorm):
    """Fills its weight and bias once, and does not know how to do so again."""

    def __init__(self, width):
        super().__init__(width)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def reset_parameters(self):
        pass


UNDRAWN = {
    "no reset_parameters": (own_parameter, "no reset_parameters.. draws '1.scale' of Module"),
    "an incomplete one": (lambda: nn.Sequential(ScaledLinear()), "draws '0.scale' of ScaledLinear"),
    "the root": (ScaledLinear, "draws 'scale' of ScaledLinear"),
    "an empty one": (lambda: ForgetfulNorm(3), "draws 'weight' of ForgetfulNorm"),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        "draws 'parametrizations.weight.original0' of ParametrizationList",
    ),
}


@pytest.mark.parametrize(("make", "message"), UNDRAWN.values(), ids=UNDRAWN)
def test_refuses_to_draw_what_no_layer_draws(make, message):
    before = torch.get_rng_state()
    net = Network(make())
    params = {name: p.clone() for name, p in net.params().items()}
    torch.set_rng_state(before)
    with pytest.raises(ValueError, match=message) as caught:
        net.fresh(0)
    assert "write Network(lambda: make_model())" in str(caught.value)
    assert torch.equal(before, torch.get_rng_state())
    assert same(net.params(), params)
    assert Network(make).fresh(0).keys() == net.params().keys()


def test_a_tensor_that_layers_of_two_kinds_draw_needs_a_factory():
    def make():
        module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
        module[1].weight = module[0].weight
        return module

    with pytest.raises(ValueError, match=r"'0.weight' and '1.weight' are one tensor.*lambda: make_model"):
        Network(make()).fresh(0)
    assert list(Network(make).fresh(0)) == ["0.weight"]


def test_layers_that_scale_what_inner_layers_drew():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self.reset_parameters()

        @torch.no_grad()
        def reset_parameters(self):
            self.inner.weight.mul_(0.01)

    assert 0 < Network(Small()).fresh(0)["inner.weight"].abs().max() < 0.01


# -- traces ------------------------------------------------------------------------------------------------------------


@every_net
def test_trace_sees_every_nonlinearity(make, x, sites):
    net = Network(make())
    trace = net.trace(net.fresh(0), x)
    assert {name: tuple(site.pre.shape) for name, site in trace.sites.items()} == sites
    for site in trace.sites.values():
        assert site.pre.shape == site.post.shape == site.slope.shape
        assert not torch.equal(site.pre, site.post)
        assert not any(t.requires_grad for t in site)
    torch.testing.assert_close(trace.output, net(net.fresh(0), x))


@every_net
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's own, for its fused attention
def test_trace_under_vmap_equals_a_loop(make, x, sites):
    net = Network(make().double())
    members = [net.fresh(seed) for seed in range(3)]
    stacked = {name: torch.stack([p[name] for p in members]) for name in members[0]}
    xs = torch.stack([x.double() + shift for shift in range(3)])
    together = vmap(net.trace)(stacked, xs)
    assert list(together.sites) == list(sites)
    for m, params in enumerate(members):
        alone = net.trace(params, xs[m])
        close(together.output[m], alone.output)
        close(together.features[m], alone.features)
        for name, site in alone.sites.items():
            close(tuple(t[m] for t in together.sites[name]), tuple(site))


@every_net
def test_hooks_are_gone_afterwards(make, x, sites):
    net = Network(make())
    net.trace(net.params(), x)
    with pytest.raises((RuntimeError, ValueError)):
        net.trace(net.params(), x[:, :-1] if x.ndim == 4 else x[..., :-1])  # too few features
    for module in net.module.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    net.trace(net.params(), x)


class Explosive(nn.Module):
    """An elementwise function that fails on what the hidden layer gives it."""

    def forward(self, x):
        if x.shape == (5, 8):
            raise ZeroDivisionError("boom")
        return torch.relu(x)


@pytest.mark.parametrize("make", [lambda: linear_net(Explosive()), lambda: Between(Explosive().forward)])
def test_an_exception_comes_through_and_leaves_nothing_behind(make):
    net = Network(make())
    with pytest.raises(ZeroDivisionError, match="boom"):
        net.trace(net.params(), VECTORS)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.module.modules())
    assert torch.overrides._get_current_function_mode_stack() == []
    assert net.trace(net.params(), VECTORS[:4]).sites  # the recorder of one trace is not that of the next


def test_an_exception_that_the_forward_pass_handles():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.risky, self.act = nn.Linear(4, 8), nn.Linear(8, 2), Explosive(), nn.ReLU()

        def forward(self, x):
            x = self.a(x)
            try:
                x = self.risky(x)
            except ZeroDivisionError:
                x = self.act(x)
            return self.b(x)

    net = Network(Careful())
    assert list(net.trace(net.params(), VECTORS).sites) == ["act"]


def test_values_of_a_trace():
    net = Network(linear_net(nn.ReLU(inplace=True)))
    params = net.fresh(0)
    trace = net.trace(params, VECTORS)
    pre = F.linear(VECTORS, params["0.weight"], params["0.bias"])
    site = trace.sites["1"]
    assert torch.equal(site.pre, pre)
    assert torch.equal(site.post, pre.relu())
    assert torch.equal(site.slope, (pre > 0).float())
    assert torch.equal(trace.features, pre.relu())


def test_convolution_units_are_channels():
    net = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2)))
    params = net.fresh(0)
    trace = net.trace(params, IMAGES)
    pre = F.conv2d(IMAGES, params["0.weight"], params["0.bias"])
    for channel in range(4):
        assert torch.equal(trace.sites["1"].pre[:, channel], pre[:, channel].flatten())
    assert torch.equal(trace.features, pre.relu().flatten(1))


def test_features_are_the_input_of_the_last_layer():
    net = Network(CNN((3, 6, 7), 2, channels=(3, 4), hidden=(5, 4)))
    assert net.trace(net.fresh(0), IMAGES).features.shape == (5, 4)
    fully = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    assert fully.trace(fully.fresh(0), IMAGES).features.shape == (5, 80)
    tokens = Network(linear_net(nn.ReLU()))
    assert tokens.trace(tokens.fresh(0), TOKENS).features.shape == (15, 8)


SLOPES = {
    "relu": F.relu, "relu_": F.relu_, "leaky_relu": F.leaky_relu,
    "leaky 0.3": functools.partial(F.leaky_relu, negative_slope=0.3), "elu": F.elu, "selu": F.selu, "celu": F.celu,
    "gelu": F.gelu, "tanh gelu": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu, "mish": F.mish, "softplus": F.softplus, "softsign": F.softsign, "tanh": torch.tanh,
    "tanh_": torch.tanh_, "Tensor.tanh": torch.Tensor.tanh, "F.tanh": F.tanh, "sigmoid": torch.sigmoid,
    "F.sigmoid": F.sigmoid, "logsigmoid": F.logsigmoid, "hardtanh": functools.partial(F.hardtanh, min_val=-0.5),
    "relu6": F.relu6, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "tanhshrink": F.tanhshrink,
    "softshrink": F.softshrink, "hardshrink": F.hardshrink, "threshold": lambda x: F.threshold(x, 0.1, 0.2),
    "sin": torch.sin, "cos": torch.cos, "prelu": lambda x: F.prelu(x, torch.tensor(0.3, dtype=x.dtype)),
}  # fmt: skip


@pytest.mark.parametrize("function", SLOPES.values(), ids=SLOPES)
def test_slope_is_the_derivative(function):
    net = Network(Between(function).double())
    params = net.fresh(0)
    trace = net.trace(params, 3 * VECTORS.double())
    (site,) = trace.sites.values()
    pre = F.linear(3 * VECTORS.double(), params["hidden.weight"], params["hidden.bias"])
    close(site.pre, pre)
    close(site.post, function(pre.clone()))
    close(site.slope, vmap(vmap(grad(lambda t: function(t.clone()))))(pre))


ACTIVATIONS = [
    name
    for name in torch.nn.modules.activation.__all__
    if name not in {"GLU", "MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin"}  # not elementwise
]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_elementwise_activation_of_torch_is_seen(name):
    layer = nn.Threshold(0.1, 0.2) if name == "Threshold" else getattr(nn, name)()
    net = Network(linear_net(layer).eval())
    (site,) = net.trace(net.fresh(0), VECTORS).sites.values()
    x = site.pre.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer.eval()(x).sum(), x)
    torch.testing.assert_close(site.slope, slope)


def test_prelu_of_a_convolution_has_a_slope_a_channel():
    net = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(80, 2)))
    params = {**net.fresh(0), "1.weight": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    site = net.trace(params, IMAGES).sites["1.prelu"]
    expected = torch.where(site.pre > 0, 1.0, params["1.weight"])
    torch.testing.assert_close(site.slope, expected)


AFFINE = {
    "Identity": nn.Identity(),
    "Dropout": nn.Dropout(0.5).eval(),
    "Flatten": nn.Flatten(),
    "Sequential": nn.Sequential(nn.Identity(), nn.Dropout(0.5)).eval(),
}


@pytest.mark.parametrize("layer", AFFINE.values(), ids=AFFINE)
def test_affine_modules_are_no_nonlinearities(layer):
    net = Network(linear_net(layer))
    with pytest.raises(ValueError, match=r"no nonlinearity was seen in Sequential: .*wrap your own"):
        net.trace(net.params(), VECTORS)


def test_a_network_without_a_linear_map_has_no_features():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return torch.relu(x * self.w)

    net = Network(Scaled())
    with pytest.raises(ValueError, match=r"no linear map was seen in Scaled.*write nn.Linear"):
        net.trace(net.params(), VECTORS)


def test_warns_of_what_cannot_be_seen():
    net = Network(Recurrent())
    with pytest.warns(UserWarning, match="inside 'memory' cannot be seen"):
        trace = net.trace(net.fresh(0), TOKENS)
    assert list(trace.sites) == ["relu"]


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_warns_of_scripted_modules():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    net = Network(linear_net(nn.Tanh(), scripted))
    with pytest.warns(UserWarning, match="inside '2', .* cannot be seen"):
        trace = net.trace(net.params(), VECTORS)
    assert list(trace.sites) == ["1"]


def test_recurrent_networks_are_trained_by_their_own_weights():
    """LSTM keeps a second list of its weights, which must be the ones handed over."""
    net = Network(Recurrent().double())
    params, x = net.fresh(0), TOKENS.double()
    function, leaves = net.bound(params)
    free = {name: p.clone().requires_grad_() for name, p in params.items()}
    expected = torch.autograd.grad(net(free, x).sum(), [*free.values()])
    close(torch.autograd.grad(function(leaves, x).sum(), [*leaves.values()]), expected)
    assert all(g.abs().sum() > 0 for g in expected)


@pytest.mark.filterwarnings(IMPORT_WARNING)
@pytest.mark.parametrize("make", [linear_net, lambda layer: Between(layer)])
def test_a_compiled_module_is_seen_through(make):
    module = make(nn.ReLU())
    compiled = torch.compile(module, backend="eager")
    compiled(VECTORS)
    net = Network(compiled)
    assert list(net.params()) == list(dict(module.named_parameters()))
    assert list(net.trace(net.params(), VECTORS).sites) in (["1"], ["function"])
    assert torch.equal(net(net.params(), VECTORS), module(VECTORS))
    made = Network(lambda: torch.compile(make(nn.ReLU()), backend="eager"))
    assert list(made.fresh(0)) == list(net.fresh(0))


@pytest.mark.filterwarnings(IMPORT_WARNING)
def test_a_compiled_part_is_seen_through():
    module = nn.Sequential(torch.compile(linear_net(nn.ReLU()), backend="eager"), nn.Tanh(), nn.Linear(2, 2))
    module(VECTORS)
    net = Network(module)
    sites = net.trace(net.params(), VECTORS).sites
    assert [name.removeprefix("0._orig_mod.") for name in sites] == ["1", "1"]
    net = Network(Between(torch.compile(lambda x: F.relu(x), backend="eager")))
    assert list(net.trace(net.params(), VECTORS).sites) == ["relu"]


class Rotary(nn.Module):
    """Angles of positions, as language models turn their queries by; sines of what a layer returned."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        angles = torch.arange(x.shape[1]).to(x)[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001]).to(x)
        return self.last(torch.sin(self.first(x * angles.cos() + x.flip(-1) * torch.sin(angles))))


def test_sines_of_positions_are_no_site():
    net = Network(Rotary())
    trace = net.trace(net.params(), torch.randn(3, 5, 4))
    assert list(trace.sites) == ["sin"]
    assert trace.sites["sin"].pre.shape == (15, 6)
    assert list(net.watch(net.params(), torch.randn(3, 5, 4)).activations) == ["sin"]
    assert list(net.watch(net.params(), torch.randn(3, 5, 4)).activations) == ["sin"]  # without hooks


class Turned(nn.Module):
    """Queries turned by the angles of positions, which are computed where they are needed, behind a layer."""

    def __init__(self):
        super().__init__()
        self.query, self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("frequency", torch.tensor([1.0, 0.1]), persistent=False)

    def forward(self, x):
        q = self.query(x)
        angles = torch.outer(torch.arange(x.shape[1], dtype=x.dtype), self.frequency)
        a, b = q.chunk(2, -1)
        q = torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)
        return self.down(F.silu(self.up(x + q)) * torch.sin(self.up(q)))


def test_sines_of_positions_behind_a_layer_are_no_site():
    net, x = Network(Turned()), torch.randn(3, 5, 4)
    assert list(net.trace(net.params(), x).sites) == ["silu", "sin"]
    for _ in range(2):  # with hooks, and without
        assert list(net.watch(net.params(), x).activations) == ["silu", "sin"]
    traced = torch.vmap(net.trace)({name: p[None] for name, p in net.params().items()}, x[None])
    assert list(traced.sites) == ["silu", "sin"]


class Positive(nn.Module):
    """A layer whose weights a softplus keeps positive."""

    def __init__(self, num_in, num_out):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(num_out, num_in)), nn.Parameter(torch.zeros(num_out))

    def forward(self, x):
        return F.linear(x, F.softplus(self.weight), self.bias)


class Softplus(nn.Module):
    def forward(self, weight):
        return F.softplus(weight)


def test_what_is_made_of_parameters_alone_is_no_site():
    kept = nn.utils.parametrizations.parametrize.register_parametrization(nn.Linear(4, 3), "weight", Softplus())
    for first in (Positive(4, 3), kept):
        net = Network(nn.Sequential(first, nn.Tanh(), nn.Linear(3, 2)), example=VECTORS)
        assert list(net.trace(net.params(), VECTORS).sites) == ["1"]
        for _ in range(2):
            assert list(net.watch(net.params(), VECTORS).activations) == ["1"]
        (units,) = net.units
        assert dict(units.sites) == {"1": 1}
        assert any(name.startswith("0.") and "weight" in name for name in units.incoming)
