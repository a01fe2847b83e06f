"""Normalisers against PyTorch's own, alone and in a crowd."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from pliant.nets import batch_norm, layer_norm

SHAPES = [(6, 4), (6, 4, 5), (6, 4, 5, 3)]
ORACLES = {
    (layer_norm, 2): nn.LayerNorm(4),
    (layer_norm, 3): nn.LayerNorm([4, 5], elementwise_affine=False),
    (layer_norm, 4): nn.LayerNorm([4, 5, 3], elementwise_affine=False),
    (batch_norm, 2): nn.BatchNorm1d(4),
    (batch_norm, 3): nn.BatchNorm1d(4),
    (batch_norm, 4): nn.BatchNorm2d(4),
}


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("norm", [layer_norm, batch_norm])
def test_equals_pytorchs(norm, shape):
    x = 3 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gain, offset = torch.tensor([1.0, -2.0, 0.5, 3.0]).double(), torch.tensor([0.0, 1.0, 2.0, -1.0]).double()
    ours = functional_call(norm(4).double(), {"weight": gain, "bias": offset}, (x,))
    units = (-1,) + (1,) * (len(shape) - 2)  # one gain and offset a unit, whatever follows it
    theirs = ORACLES[norm, len(shape)].double()(x) * gain.view(units) + offset.view(units)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("norm", [layer_norm, batch_norm])
def test_population_equals_a_loop(norm, shape):
    module, generator = norm(4).double(), torch.Generator().manual_seed(0)
    x = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
    params = {name: torch.randn(3, 4, dtype=torch.float64, generator=generator) for name in ("weight", "bias")}

    def loss(params, x):
        return functional_call(module, params, (x,)).square().mul(x).sum()

    gradients = vmap(grad(loss, argnums=(0, 1)))(params, x)
    alone = [grad(loss, argnums=(0, 1))({n: p[i] for n, p in params.items()}, x[i]) for i in range(3)]
    for name in params:
        torch.testing.assert_close(gradients[0][name], torch.stack([g[0][name] for g in alone]))
    torch.testing.assert_close(gradients[1], torch.stack([g[1] for g in alone]))


def test_batch_norm_is_a_pure_function():
    module = batch_norm(4)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    first = module(x)
    module(3 * x)
    assert torch.equal(module(x), first)
    assert torch.equal(module.eval()(x), first)
    assert set(module.state_dict()) == {"weight", "bias"}


def test_batch_norm_needs_a_unit_dimension():
    with pytest.raises(ValueError, match=r"expected inputs \(samples, units"):
        batch_norm(4)(torch.ones(4))
