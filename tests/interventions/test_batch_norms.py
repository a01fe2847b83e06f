"""Normalisers built into networks that have batch norms."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.interventions import Activation, BatchNorm, Chain, LayerNorm, MixedNorm, NormalizeAndProject, Only, RMSNorm
from pliant.nets import ResNet18
from pliant.network import Network

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """The usual residual block: the sum is taken in place, so are the nonlinearities."""

    def __init__(self, width=4):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        nn.init.zeros_(self.bn2.weight)  # so that the block begins as the identity

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class PreActivation(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class NormAct(nn.BatchNorm2d):
    """A batch norm with its nonlinearity inside, as image models have them."""

    def __init__(self, width, act=nn.ReLU, scale=1.0):
        super().__init__(width)
        self.drop, self.act, self.scale = nn.Identity(), act(inplace=True) if act is nn.ReLU else act(), scale

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return self.act(self.drop(x)) * self.scale if self.scale != 1 else self.act(self.drop(x))


class SqueezeExcite(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.reduce, self.expand, self.act = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        return x * self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


def image_net(*middle, stem=None):
    first = (nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return nn.Sequential(*(stem or first), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def separable(norm=nn.BatchNorm2d):
    """Depthwise, squeeze-excite, pointwise without a nonlinearity after it."""
    return image_net(
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), norm(4), nn.ReLU(inplace=True),
        SqueezeExcite(), nn.Conv2d(4, 4, 1, bias=False), norm(4),
    )  # fmt: skip


def replaced(bn, x):
    return F.group_norm(x, 1, bn.weight, bn.bias)


def before(bn, x):
    return bn(F.group_norm(x, 1))


def after(bn, x):
    return F.group_norm(bn(x), 1)


def ours(module, x, norm=replaced):
    """A sequence of the modules of these tests, with something else for each batch norm."""
    for layer in module:
        if isinstance(layer, Block):
            out = norm(layer.bn1, layer.conv1(x)).relu()
            x = (norm(layer.bn2, layer.conv2(out)) + x).relu()
        elif isinstance(layer, PreActivation):
            out = layer.conv1(norm(layer.bn1, x).relu())
            x = x + layer.conv2(norm(layer.bn2, out).relu())
        elif isinstance(layer, NormAct):
            x = layer.act(norm(layer, x).clone())
        else:
            x = norm(layer, x) if isinstance(layer, nn.BatchNorm2d) else layer(x.clone())
    return x


def jolted(module):
    """Scales, offsets and statistics as after some training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for t in (*module.parameters(), *module.buffers()):
            if t.is_floating_point():
                t.add_(0.3 * torch.rand(t.shape, generator=generator))
    return module


NETS = {
    "plain": lambda: image_net(),
    "residual": lambda: image_net(Block(), Block()),
    "pre-activation": lambda: image_net(PreActivation(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)),
    "fused": lambda: image_net(
        nn.Conv2d(4, 4, 1), NormAct(4, nn.SiLU), nn.Conv2d(4, 4, 1), NormAct(4, nn.Identity),
        stem=(nn.Conv2d(3, 4, 3), NormAct(4)),
    ),
}  # fmt: skip
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)
normalisers = pytest.mark.parametrize(
    "method",
    [LayerNorm(), LayerNorm(axes="channels"), RMSNorm(), MixedNorm("batch", "layer"), BatchNorm()],
    ids=lambda method: f"{type(method).__name__}-{getattr(method, 'axes', '')}",
)
leaves_sums_alone = pytest.mark.filterwarnings("ignore:.* left alone .* no layer feeds them directly")


def batch_norms(module):
    return [path for path, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)]


@leaves_sums_alone
@every_net
@pytest.mark.parametrize("training", [True, False])
def test_layer_norm_takes_the_place_of_every_batch_norm(make, training):
    module = jolted(make()).train(training)
    start = copy.deepcopy(module.state_dict())
    built = LayerNorm().build(module, X)
    torch.testing.assert_close(built(X), ours(module, X))
    assert not batch_norms(built)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    kept = {name: t for name, t in start.items() if not name.endswith(statistics)}
    assert list(built.state_dict()) == list(kept)
    assert all(torch.equal(built.state_dict()[name], t) for name, t in kept.items())
    assert all(torch.equal(module.state_dict()[name], t) for name, t in start.items())


@leaves_sums_alone
@normalisers
@every_net
def test_every_normaliser_takes_their_places(make, method):
    module = jolted(make())
    built = method.build(module, X)
    assert not batch_norms(built)
    assert built(X).shape == (6, 2)
    for again in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert torch.equal(again(X), built(X))
    network = Network(built)
    assert torch.equal(network(network.params(), X), built(X))
    assert {f"{path}.weight" for path in batch_norms(module)} <= network.normalisers


@leaves_sums_alone
@pytest.mark.parametrize("norm", [before, after])
@pytest.mark.parametrize("make", [NETS["plain"], NETS["residual"], NETS["pre-activation"]])
def test_layer_norm_beside_every_batch_norm(make, norm):
    module = jolted(make()).eval()
    built = LayerNorm(at_batch_norm=norm.__name__).build(module, X)
    torch.testing.assert_close(built(X), ours(module, X, norm))
    added = {f"{path}.norm.{kind}" for path in batch_norms(module) for kind in ("weight", "bias")}
    assert set(built.state_dict()) == set(module.state_dict()) | added


def test_the_residual_stream_is_named_once():
    with pytest.warns(UserWarning, match=r"LayerNorm left alone 3\.relu#2, 4\.relu#2: no layer feeds") as caught:
        LayerNorm().build(NETS["residual"](), X)
    assert len(caught) == 1


def test_resnet18():
    net = ResNet18((3, 8, 8), 2, width=1 / 16)
    sums = ", ".join(f"blocks.{i}.activation2" for i in range(8))
    with pytest.warns(UserWarning, match=f"^LayerNorm left alone {sums}: no layer feeds them directly$"):
        built = LayerNorm().build(net, X)
    assert sum(isinstance(m, nn.GroupNorm) for m in built.modules()) == 20  # stem, two a block, three shortcuts
    assert list(built.state_dict()) == list(net.state_dict())
    trace = Network(built).trace(dict(built.named_parameters()), X)
    for site in ("stem_activation", *(f"blocks.{i}.activation1" for i in range(8))):
        images = trace.sites[site].pre.unflatten(0, (6, -1))  # (images, positions, channels)
        assert images.mean((1, 2)).abs().max() < 1e-5


def test_squeeze_excite_layers_are_normalised_beside_the_batch_norms():
    built = LayerNorm().build(separable(), X)
    assert not batch_norms(built)
    assert {name for name in built.state_dict() if ".norm." in name} == {
        f"6.{layer}.norm.{kind}" for layer in ("reduce", "expand") for kind in ("weight", "bias")
    }


def test_other_normalisers_are_named_where_only_squeeze_excite_layers_are_left():
    net = separable(norm=lambda width: nn.GroupNorm(2, width))
    net[1] = nn.GroupNorm(2, 4)
    with pytest.warns(UserWarning, match=r"^LayerNorm left alone 2: normalised by 1; 5: normalised by 4$"):
        built = LayerNorm().build(net, X)
    assert [name for name, m in built.named_modules() if name.endswith(".norm")] == ["6.reduce.norm", "6.expand.norm"]
    del net[6]
    with pytest.raises(
        ValueError, match=r"that feeds a nonlinearity \(left alone 2: normalised by 1; 5: normalised by 4\)"
    ):
        LayerNorm().build(net, X)


def test_a_batch_norm_behind_the_nonlinearity_is_left_alone():
    """In place, too, where the nonlinearity returns the tensor that the convolution made."""
    for inplace in (False, True):
        net = image_net(stem=(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace), nn.BatchNorm2d(4)))
        with pytest.warns(UserWarning, match="^LayerNorm left alone 2: a batch norm beside neither a layer nor"):
            built = LayerNorm().build(net, X)
        assert batch_norms(built) == ["2"]
        assert hasattr(built[0], "norm")


def test_one_of_the_inputs_is_left_alone():
    net = image_net(stem=(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    with pytest.warns(UserWarning, match="^LayerNorm left alone 0: a batch norm beside neither"):
        assert batch_norms(LayerNorm().build(net, X)) == ["0"]


def test_one_after_the_output_layer_is_left_alone():
    net = nn.Sequential(*image_net(), nn.BatchNorm1d(2))
    assert isinstance(LayerNorm().build(net, X)[-1], nn.BatchNorm1d)


def test_one_that_does_more_is_left_alone_by_name():
    net = image_net(stem=(nn.Conv2d(3, 4, 3), NormAct(4, scale=2.0), nn.Conv2d(4, 4, 3), NormAct(4)))
    with pytest.warns(UserWarning, match="^LayerNorm left alone 1: more than a batch norm$"):
        assert batch_norms(LayerNorm().build(net, X)) == ["1"]
    with pytest.warns(UserWarning, match="^LayerNorm left alone 1, 3: more than a batch norm$"):
        LayerNorm(at_batch_norm="after").build(nn.Sequential(*net, nn.ReLU(), nn.Linear(2, 2)), X)
    built = LayerNorm(at_batch_norm="before").build(net, X)
    assert hasattr(built[1], "norm")
    assert hasattr(built[3], "norm")


def test_one_that_is_held_elsewhere_is_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.out = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 6)
            self.order = [self.conv, self.bn, nn.ReLU(), self.out]

        def forward(self, x):
            for layer in self.order:
                x = layer(x)
            return x

    with pytest.raises(
        ValueError, match="LayerNorm cannot replace bn of Hidden: its forward pass holds them elsewhere"
    ):
        LayerNorm().build(Hidden(), X)


def test_one_whose_statistics_are_read_elsewhere_is_refused():
    class Reader(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + self[1].running_mean.sum()

    with pytest.raises(
        ValueError, match="LayerNorm cannot be built into Reader in place of its batch norms: 'GroupNorm"
    ):
        LayerNorm().build(Reader(*image_net()), X)


def test_is_built_once():
    for where in ("before", "after"):
        method = LayerNorm(at_batch_norm=where)
        with pytest.raises(ValueError, match=r"LayerNorm would overwrite 1\.norm of Sequential"):
            method.build(method.build(image_net(), X), X)
    with pytest.raises(ValueError, match=r"\(left alone 2: normalised by 1\)"):
        LayerNorm().build(LayerNorm().build(image_net(), X), X)


def test_only_takes_a_batch_norm_by_its_path_or_its_layers():
    net = NETS["residual"]()
    for pattern, gone in (("0", ["1"]), ("1", ["1"]), ("3.*", ["3.bn1", "3.bn2"]), ("4.conv1.*", ["4.bn1"])):
        warns = pattern == "3.*"  # it has a nonlinearity after a sum
        with pytest.warns(UserWarning, match=r"LayerNorm left alone 3\.relu#2: no layer") if warns else nullcontext():
            built = Only(pattern, LayerNorm()).build(net, X)
        assert set(batch_norms(net)) - set(batch_norms(built)) == set(gone), pattern


def test_vectors_and_sequences():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    x = X.flatten()[:24].reshape(6, 4)
    built = LayerNorm().build(net, x)
    torch.testing.assert_close(built(x), net[3](F.layer_norm(net[0](x), (5,)).relu()))
    net = nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5), nn.ReLU(), nn.Conv1d(5, 2, 1))
    x = X[..., 0]
    built = LayerNorm(axes="channels").build(net, x)
    torch.testing.assert_close(built(x), net[3](F.layer_norm(net[0](x).mT, (5,)).mT.relu()))


def test_transposed_convolutions():
    net = nn.Sequential(nn.ConvTranspose2d(3, 5, 2), nn.ReLU(), nn.ConvTranspose2d(5, 2, 2))
    built = LayerNorm().build(net, X)
    torch.testing.assert_close(built(X), net[2](F.group_norm(net[0](X), 1).relu()))


def test_normalize_and_project_removes_the_biases_before_them():
    net = image_net(stem=(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    built = NormalizeAndProject("free").build(net, X)
    assert list(dict(built.named_parameters())) == ["0.weight", "1.weight", "1.bias", "5.weight", "5.bias"]


def test_trains_in_a_loop_with_scales_frozen():
    net = image_net()
    net[1].bias.requires_grad_(False)
    built = Chain(LayerNorm()).build(net, X)
    assert not built[1].bias.requires_grad
    optimizer = torch.optim.SGD([p for p in built.parameters() if p.requires_grad], lr=0.1)
    keeper = Chain(LayerNorm()).attach(built, optimizer)
    built(X).square().mean().backward()
    optimizer.step()
    keeper.step()
    keeper.detach()
    assert built[1].weight.grad.abs().max() > 0


def test_a_mixed_dtype_stays_so():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.ReLU(), nn.Linear(5, 2)).bfloat16()
    x = torch.ones(6, 4, dtype=torch.bfloat16)
    assert LayerNorm().build(net, x)[1].weight.dtype is torch.bfloat16


def test_refuses_a_word_that_is_none():
    with pytest.raises(ValueError, match="expected at_batch_norm of RMSNorm to be 'replace' or 'before' or 'after'"):
        RMSNorm(at_batch_norm="instead")


class TokenNorm(nn.Module):
    """A batch norm over the units of tokens: it reads a view of what the layer made, and so does the nonlinearity."""

    def __init__(self):
        super().__init__()
        self.linear, self.bn, self.output = nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x):
        x = self.linear(x)
        return self.output(F.relu(self.bn(x.flatten(0, 1)).reshape_as(x)))


def test_views_are_seen_through():
    net, tokens = TokenNorm(), X[:, 0, :, :3]
    built = LayerNorm().build(net, tokens)
    torch.testing.assert_close(built(tokens), net.output(F.layer_norm(net.linear(tokens), (5,)).relu()))
    part = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(-1, (2, 2)), nn.ReLU(), nn.Flatten(-2), nn.Linear(4, 2))
    assert hasattr(LayerNorm().build(part, tokens)[0], "norm")


class Rotary(nn.Module):
    """Cosines of positions beside a hidden layer."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        angle = torch.arange(x.shape[1])[:, None] * torch.ones(4)
        return self.output(F.gelu(self.hidden(x * torch.cos(angle) + x.flip(-1) * angle.sin())))


def test_cosines_of_positions_are_no_hidden_nonlinearity():
    net, x, angle = Rotary(), X[:, 0, :, :4], torch.arange(8)[:, None] * torch.ones(4)
    hidden = net.hidden(x * torch.cos(angle) + x.flip(-1) * torch.sin(angle))
    torch.testing.assert_close(Activation("relu").build(net, x)(x), net.output(hidden.relu()))
    torch.testing.assert_close(LayerNorm().build(net, x)(x), net.output(F.gelu(F.layer_norm(hidden, (4,)))))


def test_a_forward_pass_without_gradients_is_seen_all_the_same():
    class Acting(nn.Sequential):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    acting = Acting(*image_net())
    assert not batch_norms(LayerNorm().build(acting, X))
    assert type(Activation("gelu").build(acting, X)[2]).__name__ == "Replacement"


def test_calls_of_one_name_are_counted():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.output = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            for _ in range(3):
                x = torch.tanh(x + self.step(x))
            return self.output(x)

    with pytest.raises(ValueError, match=r"\(left alone tanh \(3 calls\): no layer feeds them directly\)$"):
        LayerNorm().build(Recurrent(), X[:, 0, 0])
