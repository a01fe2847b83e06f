import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from pliant.functional import kernels, ranks
from tests.diagnostics.nets import NETS, inputs
from tests.reference import kernels as naive

rows = npst.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 5)),
    elements=st.sampled_from([-2.0, -1.0, 0.0, 0.25, 1.0, 3.0]),
)


def case(make, dtype):
    module = make()
    generator = torch.Generator().manual_seed(1)
    params = {n: torch.randn(p.shape, generator=generator).to(dtype) / 2 for n, p in module.named_parameters()}
    buffers = {n: b.to(dtype) for n, b in module.named_buffers()}
    return (lambda p, x: functional_call(module, {**p, **buffers}, (x,))), params, inputs(dtype)[:8]


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_ntk_equals_jacobians_taken_one_at_a_time(make, dtype, rel):
    network, params, x = case(make, dtype)
    found = kernels.ntk(lambda p, one: network(p, one[None]).flatten(), params, x, num_outputs=3)
    network, params, x = case(make, torch.float64)
    for kernel, exact in zip(found, naive.ntk(network, params, x), strict=True):
        assert kernel.dtype == torch.float64
        assert np.abs(kernel.numpy() - exact).max() <= rel * np.abs(exact).max()
    assert not torch.allclose(*found)  # the two kernels are not one and the same


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_per_example_gradients_equal_autograd_one_at_a_time(make):
    network, params, x = case(make, torch.float64)
    y = torch.arange(8) % 3
    found = kernels.per_example_gradients(
        lambda p, one, label: F.cross_entropy(network(p, one[None]), label[None]), params, x, y
    )
    leaves = {name: p.requires_grad_() for name, p in params.items()}
    exact = naive.gradients([F.cross_entropy(network(leaves, x[i : i + 1]), y[i : i + 1]) for i in range(8)], leaves)
    rowed = torch.cat([g.flatten(1) for g in found.values()], 1)
    assert np.allclose(rowed.detach(), exact, rtol=1e-9, atol=1e-13)
    assert np.allclose(kernels.gram(found).detach(), exact @ exact.T, rtol=1e-9, atol=1e-13)


def tied(p, x):
    return F.linear(F.linear(x, p["v"]), p["v"].T)


WAYS = {
    "a layer after the other": (lambda p, x: F.linear(F.linear(x, p["v"], p["b"]).tanh(), p["w"]), {"v", "w"}),
    "a row with an axis in front": (lambda p, x: F.linear(x[None], p["v"], p["b"])[0], {"v"}),
    "named": (lambda p, x: F.linear(x, bias=p["b"], weight=p["v"]), {"v"}),
    "its output is overwritten": (lambda p, x: F.linear(x, p["v"]).mul_(2).relu_(), {"v"}),
    "tied": (tied, set()),
    "used twice": (lambda p, x: F.linear(F.linear(x, p["u"]).sin(), p["u"]), set()),
    "used elsewhere as well": (lambda p, x: F.linear(x, p["u"]) + p["u"].square().sum(), set()),
    "scaled": (lambda p, x: F.linear(x, p["v"] / p["v"].norm()), set()),
    "cast": (lambda p, x: F.linear(x.float(), p["v"].float()), set()),
    "of several rows": (lambda p, x: F.linear(torch.stack([x, 2 * x]), p["v"]).sin(), set()),
    "a product": (lambda p, x: p["v"] @ x, set()),
    "looked at": (lambda p, x: F.linear(x, p["v"]) * p["v"].shape[0], {"v"}),
}


@pytest.mark.parametrize(("function", "outer"), WAYS.values(), ids=WAYS.keys())
def test_outer_products_need_not_be_held(function, outer):
    """The same inner products, whatever becomes of a weight and of what goes in and out of its layer."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"u": (4, 4), "v": (6, 4), "w": (2, 6), "b": (6,)}
    params = {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    assert kernels.outer_products(function, params, x) == outer

    def scalar(p, example):
        return function(p, example).square().sum()

    exact = kernels.gram(kernels.per_example_gradients(scalar, params, x))
    assert torch.allclose(kernels.gradient_gram(scalar, params, x), exact, rtol=1e-12, atol=1e-12)


def test_gradients_of_examples_that_are_trees():
    examples = {"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "scale": 2.0}
    found = kernels.per_example_gradients(lambda p, e: e["scale"] * (p["w"] @ e["x"]), {"w": torch.zeros(2)}, examples)
    assert found["w"].tolist() == [[2.0, 4.0], [6.0, 8.0]]


def test_hand_computed_kernel_of_a_linear_network():
    """Two outputs W x + b: both kernels are 2 (x x' + 1), as the gradients of the two do not overlap."""
    x = torch.tensor([[1.0], [2.0], [-1.0]])
    layer = nn.Linear(1, 2)
    params = dict(layer.named_parameters())
    total, trace = kernels.ntk(lambda p, one: functional_call(layer, p, (one,)), params, x, num_outputs=2)
    exact = 2 * (x @ x.T + 1)
    assert total.tolist() == trace.tolist() == exact.tolist()


def test_one_output_at_a_time_bounds_the_memory():
    """A backward of many outputs at once would hold outputs x examples x parameters numbers."""
    sizes = []
    original = kernels.gram

    def spy(gradients):
        sizes.append(sum(g.numel() for g in gradients.values()))
        return original(gradients)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "gram", spy)
        kernels.ntk(lambda p, one: p["w"] @ one, {"w": torch.ones(7, 3)}, torch.ones(5, 3), num_outputs=7)
    assert sizes == [5 * 21] * 8


@given(rows=rows)
def test_numbers_equal_the_naive_transcription(rows):
    matrix = rows @ rows.T
    kernel = torch.tensor(matrix)
    s = ranks.singular_values(kernel)
    assert np.allclose(kernels.cosines(kernel), naive.cosines(rows), atol=1e-12)
    assert kernels.condition_number(s, 1e-5).item() == pytest.approx(naive.condition_number(matrix, 1e-5), rel=1e-6)
    assert kernels.top_share(kernel, s).item() == pytest.approx(naive.top_share(matrix))
    assert kernels.uneven(kernel).item() == pytest.approx(naive.uneven(matrix), abs=1e-6)
    rest = naive.off_diagonals(matrix)
    assert kernels.mean_off_diagonal(kernel).item() == pytest.approx(np.mean(rest) if rest else 0.0)
    assert kernels.off_diagonal(kernel).diagonal().abs().sum() == 0


def test_extreme_kernels():
    """No generalisation, generalisation by a constant, and a dead network."""
    memorising, constant, dead = torch.eye(4), torch.ones(4, 4), torch.zeros(4, 4)
    found = {}
    for name, kernel in {"memorising": memorising, "constant": constant, "dead": dead}.items():
        s = ranks.singular_values(kernel)
        off = ranks.effective_rank(ranks.singular_values(kernels.off_diagonal(kernel)))
        numbers = (kernels.condition_number(s, 1e-3), ranks.effective_rank(s), off, kernels.top_share(kernel, s))
        found[name] = [round(number.item(), 3) for number in (*numbers, kernels.uneven(kernel))]
    assert found["memorising"] == [1.0, 4.0, 0.0, 0.25, 0.0]
    assert found["constant"] == [1000.0, 1.0, 3.464, 1.0, 0.0]  # eigenvalues 3, -1, -1, -1 without its diagonal
    assert found["dead"] == [0.0, 0.0, 0.0, 0.0, 0.0]


@given(rows=rows, factor=st.sampled_from([1e-12, 0.5, 1e12]))
def test_all_but_the_kernel_itself_ignore_the_scale(rows, factor):
    kernel = torch.tensor(rows @ rows.T)

    def numbers(kernel):
        s = ranks.singular_values(kernel)
        return torch.stack([kernels.condition_number(s, 1e-3), kernels.top_share(kernel, s), kernels.uneven(kernel)])

    assert torch.allclose(numbers(kernel), numbers(factor * kernel), rtol=1e-6, atol=1e-7)
    assert torch.allclose(kernels.cosines(kernel), kernels.cosines(factor * kernel), atol=1e-12)


def test_clusters_lie_together_and_the_order_is_the_same_twice():
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 0, 0])
    cosine = (labels == labels[:, None]).double()
    before = torch.get_rng_state()
    order = kernels.cluster_order(cosine, num_clusters=3)
    assert labels[order].tolist() == [0, 0, 0, 0, 2, 2, 1, 1]  # the larger first, then as they come
    assert order.tolist() == [1, 3, 6, 7, 0, 4, 2, 5]
    assert kernels.cluster_order(cosine, num_clusters=3).equal(order)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [1, 4])
def test_fewer_examples_or_fewer_kinds_than_clusters(n):
    assert sorted(kernels.cluster_order(torch.ones(n, n)).tolist()) == list(range(n))


def test_population_equals_a_loop():
    network, params, x = case(NETS["mlp"], torch.float64)
    stacked = {name: torch.stack([p, 2 * p, p + 0.1]) for name, p in params.items()}

    def one(params):
        return kernels.ntk(lambda p, example: network(p, example[None]).flatten(), params, x, num_outputs=3)

    together = vmap(one)(stacked)
    for i in range(3):
        alone = one({name: p[i] for name, p in stacked.items()})
        assert all(torch.allclose(a, b[i], rtol=1e-10) for a, b in zip(alone, together, strict=True))
