"""Noise by counter, against its formula; the dueling network, against its sum; layer norm behind the noise."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call, vmap

from pliant.interventions import Chain, LayerNorm
from pliant.nets import Dueling, NoisyLinear
from pliant.network import Network

KEY = torch.tensor([3, -7])
SMALL = partial(Dueling, channels=(2,), hidden=8, kernels=(3,), strides=(1,))


def noisy(layer: nn.Module, x: torch.Tensor, key: torch.Tensor = KEY) -> torch.Tensor:
    return functional_call(layer, {"key": key}, (x,))


def factors(layer: NoisyLinear, key: torch.Tensor = KEY) -> tuple[torch.Tensor, torch.Tensor]:
    """f(d) and f(e), read off a layer whose every other number is 0 or 1."""
    with torch.no_grad():
        probe = NoisyLinear(layer.inputs, layer.outputs, bias=False, salt=layer.salt)
        nn.init.zeros_(probe.weight)
        nn.init.zeros_(probe.weight_sigma)
        nn.init.ones_(probe.bias_sigma)
        after = noisy(probe, torch.zeros(1, layer.inputs), key)[0]
        nn.init.zeros_(probe.bias_sigma)
        nn.init.ones_(probe.weight_sigma)
        before = noisy(probe, torch.eye(layer.inputs), key)[:, 0] / after[0]
    return before, after


def test_the_output_is_that_of_the_formula() -> None:
    layer, x = NoisyLinear(5, 4, salt=2).double(), torch.randn(6, 5, dtype=torch.float64)
    before, after = factors(layer)
    expected = x @ layer.weight.T + layer.bias
    expected = expected + after * ((before * x) @ layer.weight_sigma.T + layer.bias_sigma)
    torch.testing.assert_close(noisy(layer, x), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)


def test_the_noise_is_the_signed_root_of_a_normal_that_is_cut_off_at_two() -> None:
    layer = NoisyLinear(3, 20_000)
    _, after = factors(layer)
    normal = (after.sign() * after.square()).numpy()
    assert abs(normal).max() <= 2.0 + 1e-6
    assert stats.kstest(normal, stats.truncnorm(-2, 2).cdf).pvalue > 0.01


def test_every_layer_key_and_side_has_noise_of_its_own() -> None:
    def both(salt: int, *key: int) -> torch.Tensor:
        return torch.cat(factors(NoisyLinear(400, 400, salt=salt), torch.tensor(key)))

    found = torch.stack([both(0, 3, 5), both(1, 3, 5), both(0, 4, 5), both(0, 3, 6), both(0, 3, -5)])
    sides = torch.cat([found[:, :400], found[:, 400:]])
    correlations = torch.corrcoef(sides) - torch.eye(len(sides))
    assert correlations.abs().max() < 0.2
    assert torch.equal(both(0, 3, 5), found[0])


def test_draws_begin_as_those_of_a_linear_layer_and_sigmas_as_stated() -> None:
    layer = NoisyLinear(16, 10_000, sigma=0.4)
    assert stats.kstest(layer.weight.detach().flatten().numpy(), stats.uniform(-0.25, 0.5).cdf).pvalue > 0.01
    assert layer.weight_sigma.unique().tolist() == pytest.approx([0.1])
    assert layer.bias_sigma.unique().tolist() == pytest.approx([0.1])
    before = layer.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before)


def test_the_noise_of_inputs_and_outputs_is_drawn_at_once() -> None:
    layer = NoisyLinear(5, 3, salt=2)
    layer.key = torch.tensor([2**40 + 7, 3])
    assert torch.equal(layer.runs(5, 3), torch.cat([layer.bits((5,)), layer.bits((3,), part=1)]))


def test_members_alone_and_under_vmap_have_the_same_noise() -> None:
    network = Network(SMALL((1, 6, 6), 12, bins=4))
    params = {name: torch.stack([network.fresh(seed)[name] for seed in (0, 1)]) for name in network.names}
    x, keys = torch.rand(2, 5, 1, 6, 6), torch.tensor([[0, 9], [1, 9]])
    together = vmap(network)(params, x, keys)
    for m in range(2):
        one = {name: p[m] for name, p in params.items()}
        torch.testing.assert_close(network(one, x[m], keys[m]), together[m], atol=1e-5, rtol=1e-5)
        assert (network(one, x[m], keys[m]) - network(one, x[m])).abs().min() > 1e-5
    assert network.stochastic


@pytest.mark.parametrize("with_noise", [True, False])
def test_streams_are_a_value_and_advantages_around_it(with_noise: bool) -> None:
    net, x = SMALL((2, 5, 6), 15, bins=5, noisy=with_noise), torch.rand(3, 2, 5, 6)
    found = net(x).view(3, 3, 5)
    features = torch.relu(net.convs[0](x)).flatten(1)
    value = net.value(torch.relu(net.value_hidden(features)))
    advantage = net.advantage(torch.relu(net.advantage_hidden(features))).view(3, 3, 5)
    torch.testing.assert_close(found.mean(1), value)
    torch.testing.assert_close(found - found.mean(1, keepdim=True), advantage - advantage.mean(1, keepdim=True))
    assert net.advantage.bias is None
    assert net.value.bias is not None


def test_sizes_are_those_of_rainbow() -> None:
    names = dict(Dueling((4, 84, 84), 18 * 51, bins=51).named_parameters())
    assert names["value_hidden.weight"].shape == (512, 3136)
    assert names["advantage.weight_sigma"].shape == (918, 512)
    assert names["value.bias_sigma"].shape == (51,)


def test_layer_norm_comes_behind_the_noise() -> None:
    net = Chain(LayerNorm()).build(SMALL((1, 6, 6), 12, bins=4), torch.rand(4, 1, 6, 6))
    network = Network(net, example=torch.rand(4, 1, 6, 6))
    watched = network.watch(network.params(), torch.rand(4, 1, 6, 6), KEY)
    assert watched.output.shape == (4, 12)
    seen: list[torch.Tensor] = []
    for name in ("value_hidden", "advantage_hidden"):
        net.get_submodule(name).register_forward_hook(lambda layer, args, out: seen.append(out))
    with torch.no_grad():
        functional_call(net, {f"{n}.key": KEY for n, m in net.named_modules() if isinstance(m, NoisyLinear)},
                        (torch.rand(4, 1, 6, 6),))  # fmt: skip
    for out in seen:
        torch.testing.assert_close(out.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.var(1, correction=0), torch.ones(4), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dueling((4, 84, 84), 100, bins=51), "expected outputs to be actions times bins, 51, got 100"),
        (lambda: Dueling((4, 10, 10), 6), "convolution 1 has kernel 4 x 4 and gets 1 x 1"),
        (lambda: Dueling((4, 84, 84), 6, channels=(8,)), "got 1 channels, 3 kernels and 3 strides"),
        (lambda: NoisyLinear(0, 3), "inputs"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
