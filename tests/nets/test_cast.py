"""The same network in another layout and with fewer digits: close, in float32 outside, and a population runs it."""

from functools import partial

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from pliant.interventions import Chain, LayerNorm
from pliant.nets import Cast, Nature
from pliant.network import Network
from pliant.optim import SGD, RMSProp
from pliant.population import Member, Population

SHAPE = (4, 12, 12)
small = partial(Nature, channels=(8, 16), kernels=(4, 3), strides=(2, 1), hidden=32)


def pair(**options):
    torch.manual_seed(0)
    plain = small(SHAPE, 5)
    cast = Cast(SHAPE, 5, small, **options)
    cast.net.load_state_dict(plain.state_dict())
    return plain, cast


def gradients(net, x):
    return torch.autograd.grad(net(x).square().mean(), list(net.parameters()))


@pytest.mark.parametrize(
    ("options", "off"), [({"channels_last": True}, 1e-5), ({"bfloat16": True}, 0.05)], ids=["layout", "digits"]
)
def test_outputs_and_gradients_are_close_and_in_float32(options, off):
    plain, cast = pair(**options)
    x = torch.rand(6, *SHAPE)
    found = [(plain(x), cast(x)), *zip(gradients(plain, x), gradients(cast, x), strict=True)]
    for expected, got in found:
        assert got.dtype == torch.float32
        assert (got - expected).norm() < off * expected.norm()
    if "bfloat16" in options:
        assert not torch.equal(plain(x), cast(x))


def test_convolutions_get_channels_last_and_products_few_digits():
    _, cast = pair(channels_last=True, bfloat16=True)
    seen = {}
    cast.get_submodule("net.convs.0").register_forward_hook(lambda layer, args, out: seen.update(x=args[0], out=out))
    cast(torch.rand(6, *SHAPE))
    assert seen["x"].is_contiguous(memory_format=torch.channels_last)
    assert seen["out"].dtype == torch.bfloat16


def test_without_options_it_is_the_network():
    plain, cast = pair()
    x = torch.rand(6, *SHAPE)
    assert torch.equal(plain(x), cast(x))


def test_a_population_runs_it_as_a_loop_over_members_would():
    network = Network(partial(Cast, SHAPE, 5, small, channels_last=True), example=torch.rand(2, *SHAPE))
    x, y = torch.rand(3, 6, *SHAPE, dtype=torch.float64), torch.rand(3, 6, 5, dtype=torch.float64)

    def trained(seeds):
        crowd = Population(network, F.mse_loss, [Member(s, SGD(0.1)) for s in seeds], dtype=torch.float64)
        state = crowd.init()
        for _ in range(2):
            crowd.step(state, x[list(seeds)], y[list(seeds)])
        return state.params

    together = trained((0, 1, 2))
    for name, values in trained((2,)).items():
        torch.testing.assert_close(together[name][2], values[0], rtol=1e-10, atol=1e-12)


def update(dtype, x, **options):
    """One step of DQN's RMSProp from the same parameters, as one vector."""
    network = Network(partial(Cast, SHAPE, 5, small, **options), example=torch.rand(2, *SHAPE))
    zoo = RMSProp(2.5e-4, alpha=0.95, eps=0.0, eps_root=0.01 / 32**2, centered=True)
    population = Population(network, F.mse_loss, [Member(0, zoo)], dtype=dtype)
    state = population.init()
    before = [p.clone() for p in state.params.values()]
    population.step(state, x[None].to(dtype), torch.ones(1, len(x), 5, dtype=dtype))
    return torch.cat([(p - b).double().flatten() for p, b in zip(state.params.values(), before, strict=True)])


def test_one_update_differs_by_rounding_in_another_layout_and_by_percents_with_fewer_digits():
    x = torch.rand(32, *SHAPE)

    def off(one, other):
        return float((one - other).norm() / other.norm())

    exact, single = (update(dtype, x) for dtype in (torch.float64, torch.float32))
    assert off(update(torch.float64, x, channels_last=True), exact) < 1e-12
    assert off(update(torch.float32, x, channels_last=True), single) < 1e-3
    assert 1e-3 < off(update(torch.float32, x, bfloat16=True), single) < 0.3
    assert torch.equal(update(torch.float64, x, bfloat16=True), exact)


def test_layer_norms_stay_in_float32_and_single_examples_have_gradients():
    cast = Cast(SHAPE, 5, small, bfloat16=True)
    module = Chain(LayerNorm()).build(cast, torch.rand(2, *SHAPE))
    seen = {}
    module.get_submodule("net.hidden.norm").register_forward_hook(lambda layer, args, out: seen.update(out=out))
    x = torch.rand(4, *SHAPE)
    module(x)
    assert seen["out"].dtype == torch.float32
    params = {name: p.detach() for name, p in module.named_parameters()}

    def loss(params, one):
        return functional_call(module, params, (one[None],)).square().mean()

    each = vmap(grad(loss), (None, 0))(params, x)
    for name, expected in grad(lambda p: vmap(loss, (None, 0))(p, x).mean())(params).items():
        assert (each[name].mean(0) - expected).norm() < 0.3 * expected.norm()
