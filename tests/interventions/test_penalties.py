"""Penalties by hand, and what each promises beyond the contracts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.interventions import (
    Chain,
    FeatureNormPenalty,
    GradientNormPenalty,
    InFeR,
    L2Init,
    Parseval,
    Seen,
    SpectralRegulariser,
    Wasserstein,
)
from pliant.interventions.contrib import CChain
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.population import Member, Population
from pliant.sites import Inputs
from tests.interventions.nets import NETS, Convolutional, Perceptron

SEEN = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
ROW = Network(nn.Linear(3, 1, bias=False))
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def row(*numbers):
    return {"weight": torch.tensor([numbers])}


def trained(network, chain, optimizer, steps, seed=0):
    """The parameters and the state of the only intervention, after steps on random batches."""
    population = Population(network, F.cross_entropy, [Member(seed, optimizer, chain)])
    state = population.init()
    for step in range(steps):
        x = normal(16, *network.example.shape[1:], seed=step)
        population.step(state, x[None], x.flatten(1)[:, :3].argmax(1)[None])
    params = {name: p[0] for name, p in state.params.items()}
    return params, state


# -- towards the initial parameters ------------------------------------------------------------------------------------


def test_l2_init_pulls_normalisers_to_where_they_began():
    network = Network(nn.Sequential(nn.Linear(1, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 1)))
    method, params = L2Init(0.5), network.fresh(0)
    state = method.init(network, params)
    moved = {**params, "1.weight": torch.tensor([1.0, 4.0])}
    assert method.penalty(network, params, state, SEEN) == 0
    assert method.penalty(network, moved, state, SEEN) == pytest.approx(4.5)
    gradient = method.penalty_gradient(network, moved, state, SEEN)
    assert list(gradient) == list(params)
    assert gradient["1.weight"].value().tolist() == [0.0, 3.0]
    assert not gradient["0.weight"].value().any()


def test_wasserstein_lets_parameters_change_places():
    method = Wasserstein(0.5)
    state = method.init(ROW, row(3.0, 1.0, 2.0))
    assert method.penalty(ROW, row(1.0, 2.0, 3.0), state, SEEN) == 0
    assert method.penalty(ROW, row(1.0, 7.0, 2.0), state, SEEN) == pytest.approx(0.5 * 4**2)
    gradient = method.penalty_gradient(ROW, row(0.0, 7.0, 2.5), state, SEEN)["weight"].value()
    assert gradient.tolist() == [[-1.0, 4.0, 0.5]]  # the least towards 1, the largest towards 3, the other towards 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_wasserstein_ranks_many_numbers_of_either_sign(dtype):
    """So many that torch sorts them by radix; some are equal."""
    network = Network(nn.Linear(400, 250, bias=False))
    w, before = (normal(250, 400, seed=seed).to(dtype).clamp(-1.5) for seed in (1, 2))
    method = Wasserstein(0.5)
    state = method.init(network, {"weight": before})
    gradient = method.penalty_gradient(network, {"weight": w}, state, SEEN)["weight"].value()
    order = w.flatten().argsort(stable=True)
    assert torch.equal(gradient.flatten()[order], w.flatten()[order] - before.flatten().sort().values)


def test_wasserstein_is_never_above_l2_init():
    a, b = ({"weight": normal(1, 30, seed=seed)} for seed in (1, 2))
    values = [m.penalty(ROW, a, m.init(ROW, b), SEEN) for m in (Wasserstein(1.0), L2Init(1.0))]
    assert 0 < values[0] < values[1]


# -- spectral ----------------------------------------------------------------------------------------------------------


def test_the_spectral_regulariser_takes_kernels_as_matrices():
    network = Network(nn.Conv2d(2, 3, 2))
    method, params = SpectralRegulariser(1.0, power=3), network.fresh(0)
    sigma = torch.linalg.svdvals(params["weight"].reshape(3, 8))[0]
    expected = (sigma**3 - 1) ** 2 + params["bias"].norm() ** 6
    assert method.penalty(network, params, method.init(network, params), SEEN) == pytest.approx(expected.item())


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e5])
def test_the_spectral_regulariser_survives_extreme_matrices(size):
    network = Network(nn.Linear(2, 2))
    method = SpectralRegulariser(1.0, power=2)
    state = method.init(network, {"weight": torch.eye(2), "bias": torch.zeros(2)})
    params = {"weight": torch.full((2, 2), size), "bias": torch.zeros(2)}
    (v,) = method.after_step(network, params, {}, state, SEEN).state.values()
    assert v.norm() == pytest.approx(1.0)
    assert all(g.value().isfinite().all() for g in method.penalty_gradient(network, params, state, SEEN).values())


@pytest.mark.parametrize("module", [Perceptron, Convolutional])
def test_one_power_iteration_a_step_follows_training(module):
    """Within 2 % from below of the whole decomposition, over 200 steps of Adam."""
    x = normal(16, *(NETS["MLP"] if module is Perceptron else NETS["CNN"]).shape)
    network = Network(module(), example=x)
    method = SpectralRegulariser(1e-3, power=2)
    for steps in (5, 50, 200):
        params, state = trained(network, Chain(method), Adam(lr=3e-3), steps)
        for name, v in state.interventions[0].items():
            matrix = params[name].flatten(1)
            sigma, followed = torch.linalg.svdvals(matrix)[0], (matrix @ v[0]).norm()
            assert 0.98 * sigma <= followed <= sigma * (1 + 1e-5)


def test_the_spectral_regulariser_brings_every_matrix_to_norm_one():
    network = Network(Perceptron(), example=normal(16, 4))
    params, _ = trained(network, Chain(SpectralRegulariser(1.0, power=2)), SGD(lr=0.02), 300)
    for name in network.weights:
        assert torch.linalg.svdvals(params[name])[0] == pytest.approx(1.0, abs=0.1)
        assert params[name.replace("weight", "bias")].norm() < 0.5


# -- Parseval ----------------------------------------------------------------------------------------------------------


def test_parseval_by_hand():
    network = Network(nn.Linear(2, 2, bias=False))
    params = {"weight": torch.tensor([[2.0, 0.0], [1.0, 2.0]])}  # W W^T = [[4, 2], [2, 5]]
    method = Parseval(0.5, scale=4.0)
    assert method.penalty(network, params, {}, SEEN) == pytest.approx(0.5 * (2**2 + 2**2 + 1))
    gradient = method.penalty_gradient(network, params, {}, SEEN)["weight"].value()
    torch.testing.assert_close(gradient, 2 * torch.tensor([[0.0, 2.0], [2.0, 1.0]]) @ params["weight"])
    assert list(method.penalty_gradient(Network(nn.Linear(2, 2)), params, {}, SEEN)) == ["weight"]


# -- features and gradients --------------------------------------------------------------------------------------------


def test_feature_norm_counts_each_example_once():
    """However many positions an image has."""
    network = Network(nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1)))
    watched = network.watch({n: torch.ones_like(p) for n, p in network.params().items()}, torch.ones(5, 1, 3, 3))
    seen = SEEN._replace(features=watched.features)
    assert FeatureNormPenalty(0.1).penalty(network, {}, {}, seen) == pytest.approx(0.1 * 8 * (4 + 1) ** 2)


def test_gradient_norm_adds_two_hessian_gradient():
    """Of a quadratic loss a w^2: gradient 2 a w, Hessian 2 a."""
    w, a = torch.tensor([[3.0]], requires_grad=True), 0.25
    network = Network(nn.Linear(1, 1, bias=False))
    seen = SEEN._replace(gradient=lambda: {"weight": 2 * a * w})
    penalty = GradientNormPenalty(0.1).penalty(network, {"weight": w}, {}, seen)
    assert penalty.item() == pytest.approx(0.1 * (2 * a * 3) ** 2)
    (found,) = torch.autograd.grad(penalty, w)
    assert found.item() == pytest.approx(0.1 * 2 * (2 * a) * (2 * a * 3))


# -- InFeR -------------------------------------------------------------------------------------------------------------


def test_infer_is_the_published_setting_by_default():
    assert InFeR() == InFeR(strength=0.1, target_scale=100.0, num_heads=10)


@every_net
def test_infer_adds_heads_that_do_not_enter_the_output(net):
    module, x = net.module(), normal(6, *net.shape)
    built = InFeR().build(module, x)
    assert torch.equal(built(x), module(x))
    assert list(built.state_dict()) == [*module.state_dict(), "infer.weight", "infer.bias"]
    plain, fresh = Network(module).fresh(3), Network(built).fresh(3)
    assert all(torch.equal(fresh[name], p) for name, p in plain.items())  # the same draws as without it
    assert not torch.equal(Network(built).fresh(4)["infer.weight"], fresh["infer.weight"])


def test_infer_starts_at_its_targets_distance():
    """At the start both networks are one, so every head misses by (target_scale - 1) times itself."""
    x = normal(6, 4)
    method = InFeR(strength=0.5, target_scale=3.0, num_heads=2)
    network = Network(method.build(Perceptron(), x))
    params = network.fresh(0)
    features = network.watch(params, x).features
    heads = F.linear(features, params["infer.weight"], params["infer.bias"])
    found = method.penalty(network, params, method.init(network, params), SEEN._replace(x=x, features=features))
    assert found.item() == pytest.approx(0.5 * 4 * heads.square().sum(1).mean().item())


def test_infer_at_zero_strength_trains_the_plain_network_bitwise():
    x = normal(16, 4)
    off = InFeR(strength=0.0)
    plain, _ = trained(Network(Perceptron(), example=x), Chain(), Adam(lr=0.01), 20)
    beside, _ = trained(Network(off.build(Perceptron(), x), example=x), Chain(off), Adam(lr=0.01), 20)
    assert all(torch.equal(beside[name], p) for name, p in plain.items())


def test_infer_leaves_the_global_stream_alone_and_follows_its_seed():
    with torch.random.fork_rng(devices=[]):
        heads = []
        for seed in (1, 2, 1):
            torch.manual_seed(seed)
            module, before = Perceptron(), torch.get_rng_state()
            heads.append(InFeR().build(module, normal(6, 4)).infer.weight)
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])


def test_infer_says_what_is_missing():
    x = normal(6, 4)
    built = InFeR().build(Perceptron(), x)
    with pytest.raises(ValueError, match="InFeR would overwrite infer of Perceptron: build it into a module once"):
        InFeR().build(built, x)
    with pytest.raises(ValueError, match="InFeR found no linear or convolution call in ReLU, so no features"):
        InFeR().build(nn.ReLU(), x)
    network = Network(Perceptron())
    with pytest.raises(ValueError, match=r"InFeR found no heads in Perceptron: write module = Chain\(InFeR\(\), ...\)"):
        InFeR().init(network, network.fresh(0))
    compiled = nn.Module()
    compiled._orig_mod = Perceptron()
    with pytest.raises(ValueError, match=r"InFeR cannot be built into a compiled Perceptron: write model = torch.comp"):
        InFeR().build(compiled, x)


# -- C-CHAIN -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_churn_is_measured_on_the_last_batch_against_the_lagged_network(lag):
    network = Network(nn.Linear(1, 1, bias=False), example=torch.zeros(2, 1))
    method = CChain(0.5, lag=lag)
    weights = [1.0, 2.0, 4.0, 8.0, 16.0]
    state = method.init(network, {"weight": torch.tensor([[weights[0]]])})
    for step, w in enumerate(weights):
        params = {"weight": torch.tensor([[w]])}
        found = method.penalty(network, params, state, SEEN)
        then, before = weights[max(0, step - lag)], torch.tensor([step - 1.0, -3.0]) if step else torch.zeros(2)
        assert found.item() == pytest.approx(0.5 * ((w - then) * before).square().mean().item())
        if step + 1 < len(weights):
            after = {"weight": torch.tensor([[weights[step + 1]]])}
            seen = SEEN._replace(x=torch.tensor([[float(step)], [-3.0], [99.0]]))  # a third input is not kept
            state = method.after_step(network, after, {}, state, seen).state


def test_churn_keeps_older_inputs_beside_a_short_batch():
    network = Network(nn.Linear(1, 1), example=torch.tensor([[1.0], [2.0], [3.0]]))
    method = CChain(1.0)
    state = method.init(network, params := network.fresh(0))
    new = method.after_step(network, params, {}, state, SEEN._replace(x=torch.tensor([[9.0]]))).state
    assert new["x"]["0"].flatten().tolist() == [9.0, 1.0, 2.0]


def test_churn_in_divergence_by_hand():
    """Between (1/4, 3/4) before and (1/2, 1/2) now."""
    network = Network(nn.Linear(1, 2, bias=False), example=torch.ones(1, 1))
    method = CChain(2.0, distance="kl")
    state = method.init(network, {"weight": torch.tensor([[0.0], [math.log(3)]])})
    expected = 2 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    found = method.penalty(network, {"weight": torch.zeros(2, 1)}, state, SEEN)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_churn_with_several_inputs():
    class Product(nn.Linear):
        def forward(self, a, b, *, scale):
            return super().forward(a * b) * scale

    ones = Inputs((torch.ones(1, 2), torch.ones(1, 2)), {"scale": 2.0})
    network = Network(Product(2, 1, bias=False), example=ones)
    method = CChain(1.0)
    state = method.init(network, {"weight": torch.zeros(1, 2)})
    seen = SEEN._replace(x=Inputs((torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]])), {"scale": 2.0}))
    moved = {"weight": torch.ones(1, 2)}
    state = method.after_step(network, moved, {}, state, seen).state
    assert method.penalty(network, moved, state, SEEN).item() == pytest.approx((2 * (3 + 8)) ** 2)


def test_churn_needs_an_example():
    network = Network(Perceptron())
    with pytest.raises(ValueError, match=r"write Network\(module, example=x\)"):
        CChain(1.0).init(network, network.fresh(0))


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [
    lambda: SpectralRegulariser(0.1, power=0),
    lambda: SpectralRegulariser(0.1, power=1.5),
    lambda: SpectralRegulariser(0.1, power=1, num_iterations=0),
    lambda: InFeR(num_heads=0),
    lambda: CChain(0.1, lag=0),
    lambda: CChain(0.1, distance="l1"),
    lambda: Parseval(0.1, scale=0.0),
])  # fmt: skip
def test_refuses_settings_that_are_none(wrong):
    with pytest.raises(ValueError, match=r"^expected \w+ of \w+ to be .*, got \S+$"):
        wrong()
