"""Each network by hand: parameter counts, shapes, where normalisers stand, and oracles for what is written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.nets import CNN, MLP, Dropout, ResNet18, ViT, batch_norm, layer_norm
from pliant.network import Network


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_mlp_counts():
    layers = (784 * 512 + 512) + (512 * 512 + 512) + (512 * 10 + 10)
    assert count(MLP((1, 28, 28), 10)) == layers == 669_706
    assert count(MLP(784, 10, norm=layer_norm)) == layers + 2 * 2 * 512


def test_mlp_by_hand():
    net = MLP((2, 3), 2, hidden=(4, 5), activation=nn.Tanh)
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    p = dict(net.named_parameters())
    h = torch.tanh(x.reshape(7, 6) @ p["hidden.0.weight"].T + p["hidden.0.bias"])
    h = torch.tanh(h @ p["hidden.1.weight"].T + p["hidden.1.bias"])
    torch.testing.assert_close(net(x), h @ p["output.weight"].T + p["output.bias"])


@pytest.mark.parametrize(("shape", "flat"), [((3, 32, 32), 64 * 8 * 8), ((1, 28, 28), 64 * 7 * 7), ((1, 8, 8), 64 * 4)])
def test_cnn_counts(shape, flat):
    convs = (shape[0] * 25 * 64 + 64) + (64 * 9 * 64 + 64)
    linear = (flat * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)
    net = CNN(shape, 10)
    assert count(net) == convs + linear
    assert count(CNN(shape, 10, norm=batch_norm)) == convs + linear + 2 * (64 + 64 + 256 + 256)
    assert net(torch.zeros(2, *shape)).shape == (2, 10)


def test_cnn_by_hand():
    net = CNN((1, 9, 7), 2, channels=(3, 4), hidden=(5, 6), kernels=(4, 3), strides=(1, 2))  # an even kernel, too
    x = torch.randn(2, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    p = dict(net.named_parameters())
    h = F.relu(F.conv2d(x, p["convs.0.weight"], p["convs.0.bias"], stride=1, padding=2))
    h = F.relu(F.conv2d(h, p["convs.1.weight"], p["convs.1.bias"], stride=2, padding=1)).flatten(1)
    for name in ("hidden.0", "hidden.1"):
        h = F.relu(F.linear(h, p[f"{name}.weight"], p[f"{name}.bias"]))
    torch.testing.assert_close(net(x), F.linear(h, p["output.weight"], p["output.bias"]))


def test_resnet_counts():
    assert count(ResNet18((3, 32, 32), 10)) == 11_173_962
    quarter = ResNet18((1, 28, 28), 10, width=0.25)
    assert [block.conv2.out_channels for block in quarter.blocks] == [16, 16, 32, 32, 64, 64, 128, 128]


def test_resnet_sides_halve():
    net = Network(ResNet18((3, 32, 32), 10, width=1 / 32))
    sites = net.trace(net.fresh(0), torch.zeros(2, 3, 32, 32)).sites
    assert sites["stem_activation"].pre.shape == (2 * 32**2, 2)
    for i, (side, channels) in enumerate([(32, 2), (32, 2), (16, 4), (16, 4), (8, 8), (8, 8), (4, 16), (4, 16)]):
        for j in (1, 2):
            assert sites[f"blocks.{i}.activation{j}"].pre.shape == (2 * side**2, channels)


def test_resnet_block_adds_its_input():
    block = ResNet18((3, 8, 8), 10, width=1 / 16).blocks[1]
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x)


def test_vit_counts():
    embedding = (27 * 256 + 256) + 256 + (1 + 11 * 11) * 256
    block = 4 * (256 * 256 + 256) + (256 * 1024 + 1024) + (1024 * 256 + 256) + 2 * 2 * 256
    assert count(ViT((3, 32, 32), 10)) == embedding + block + 2 * 256 + (256 * 10 + 10) == 831_498
    assert ViT((1, 28, 28), 10).embedding.position.shape == (101, 256)


def test_vit_patches_are_a_strided_convolution():
    embedding = ViT((2, 7, 8), 10, features=8).embedding
    x = torch.randn(4, 2, 7, 8, generator=torch.Generator().manual_seed(0))
    padded = F.pad(x, (0, 1, 1, 1))  # 8 becomes 9, the odd one to the right; 7 becomes 9
    patches = F.conv2d(padded, embedding.patches.weight.view(8, 2, 3, 3), embedding.patches.bias, stride=3)
    tokens = torch.cat([embedding.token.expand(4, 1, 8), patches.flatten(2).transpose(1, 2)], 1)
    torch.testing.assert_close(embedding(x), tokens + embedding.position)


def test_vit_block_equals_pytorchs():
    block = ViT((1, 6, 6), 10, features=8, ff=12, heads=2).blocks[0]
    oracle = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    p, q = dict(block.named_parameters()), dict(oracle.named_parameters())
    names = {"linear1": "expand", "linear2": "contract", "self_attn.out_proj": "attention.projection"}
    with torch.no_grad():
        for kind in ("weight", "bias"):
            q[f"self_attn.in_proj_{kind}"].copy_(
                torch.cat([p[f"attention.{n}.{kind}"] for n in ("query", "key", "value")])
            )
            for theirs, ours in names.items():
                q[f"{theirs}.{kind}"].copy_(p[f"{ours}.{kind}"])
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), oracle(x))


def test_vit_output_reads_the_class_token():
    net = ViT((1, 6, 6), 10, features=8, ff=12, heads=2)
    x = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(net(x)[0], net(x)[1], atol=1e-4)
    nn.init.zeros_(net.blocks[0].attention.projection.weight)  # attention alone carries the image to that token
    torch.testing.assert_close(net(x)[0], net(x)[1])


def test_vit_drops_by_key():
    net = Network(ViT((1, 6, 6), 10, features=8, ff=12, heads=2, depth=2, dropout=0.3))
    params, x = net.fresh(0), torch.ones(2, 1, 6, 6)
    keys = [torch.tensor(key) for key in ([0, 0], [0, 1], [1, 0])]
    outputs = [net(params, x), *(net(params, x, key) for key in keys)]
    assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    assert torch.equal(net(params, x, keys[0]), outputs[1])
    salts = [m.salt for m in net.module.modules() if isinstance(m, Dropout)]
    assert sorted(salts) == list(range(7))


def test_layer_norm_stands_before_every_nonlinearity():
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for net in (MLP((3, 8, 8), 10, norm=layer_norm), CNN((3, 8, 8), 10, norm=layer_norm)):
        for site in Network(net).trace(dict(net.named_parameters()), x).sites.values():
            pre = site.pre.reshape(6, -1)  # a sample's units, over space after a convolution
            torch.testing.assert_close(pre.mean(1), torch.zeros(6), rtol=0, atol=1e-5)
            torch.testing.assert_close(pre.var(1, correction=0), torch.ones(6), rtol=0, atol=2e-3)


def test_batch_norm_stands_before_every_nonlinearity():
    x = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    nets = (
        MLP((3, 8, 8), 10, norm=batch_norm),
        CNN((3, 8, 8), 10, norm=batch_norm),
        ResNet18((3, 8, 8), 10, width=1 / 8),
    )
    for net in nets:
        for name, site in Network(net).trace(dict(net.named_parameters()), x).sites.items():
            if name.endswith("activation2"):
                continue  # after the sum with the shortcut
            torch.testing.assert_close(site.pre.mean(0), torch.zeros(site.pre.shape[1]), rtol=0, atol=1e-5)
            alive = site.pre[:, site.pre.var(0) > 1e-6]
            torch.testing.assert_close(alive.var(0, correction=0), torch.ones(alive.shape[1]), rtol=0, atol=2e-2)
            assert alive.shape[1] > 0.9 * site.pre.shape[1]


def test_vit_normalises_what_each_sublayer_reads():
    net = ViT((1, 6, 6), 10, features=16, ff=12, heads=2)
    seen = {}
    for name in ("blocks.0.attention", "blocks.0.expand", "output"):
        net.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0]}))
    net(torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    for tokens in seen.values():
        torch.testing.assert_close(tokens.mean(-1), torch.zeros(tokens.shape[:-1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(tokens.var(-1, correction=0), torch.ones(tokens.shape[:-1]), rtol=0, atol=3e-2)
    assert len(seen) == 3


def test_activation_and_norm_are_made_anew_for_each_layer():
    net = CNN((1, 8, 8), 2, activation=nn.PReLU, norm=layer_norm)
    assert len({id(m) for m in (*net.activations, *net.norms)}) == 8
    assert all(isinstance(m, nn.PReLU) for m in net.activations)
