import copy

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from pliant.functional import curvature, spectra
from pliant.nets import MLP
from pliant.network import Network
from tests.diagnostics.nets import NETS, inputs, targets
from tests.reference import curvature as reference

every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())


def case(make, seed=0):
    """A network in float64 as a function of its parameters, with its loss; moved off its zero biases."""
    net, x, y = Network(make().double()), inputs(torch.float64)[:8], targets(torch.float64)[:8]
    params = {name: 1.5 * p + 0.01 for name, p in net.fresh(seed).items()}
    return lambda p: net(p, x), lambda output: F.cross_entropy(output, y), params


def dense(operator):
    return torch.stack([operator.product(v) for v in torch.eye(operator.size, dtype=operator.dtype)])


def draws(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_flat_and_back():
    params = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(6.0), "c": torch.tensor([7.0])}
    vector = curvature.flat(params)
    assert vector.tolist() == list(range(8))
    back = curvature.unflat(vector, params)
    assert back.keys() == params.keys()
    assert all(torch.equal(back[name], p) for name, p in params.items())


@every_net
def test_products_equal_the_dense_matrices(make):
    forward, loss, params = case(make)
    eps = draws(3, (8, 3))
    pairs = [
        (curvature.hessian(lambda p: loss(forward(p)), params), reference.hessian(lambda p: loss(forward(p)), params)),
        (curvature.gauss_newton(forward, loss, params), reference.gauss_newton(forward, loss, params)),
        (curvature.perturbation_hessian(forward, params, 3), reference.perturbation_hessian(forward, params, eps)),
    ]
    for operator, expected in pairs:
        assert operator.size == len(expected)
        assert torch.allclose(dense(operator), expected, rtol=1e-8, atol=1e-10)
        assert expected.abs().max() > 0.01


@every_net
def test_antithetic_pairs_give_the_kernel_exactly(make):
    """The average Hessian over eps and -eps is (2/n) J^T J; its non-zero eigenvalues are 2/n those of the eNTK."""
    forward, _, params = case(make)
    eps = draws(0, (8, 3))
    average = sum(reference.perturbation_hessian(forward, params, sign * eps) for sign in (1, -1)) / 2
    j = reference.jacobian(forward, params)
    ours = dense(curvature.perturbation_hessian(forward, params, antithetic=True))
    assert torch.allclose(average, 2 / 8 * j.T @ j, rtol=0, atol=1e-10)
    assert torch.allclose(ours, average, rtol=0, atol=1e-10)
    kernel = torch.linalg.eigvalsh(reference.ntk(forward, params)).flip(0)
    spectrum = torch.linalg.eigvalsh(ours).flip(0)
    assert torch.allclose(spectrum[:24], 2 / 8 * kernel, rtol=1e-6, atol=1e-10)
    assert spectrum[24:].abs().max() < 1e-10
    one_sided = reference.perturbation_hessian(forward, params, eps)
    assert (one_sided - average).abs().max() > 1e-2  # a single draw is another matrix


@every_net
def test_extreme_eigenvalues_and_trace_of_a_small_net(make):
    forward, loss, params = case(make)
    operator = curvature.hessian(lambda p: loss(forward(p)), params)
    expected = torch.linalg.eigvalsh(reference.hessian(lambda p: loss(forward(p)), params))
    found = spectra.extremes(spectra.lanczos(operator, spectra.rademacher(operator, 1, 0)[0], 60))
    assert found.largest.item() == pytest.approx(expected[-1].item(), rel=1e-8)
    assert found.smallest.item() == pytest.approx(expected[0].item(), rel=1e-8)
    trace = spectra.trace(operator, 20, seed=1)
    assert trace.value.item() == pytest.approx(expected.sum().item(), abs=4 * trace.error.item())
    assert trace.error < 0.2 * expected.abs().sum()


def test_top_eigenvalue_of_a_large_net_equals_eigsh_on_double_backward_products():
    torch.manual_seed(0)
    model, x, y = MLP(784, 10, hidden=(512, 512)), torch.randn(64, 784), torch.randint(10, (64,))
    net, doubled = Network(model), copy.deepcopy(model).double()
    theirs = reference.HessianOfModule(doubled, F.cross_entropy(doubled(x.double()), y))
    (expected,) = eigsh(theirs, k=1, which="LA", tol=1e-4, return_eigenvectors=False)
    operator = curvature.hessian(lambda p: F.cross_entropy(net(p, x), y), net.params())
    start = spectra.rademacher(operator, 1, 0)[0]
    found = spectra.extremes(spectra.lanczos(operator, start, 30))
    assert found.largest.item() == pytest.approx(expected, rel=1e-3)
    assert found.largest_residuals.item() < 1e-3 * expected
    few = spectra.extremes(spectra.lanczos(operator, start, 4))
    assert few.largest.item() < 0.98 * expected  # and the residual says so
    assert few.largest_residuals.item() > 0.02 * expected


@every_net
def test_population_equals_a_loop(make):
    forward, loss, _ = case(make)
    members = [case(make, seed)[2] for seed in range(3)]

    def products(params):
        operators = (
            curvature.hessian(lambda p: loss(forward(p)), params),
            curvature.gauss_newton(forward, loss, params),
            curvature.perturbation_hessian(forward, params),
            curvature.perturbation_hessian(forward, params, antithetic=True),
        )
        return [o.product(torch.ones(o.size).double()) for o in operators]

    population = vmap(products)({name: torch.stack([m[name] for m in members]) for name in members[0]})
    for i, member in enumerate(members):
        for alone, together in zip(products(member), population, strict=True):
            assert torch.allclose(together[i], alone, rtol=1e-10, atol=1e-12)


class FusedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (1, 12)).transpose(-3, -2).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v).mean((-3, -2)))


def test_fused_attention_has_second_derivatives():
    """Its kernels have none; the plain formula is used instead."""
    model, x = FusedAttention().double(), torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    params = {name: p.detach() for name, p in model.named_parameters()}

    def forward(p):
        return functional_call(model, p, (x,))

    def of(params):
        operator = curvature.perturbation_hessian(forward, params)
        return operator.product(torch.ones(operator.size).double())

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = reference.perturbation_hessian(forward, params, draws(0, (5, 2))).sum(1)
    assert torch.allclose(of(params), expected)
    stacked = vmap(of)({name: torch.stack([p, p]) for name, p in params.items()})
    assert torch.allclose(stacked, expected.expand(2, -1))


def test_leaves_parameters_gradients_and_the_random_stream_alone():
    model, x = NETS["mlp"](), inputs()
    params = dict(model.named_parameters())
    model(x).sum().backward()
    before = [(p.clone(), p.grad.clone()) for p in params.values()]
    stream = torch.get_rng_state()
    operator = curvature.perturbation_hessian(lambda p: functional_call(model, p, (x,)), params)
    product = operator.product(torch.ones(operator.size))
    assert not product.requires_grad
    assert torch.equal(product, operator.product(torch.ones(operator.size)))
    assert all(torch.equal(p, q) and torch.equal(p.grad, g) for p, (q, g) in zip(params.values(), before, strict=True))
    assert torch.equal(stream, torch.get_rng_state())
    with torch.no_grad():
        again = curvature.perturbation_hessian(lambda p: functional_call(model, p, (x,)), params)
        assert torch.equal(product, again.product(torch.ones(operator.size)))


def test_a_parameter_without_effect_has_no_curvature():
    params = {"used": torch.tensor([2.0]), "spare": torch.tensor([1.0, 1.0])}
    operators = (
        curvature.hessian(lambda p: (p["used"] ** 3).sum(), params),
        curvature.gauss_newton(lambda p: p["used"], lambda out: 6 * out.square().sum(), params),
        curvature.hessian(lambda p: 0 * p["used"].sum(), params),
    )
    found = [o.product(torch.ones(3)).tolist() for o in operators]
    assert found == [[12, 0, 0], [12, 0, 0], [0, 0, 0]]


def test_errors_say_what_to_write():
    params = {"w": torch.ones(3)}
    with pytest.raises(ValueError, match=r"expected a scalar objective, got shape \(3,\): write its mean"):
        curvature.hessian(lambda p: p["w"] ** 2, params)
    with pytest.raises(ValueError, match=r"expected outputs of shape \(samples, ...\), got shape \(\)"):
        curvature.perturbation_hessian(lambda p: p["w"].sum(), params)
    with pytest.raises(ValueError, match="got tuple"):
        curvature.perturbation_hessian(lambda p: (p["w"],), params)
