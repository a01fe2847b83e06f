"""What holds for every network: names, initial distribution, population against a loop, the output layer."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch.func import grad, vmap

from pliant.nets import CNN, MLP, ResNet18, ViT, batch_norm, layer_norm
from pliant.network import Network

NORMS = {"plain": None, "layer_norm": layer_norm, "batch_norm": batch_norm}
MAKERS = {
    "mlp": lambda norm: MLP((2, 3), 3, hidden=(5, 4), norm=norm),
    "cnn": lambda norm: CNN((2, 6, 7), 3, channels=(3, 4), hidden=(5, 4), norm=norm),
    "resnet": lambda norm: ResNet18((2, 9, 8), 3, width=1 / 32, norm=norm),
    "vit": lambda norm: ViT((2, 7, 8), 3, features=8, ff=12, depth=2, heads=2, dropout=0.5, norm=norm),
}
SHAPES = {"mlp": (2, 3), "cnn": (2, 6, 7), "resnet": (2, 9, 8), "vit": (2, 7, 8)}
SITES = {
    "mlp": ["activations.0", "activations.1"],
    "cnn": ["activations.0", "activations.1", "activations.2", "activations.3"],
    "resnet": ["stem_activation", *(f"blocks.{i}.activation{j}" for i, j in itertools.product(range(8), (1, 2)))],
    "vit": ["blocks.0.activation", "blocks.1.activation"],
}
every_net = pytest.mark.parametrize("kind", MAKERS)
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


def network(kind, norm=None):
    return Network(MAKERS[kind](norm).double())


def inputs(kind, *batch):
    return torch.randn(*batch, *SHAPES[kind], dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def constructed(make, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: p.detach() for name, p in make().named_parameters()}


@every_norm
@every_net
def test_nonlinearities_are_seen_by_name(kind, norm):
    net = network(kind, norm)
    trace = net.trace(net.fresh(0), inputs(kind, 4))
    assert list(trace.sites) == SITES[kind]
    assert trace.output.shape == (4, 3)


@every_norm
@every_net
def test_output_layer_is_plain_linear(kind, norm):
    net = network(kind, norm)
    params = net.fresh(0)
    trace = net.trace(params, inputs(kind, 4))
    assert list(params)[-2:] == ["output.weight", "output.bias"]
    torch.testing.assert_close(trace.output, F.linear(trace.features, params["output.weight"], params["output.bias"]))


@every_norm
@every_net
def test_population_equals_a_loop(kind, norm):
    net = network(kind, norm)
    members = [net.fresh(seed) for seed in range(3)]
    stacked = {name: torch.stack([params[name] for params in members]) for name in members[0]}
    x, keys = inputs(kind, 3, 4), torch.tensor([[0, 9], [1, 9], [2, 9]])

    def loss(params, x, key):
        return net(params, x, key).sin().sum()

    outputs, gradients = vmap(net)(stacked, x, keys), vmap(grad(loss))(stacked, x, keys)
    for i, params in enumerate(members):
        torch.testing.assert_close(outputs[i], net(params, x[i], keys[i]), rtol=1e-9, atol=1e-11)
        for name, gradient in grad(loss)(params, x[i], keys[i]).items():
            torch.testing.assert_close(gradients[name][i], gradient, rtol=1e-9, atol=1e-11)


@every_net
def test_every_parameter_matters(kind):
    net = network(kind)
    gradients = grad(lambda params: net(params, inputs(kind, 8)).sin().sum())(net.fresh(1))
    without_effect = {name for name, g in gradients.items() if g.abs().max() < 1e-12}
    assert all(name.endswith("attention.key.bias") for name in without_effect)  # softmax ignores it


@every_norm
@every_net
def test_fresh_is_a_new_construction(kind, norm):
    """The same seed gives the same numbers: every reset draws what the constructor draws, in its order."""
    fresh = Network(MAKERS[kind](norm)).fresh(5)
    new = constructed(lambda: MAKERS[kind](norm), 5)
    assert list(fresh) == list(new)
    assert all(torch.equal(fresh[name], new[name]) for name in new)


WIDE = {
    "mlp": lambda: MLP(100, 10, hidden=(100, 100)),
    "cnn": lambda: CNN((3, 8, 8), 10, channels=(16, 16), hidden=(50, 50)),
    "resnet": lambda: ResNet18((3, 8, 8), 10, width=1 / 8),
    "vit": lambda: ViT((3, 8, 8), 10, features=100, ff=100),
}
DRAWN = [
    ("mlp", "hidden.0.weight"),
    ("mlp", "hidden.1.bias"),
    ("mlp", "output.weight"),
    ("cnn", "convs.0.weight"),
    ("cnn", "convs.1.bias"),
    ("cnn", "hidden.0.weight"),
    ("resnet", "stem.weight"),
    ("resnet", "blocks.2.shortcut.weight"),
    ("resnet", "blocks.7.conv2.weight"),
    ("vit", "embedding.token"),
    ("vit", "embedding.position"),
    ("vit", "embedding.patches.weight"),
    ("vit", "blocks.0.attention.query.weight"),
    ("vit", "blocks.0.contract.weight"),
]


@pytest.mark.parametrize(("kind", "name"), DRAWN)
def test_fresh_has_the_constructors_distribution(kind, name):
    """Two samples of 10,000 draws with different seeds, by Kolmogorov and Smirnov's test."""
    net = Network(WIDE[kind]())
    seeds = range(-(-10_000 // net.params()[name].numel()))
    fresh = torch.cat([net.fresh(seed)[name].flatten() for seed in seeds])
    new = torch.cat([constructed(WIDE[kind], 10_000 + seed)[name].flatten() for seed in seeds])
    assert len(fresh) >= 10_000
    assert stats.ks_2samp(fresh.numpy(), new.numpy()).pvalue > 1e-3


IMAGE = (1, 8, 8)
WRONG = {
    "MLP outputs": (lambda: MLP(4, 0), "expected outputs to be at least 1, got 0"),
    "MLP inputs": (lambda: MLP((4, 0), 2), "expected inputs to hold one size or more, each at least 1"),
    "MLP no hidden": (lambda: MLP(4, 2, hidden=()), "expected hidden to hold one size or more"),
    "MLP hidden": (lambda: MLP(4, 2, hidden=(3, 0)), "expected hidden .* each at least 1"),
    "CNN outputs": (lambda: CNN(IMAGE, 0), "expected outputs to be at least 1"),
    "CNN no hidden": (lambda: CNN(IMAGE, 2, hidden=()), "expected hidden to hold one size or more"),
    "CNN no channels": (lambda: CNN(IMAGE, 2, channels=()), "expected channels to hold one size or more"),
    "CNN lengths": (lambda: CNN(IMAGE, 2, channels=(3, 3, 3)), "3 channels, 2 kernels and 2 strides"),
    "CNN shape": (lambda: CNN((8, 8), 2), r"expected shape to be \(channels, height, width\)"),
    "CNN small": (lambda: CNN((1, 4, 9), 2), "convolution 0 has kernel 5 x 5 and gets 4 x 9"),
    "CNN small later": (lambda: CNN(IMAGE, 2, strides=(4, 1)), "convolution 1 has kernel 3 x 3 and gets 2 x 2"),
    "ResNet outputs": (lambda: ResNet18(IMAGE, 0), "expected outputs to be at least 1"),
    "ResNet shape": (lambda: ResNet18((1, 0, 8), 2), "expected shape to be"),
    "ResNet width": (lambda: ResNet18(IMAGE, 2, width=0.001), "expected width of 1/64 or more"),
    "ViT outputs": (lambda: ViT(IMAGE, 0), "expected outputs to be at least 1"),
    "ViT depth": (lambda: ViT(IMAGE, 2, depth=0), "expected depth to be at least 1"),
    "ViT patch": (lambda: ViT(IMAGE, 2, patch=9), "expected images no smaller than a patch"),
    "ViT heads": (lambda: ViT(IMAGE, 2, heads=3), "expected heads to divide features"),
    "ViT dropout": (lambda: ViT(IMAGE, 2, dropout=1), "expected a dropout probability"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_refuses_wrong_arguments_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
