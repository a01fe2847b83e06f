import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.nn import functional as F

from pliant.functional import units
from tests.reference import units as naive

NONLINEARITIES = {"relu": torch.relu, "leaky": F.leaky_relu, "gelu": F.gelu, "tanh": torch.tanh, "relu6": F.relu6}
matrices = npst.arrays(  # few different values, so that zeros, ties and constant columns are frequent
    np.float64,
    st.tuples(st.integers(1, 12), st.integers(1, 4)),
    elements=st.sampled_from([-20.0, -3.0, -0.5, 0.0, 0.001, 0.5, 1.0, 3.0, 20.0]),
)


def site(pre, function):
    slope = vmap(vmap(grad(function)))(pre)
    return pre, function(pre), slope


def verdicts(pre, post, slope):
    return {
        "dead": units.dead(slope),
        "dormant": units.dormant(post, 0.025),
        "saturated": units.saturated(slope, 1e-3, 0.25),
        "linearized": units.linearized(pre, post, slope),
        "affine_linear": units.affine_linear(pre, post),
        "sign_linear": units.sign_linear(pre, slope, 0.01),
        "slope_linear": units.slope_linear(slope),
    }


@pytest.mark.parametrize("name", NONLINEARITIES)
@given(pre=matrices)
def test_verdicts_equal_the_naive_transcription(name, pre):
    pre, post, slope = site(torch.tensor(pre), NONLINEARITIES[name])
    found = verdicts(pre, post, slope)
    assert found["dead"].tolist() == naive.dead(slope)
    assert found["dormant"].tolist() == naive.dormant(post, 0.025)
    assert found["saturated"].tolist() == naive.saturated(slope, 1e-3, 0.25)
    assert found["sign_linear"].tolist() == naive.sign_linear(pre, slope, 0.01)
    assert found["slope_linear"].tolist() == naive.slope_linear(slope)
    assert found["affine_linear"].tolist() == naive.affine_linear(pre, post)
    assert found["linearized"].tolist() == naive.linearized(pre, post, slope)
    assert torch.allclose(units.dormancy(post), torch.tensor(naive.dormancy(post), dtype=torch.float64))


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_float32_equals_the_naive_transcription(name):
    generator = torch.Generator().manual_seed(0)
    shift = torch.linspace(-6, 6, 40)
    pre, post, slope = site(torch.randn(200, 40, generator=generator) + shift, NONLINEARITIES[name])
    assert torch.allclose(units.dormancy(post).double(), torch.tensor(naive.dormancy(post)).double(), rtol=1e-4)
    assert units.affine_linear(pre, post).tolist() == naive.affine_linear(pre, post)
    assert units.slope_linear(slope).tolist() == naive.slope_linear(slope)


@given(pre=matrices, data=st.data())
def test_verdicts_follow_units_and_ignore_the_order_of_samples(pre, data):
    pre, post, slope = site(torch.tensor(pre), F.leaky_relu)
    rows = torch.tensor(data.draw(st.permutations(range(pre.shape[0]))))
    columns = torch.tensor(data.draw(st.permutations(range(pre.shape[1]))))
    shuffled = verdicts(*(m[rows][:, columns] for m in (pre, post, slope)))
    for name, verdict in verdicts(pre, post, slope).items():
        assert torch.equal(shuffled[name], verdict[columns]), name


@pytest.mark.parametrize("factor", [1e-25, 2.0**-10, 3.0, 1e25])
def test_scale_of_the_layer_does_not_matter(factor):
    generator = torch.Generator().manual_seed(1)
    pre = torch.randn(50, 30, generator=generator) + torch.linspace(-3, 3, 30)
    pre, post, slope = site(pre, torch.relu)
    assert units.affine_linear(pre * factor, post * factor).equal(units.affine_linear(pre, post))
    assert torch.allclose(units.dormancy(post * factor), units.dormancy(post))
    assert units.sign_linear(pre * factor, slope, 0.0).equal(units.sign_linear(pre, slope, 0.0))


def test_a_single_sample_can_change_the_verdict():
    pre = torch.linspace(-2, -1, 100)[:, None]
    assert units.dead(site(pre, torch.relu)[2]).item()
    pre[17] = 1.0
    assert not units.dead(site(pre, torch.relu)[2]).item()
    pre = torch.linspace(1, 2, 100)[:, None]
    assert units.linearized(*site(pre, torch.relu)).item()
    pre[17] = -1.0
    assert not units.linearized(*site(pre, torch.relu)).item()


def test_definitions_differ_on_one_matrix():
    x = torch.linspace(-1, 1, 101)[:, None]
    pre = torch.cat([x - 2, x + 2, 0.01 * x, 50 * x, x.sign() * 30], 1).double()
    pre, post, slope = site(pre, lambda a: torch.where(a < 0, 0.0 * a, torch.tanh(a)))  # tanh with a dead half
    post = torch.cat([post, 0.01 * x.double()], 1)
    pre, slope = torch.cat([pre, x.double()], 1), torch.cat([slope, torch.full_like(slope[:, :1], 0.01)], 1)
    found = {name: verdict.nonzero().flatten().tolist() for name, verdict in verdicts(pre, post, slope).items()}
    assert found["dead"] == [0, 4]
    assert found["saturated"] == [0, 3, 4]
    assert found["dormant"] == [0, 2, 5]
    assert found["linearized"] == [5]
    assert len({tuple(found[name]) for name in ("dead", "dormant", "saturated", "linearized")}) == 4


def test_the_three_definitions_of_linearized_differ():
    """A GELU far out, a GELU near 0, a ReLU that is off on 1 % of the samples, a tanh near its flat end."""
    x = torch.linspace(-1, 1, 200).double()[:, None]
    far, shallow, leak, flat = x + 2.5, 0.005 * x, x + 0.985, x + 5
    parts = [site(far, F.gelu), site(shallow, F.gelu), site(leak, torch.relu), site(flat, torch.tanh)]
    pre, post, slope = (torch.cat(p, 1) for p in zip(*parts, strict=True))
    assert units.linearized(pre, post, slope).tolist() == [True, True, True, False]
    assert units.sign_linear(pre, slope, 0.01).tolist() == [False, False, True, False]
    assert units.sign_linear(pre, slope, 0.0).tolist() == [False, False, False, False]
    assert units.slope_linear(slope).tolist() == [False, True, False, True]


def test_zero_preactivation_of_a_relu_is_off():
    pre, post, slope = site(torch.zeros(5, 1), torch.relu)
    assert units.dead(slope).item()
    assert not units.sign_linear(pre, slope, 0.0).item()
    mixed = site(torch.tensor([[0.0], [1.0], [2.0]]), torch.relu)
    assert units.sign_linear(mixed[0], mixed[2], 0.0).item()
    assert units.linearized(*mixed).item()
    assert not units.linearized(pre, post, slope).item()


@pytest.mark.parametrize("function", [F.relu6, torch.tanh], ids=["relu6", "tanh"])
def test_dead_units_are_never_linearized_even_when_two_values_lie_on_a_line(function):
    pre, post, slope = site(torch.tensor([[-30.0], [30.0], [-30.0], [30.0]]), function)
    assert units.dead(slope).item()
    assert units.affine_linear(pre, post).item()
    assert not units.linearized(pre, post, slope).item()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1e3, 1.0), (1e5, 1.0), (5e5, 1.0), (1e3, 1e-2), (-1e5, 1.0)])
def test_float32_with_a_large_mean_is_not_misjudged(mean, std):
    noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(2))
    pre = std * noise + mean
    assert units.affine_linear(pre, 0.01 * pre).item()
    assert not units.affine_linear(pre, std * F.relu(noise) + mean).item()
    assert not units.affine_linear(pre, torch.full_like(pre, mean + 0.1)).item()


@given(num_steep=st.integers(0, 120), num_samples=st.integers(1, 120))
def test_saturated_at_exactly_its_share(num_steep, num_samples):
    num_steep = min(num_steep, num_samples)
    slope = (torch.arange(num_samples) < num_steep).float()[:, None]
    share = num_steep / num_samples
    assert units.saturated(slope, 0.0, share).item()
    assert num_steep == 0 or not units.saturated(slope, 0.0, math.nextafter(share, 0) - 1e-6).item()


@given(pre=matrices, tolerance=st.sampled_from([0.0, 1e-3, 0.1]))
def test_dead_is_saturated_with_no_exception_allowed(pre, tolerance):
    slope = site(torch.tensor(pre), torch.tanh)[2]
    dead = units.dead(slope, tolerance)
    assert units.saturated(slope, tolerance, share=0.0).equal(dead)
    assert (units.saturated(slope, tolerance, share=0.3) | ~dead).all()


def test_a_silent_layer_is_all_dormant():
    assert units.dormancy(torch.zeros(4, 3)).tolist() == [0.0, 0.0, 0.0]
    assert units.dormant(torch.zeros(4, 3), tau=0.0).all()
    assert not units.dormant(torch.ones(4, 1), tau=0.1).item()


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_population_equals_a_loop(name):
    pre = 3 * torch.randn(5, 20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    members = [site(member, NONLINEARITIES[name]) for member in pre]
    stacked = vmap(verdicts)(*(torch.stack(m) for m in zip(*members, strict=True)))
    for i, member in enumerate(members):
        for key, verdict in verdicts(*member).items():
            assert stacked[key][i].equal(verdict), key


@given(pre=matrices, cosine=st.sampled_from([0.5, 0.951]))
def test_activity_duplicates_and_gradients_equal_the_naive_transcription(pre, cosine):
    post = torch.tensor(pre)
    assert np.allclose(units.active(post), naive.active(post))
    assert units.duplicate(post, cosine).tolist() == naive.duplicate(post, cosine)
    assert units.silent(post, share=0.7).tolist() == naive.silent(post, share=0.7)
    assert units.constant(post, tolerance=0.4).tolist() == naive.constant(post, tolerance=0.4)
    assert np.allclose(units.gradient_dormancy(post), naive.gradient_dormancy(post))
    gradient = 2e-4 * post.flip(1) / 3
    found = units.gradient_saturated(post, gradient, share=0.7)
    assert found.tolist() == naive.gradient_saturated(post, gradient, share=0.7)


def test_duplicates_by_hand():
    """Two that are proportional, one at a right angle, one close by, two silent ones; the sign matters."""
    h = torch.tensor([[1.0, 3.0, 0.0, 1.0, 0.0, 0.0, -1.0], [0.0, 0.0, 2.0, 0.3, 0.0, 0.0, 0.0]])
    assert units.duplicate(h).tolist() == [True, True, False, True, False, False, False]
    assert units.duplicate(h, cosine=0.96).tolist() == [True, True, False, False, False, False, False]
    assert units.duplicate(1e30 * h).equal(units.duplicate(h))
    assert units.duplicate(1e-30 * h).equal(units.duplicate(h))
    assert not units.duplicate(torch.ones(5, 1)).any()


def test_a_layer_without_gradients_is_all_dormant():
    assert units.gradient_dormancy(torch.zeros(3, 4)).tolist() == [0.0, 0.0, 0.0]
    huge = units.gradient_dormancy(1e30 * torch.tensor([[3.0, 4.0], [0.0, 15.0]]))
    assert huge.tolist() == pytest.approx([0.5, 1.5])


def test_saturated_by_gradient_at_exactly_its_share_and_never_when_silent():
    gradient = torch.ones(100, 2)
    gradient[:99] = 0
    post = torch.ones(100, 2) * torch.tensor([1.0, 0.0])
    assert units.gradient_saturated(post, gradient).tolist() == [False, False]  # 99 % are not more than 99 %
    gradient[:] = 0
    assert units.gradient_saturated(post, gradient).tolist() == [True, False]


def test_definitions_of_inactive_differ_on_one_layer():
    """Silent but learning, constant and without gradient, hardly active, healthy."""
    post = torch.tensor([[0.0, 1.0, 0.02, 1.0], [0.0, 1.0, 0.0, 2.0]])
    assert units.silent(post).tolist() == [True, False, False, False]
    assert units.constant(post).tolist() == [True, True, False, False]
    rows = torch.tensor([[1.0], [0.0], [1.0], [1.0]])
    assert units.dormant(post, 0.025).tolist() == [True, False, True, False]
    assert (units.gradient_dormancy(rows) <= 0.025).tolist() == [False, True, False, False]
    assert (units.active(post) == 0).tolist() == [True, False, False, False]


def test_a_group_of_clones_counts_whole_where_published_code_leaves_one_out():
    """Five units, of which two are clones: 0.40 here, 0.20 there; three clones: 0.60 and 0.40."""

    def published(post, cosine=0.95):  # asks for a clone among the units before
        h = post / post.norm(dim=0)
        return ((h.T @ h) > cosine).triu(1).any(0)

    post = torch.eye(6)[:, :5]
    post[:, 1] = 2 * post[:, 0]
    assert units.duplicate(post).double().mean() == 0.4
    assert published(post).double().mean() == 0.2
    post[:, 2] = 3 * post[:, 0]
    assert units.duplicate(post).double().mean() == 0.6
    assert published(post).double().mean() == 0.4


def test_a_silent_unit_is_not_saturated_by_gradient_where_published_code_counts_it():
    def published(post, gradient, tolerance=1e-4, share=0.99):  # a quotient, kept finite
        return (gradient.abs() / (post.abs().mean(0) + 1e-12) < tolerance).double().mean(0) > share

    post, gradient = torch.ones(8, 4), torch.ones(8, 4)
    post[:, 3] = gradient[:, 3] = 0
    assert units.gradient_saturated(post, gradient).double().mean() == 0
    assert published(post, gradient).double().mean() == 0.25
    gradient[:, 0] = 1e-5
    assert units.gradient_saturated(post, gradient).tolist() == [True, False, False, False]
    assert published(post, gradient).tolist() == [True, False, False, True]


def test_of_no_samples_no_unit_is_dead():
    none = torch.zeros(0, 3)
    assert not units.dead(none).any()
    assert not units.silent(none).any()
    assert not units.dormant(none, 0.1).any()


def test_of_no_samples_no_unit_is_affine():
    nothing = torch.zeros(0, 3)
    assert units.linearized(nothing, nothing, nothing).tolist() == [False] * 3
