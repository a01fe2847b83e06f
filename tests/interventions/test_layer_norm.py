"""Layer normalisation built into modules of any make."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

from pliant.interventions import L2, Chain, LayerNorm
from pliant.nets import CNN, MLP, layer_norm
from pliant.network import Network
from tests.interventions.nets import NETS, Attention, Convolutional, Perceptron, Residual

every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
leaves_some_alone = pytest.mark.filterwarnings("ignore:LayerNorm left alone")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def example(net, size=6):
    return normal(size, *net.shape)


@leaves_some_alone
@every_net
def test_returns_a_copy_with_existing_keys_kept(net):
    module = net.module()
    before = copy.deepcopy(module.state_dict())
    built = LayerNorm().build(module, example(net))
    norms = {f"{layer}.norm.{kind}" for layer in net.hidden for kind in ("weight", "bias")}
    assert set(built.state_dict()) == set(before) | norms
    for name, p in before.items():
        assert torch.equal(built.state_dict()[name], p)
        assert torch.equal(module.state_dict()[name], p)
        assert built.state_dict()[name].data_ptr() != module.state_dict()[name].data_ptr()
    assert module.state_dict().keys() == before.keys()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    built.load_state_dict(before, strict=False)  # a checkpoint of the plain module fits


@leaves_some_alone
@every_net
def test_sits_between_the_layer_and_its_nonlinearity(net):
    """At the start every sample's preactivation has mean 0 and variance 1 over units (and space)."""
    built = Network(LayerNorm().build(net.module().double(), example(net).double()))
    x = example(net).double()
    trace = built.trace(built.fresh(0), x)
    normalised = [site.pre for site in trace.sites.values()][: len(net.hidden)]
    plain = Network(net.module().double())
    untouched = [site.pre for site in plain.trace(plain.fresh(0), x).sites.values()]
    for pre in normalised:
        images = x.ndim == 4 and len(pre) != len(x)
        samples = pre.reshape(len(x), -1) if images else pre  # an image's positions together, each token alone
        assert samples.mean(1).abs().max() < 1e-12
        torch.testing.assert_close(samples.var(1, correction=0), torch.ones(len(samples)).double(), rtol=1e-2, atol=0)
    assert untouched[0].mean(1).abs().max() > 0.01
    params = built.fresh(0)
    plain_output = F.linear(trace.features, params["output.weight"], params["output.bias"])
    torch.testing.assert_close(trace.output, plain_output)


@pytest.mark.parametrize("residual", [True, False])
def test_warns_where_no_layer_feeds_a_nonlinearity(residual):
    if residual:
        with pytest.warns(UserWarning, match="LayerNorm left alone act#3: no layer feeds") as caught:
            LayerNorm().build(Residual(), normal(6, 1, 4, 4))
        assert len(caught) == 1
    else:
        LayerNorm().build(Perceptron(), normal(6, 4))


NOTHING = {
    "normalised already": nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2)),
    "linear": nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)),
    "only the output is squashed": nn.Sequential(nn.Linear(4, 2), nn.Tanh()),
}


@pytest.mark.parametrize("module", NOTHING.values(), ids=NOTHING)
def test_says_so_when_nothing_matched(module):
    with pytest.raises(ValueError, match="LayerNorm found no linear or convolution layer of Sequential that feeds"):
        LayerNorm().build(module, normal(6, 4))


class Called(nn.Module):
    """Two layers, and a function of each as its nonlinearity."""

    def __init__(self, first, second=None):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.functions = [first, second or first]
        self.act = first if isinstance(first, nn.Module) else nn.Identity()

    def forward(self, x):
        return self.output(self.functions[1](self.second(self.functions[0](self.first(x)))))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


twice = nn.Linear(4, 4)
FED = {
    "functions": (Called(F.relu, torch.tanh), ["first", "second"]),
    "methods": (Called(lambda x: x.relu()), ["first", "second"]),
    "in place": (Called(nn.ReLU(inplace=True)), ["first", "second"]),
    "functions in place": (Called(lambda x: F.relu(x, inplace=True)), ["first", "second"]),
    "a shared module": (Called(nn.GELU()), ["first", "second"]),
    "a layer used twice": (nn.Sequential(twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(4, 2)), ["0"]),
    "a gate": (Gated(), ["gate"]),
}


@pytest.mark.parametrize(("module", "layers"), FED.values(), ids=FED)
def test_layers_that_a_nonlinearity_reads(module, layers):
    built = LayerNorm().build(module, normal(6, 4))
    assert [name for name, m in built.named_modules() if isinstance(m, nn.LayerNorm)] == [f"{p}.norm" for p in layers]
    assert built(normal(6, 4)).shape == (6, 2)


def test_a_squashed_output_is_left_alone():
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.Tanh())
    assert "2.norm.weight" not in LayerNorm().build(module, normal(6, 4)).state_dict()


def test_is_built_once():
    built = LayerNorm().build(Perceptron(), normal(6, 4))
    with pytest.raises(ValueError, match=r"LayerNorm would overwrite first\.norm of Perceptron"):
        LayerNorm().build(built, normal(6, 4))


def test_a_layers_own_norm_is_not_overwritten():
    class Named(nn.Linear):
        def __init__(self):
            super().__init__(4, 5)
            self.norm = nn.Identity()

    with pytest.raises(ValueError, match=r"LayerNorm would overwrite 0\.norm"):
        LayerNorm().build(nn.Sequential(Named(), nn.ReLU(), nn.Linear(5, 2)), normal(6, 4))


def test_refuses_compiled_modules_with_the_line_to_write():
    class Compiled(nn.Module):  # what torch.compile returns, without its start-up time
        def __init__(self):
            super().__init__()
            self._orig_mod = Perceptron()

    with pytest.raises(ValueError, match=r"write model = torch.compile\(\.\.\.\) after the build"):
        LayerNorm().build(Compiled(), normal(6, 4))


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, math.inf])
def test_refuses_an_eps_that_is_none(eps):
    with pytest.raises(ValueError, match="expected eps of LayerNorm to be above 0"):
        LayerNorm(eps=eps)


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.PReLU], ids=lambda kind: kind.__name__)
def test_any_nonlinearity(act):
    module = nn.Sequential(nn.Linear(4, 5), act(), nn.Linear(5, 2))
    built = LayerNorm(eps=1e-3).build(module, normal(6, 4))
    x = normal(6, 4)
    expected = module[2](module[1](F.layer_norm(module[0](x), (5,), eps=1e-3)))
    torch.testing.assert_close(built(x), expected)


def test_scale_and_offset_are_one_a_unit_or_channel():
    built = LayerNorm().build(Convolutional(), normal(6, 1, 4, 4))
    assert built.first.norm.weight.shape == (2,)
    assert built.second.norm.weight.shape == (3,)
    assert built.hidden.norm.weight.shape == (4,)
    with torch.no_grad():
        built.first.norm.bias[0] = 100.0
    network = Network(built)
    pre = next(iter(network.trace(network.params(), normal(6, 1, 4, 4)).sites.values())).pre
    assert pre[:, 0].min() > 90
    assert pre[:, 1].max() < 90


def test_tokens_are_normalised_one_by_one():
    built = LayerNorm().build(Attention(), normal(6, 2, 3))
    x = normal(6, 2, 3)
    moved = x.clone()
    moved[:, 1] += 1
    a, b = (built.expand(t @ torch.ones(3, 4)) for t in (x, moved))
    assert torch.equal(a[:, 0], b[:, 0])
    torch.testing.assert_close(a.mean(-1), torch.zeros(6, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_equals_the_normalised_net_with_the_same_weights(kind):
    make, shape = {
        "MLP": (lambda **norm: MLP(4, 3, hidden=(6, 5), **norm), (4,)),
        "CNN": (lambda **norm: CNN((2, 6, 6), 3, channels=(3, 4), hidden=(5,), **norm), (2, 6, 6)),
    }[kind]
    theirs, x = make(norm=layer_norm).double(), normal(6, *shape).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * normal(*p.shape, seed=1))
    built = LayerNorm().build(make().double(), x)
    names = [name for name in built.state_dict() if ".norm." not in name]
    layers = list(dict.fromkeys(n.split(".norm.")[0] for n in built.state_dict() if ".norm." in n))
    weights = {name: theirs.state_dict()[name] for name in names}
    for i, layer in enumerate(layers):
        weights |= {f"{layer}.norm.{k}": theirs.state_dict()[f"norms.{i}.{k}"] for k in ("weight", "bias")}
    built.load_state_dict(weights)
    torch.testing.assert_close(built(x), theirs(x), rtol=1e-12, atol=1e-12)
    built(x).sum().backward()
    theirs(x).sum().backward()
    for i, layer in enumerate(layers):
        ours, other = built.get_submodule(layer), (*getattr(theirs, "convs", ()), *theirs.hidden)[i]
        torch.testing.assert_close(ours.weight.grad, other.weight.grad, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.norm.weight.grad, theirs.norms[i].weight.grad, rtol=1e-10, atol=1e-12)


@leaves_some_alone
@every_net
@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_the_built_module_can_be_copied_and_stored(net, again):
    built = LayerNorm().build(net.module(), example(net))
    other, x = again(built), example(net)
    assert torch.equal(other(x), built(x))
    with torch.no_grad():
        for name, p in other.named_parameters():
            if ".norm.bias" in name:
                p.add_(1.0)
    assert not torch.equal(other(x), built(x))  # the copy is normalised by its own parameters


@leaves_some_alone
@every_net
def test_the_built_module_is_a_network(net):
    module = LayerNorm().build(net.module(), example(net))
    network, x = Network(module), example(net)
    assert torch.equal(network(network.params(), x), module(x))
    assert network.normalisers == net.normaliser_params | {
        f"{layer}.norm.{kind}" for layer in net.hidden for kind in ("weight", "bias")
    }
    assert set(network.weights) == net.weights
    fresh = network.fresh(0)
    for layer in net.hidden:
        assert (fresh[f"{layer}.norm.weight"] == 1).all()
        assert (fresh[f"{layer}.norm.bias"] == 0).all()
    plain = Network(net.module()).fresh(0)
    assert all(torch.equal(fresh[name], p) for name, p in plain.items())  # the same draws as without it
    stacked = {name: torch.stack([fresh[name], network.fresh(1)[name]]) for name in fresh}
    together = vmap(network, in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(together[1], network(network.fresh(1), x))


def test_keeps_dtype_and_mode():
    module = Perceptron().double().eval()
    built = LayerNorm().build(module, normal(6, 4).double())
    assert built.first.norm.weight.dtype is torch.float64
    assert not built.training


def test_leaves_the_global_stream_and_running_statistics_alone():
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="LayerNorm left alone 3: a batch norm beside neither a layer nor a nonlin"):
        built = LayerNorm().build(module, normal(6, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(built[3].running_mean, torch.zeros(5))
    assert torch.equal(module[3].running_mean, torch.zeros(5))


def test_a_chain_builds_in_order():
    module = Chain(L2(1e-4), LayerNorm()).build(Perceptron(), normal(6, 4))
    assert "first.norm.weight" in module.state_dict()
