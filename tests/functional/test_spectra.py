import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from pliant.functional import spectra
from pliant.functional.spectra import Operator, Ritz
from tests.reference import curvature as reference


def operator(matrix):
    return Operator(lambda v: matrix @ v, len(matrix), matrix.dtype, matrix.device)


def symmetric(eigenvalues, seed=0, dtype=torch.float64):
    draw = np.random.default_rng(seed).standard_normal((len(eigenvalues), len(eigenvalues)))
    q, _ = np.linalg.qr(draw)
    return torch.from_numpy(q @ np.diag(eigenvalues) @ q.T).to(dtype)


def start(size, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size)).to(dtype)


def exact(matrix):
    """Quadrature from every basis vector: no chance is left in the weights."""
    runs = [spectra.lanczos(operator(matrix), e, len(matrix)) for e in torch.eye(len(matrix), dtype=matrix.dtype)]
    return Ritz(*(torch.stack(part) for part in zip(*runs, strict=True)))


NETWORK_LIKE = np.concatenate([np.linspace(-0.3, 0.3, 380), np.geomspace(1, 100, 20)])  # a bulk and outliers
NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 3))
EIGENVALUES = st.lists(st.one_of(st.just(0.0), NUMBERS), min_size=1, max_size=10)


@settings(deadline=None, max_examples=60)
@given(EIGENVALUES, st.integers(0, 1000))
def test_all_steps_find_all_eigenvalues_of_any_matrix(eigenvalues, seed):
    """Zeros, repeated eigenvalues and exhausted Krylov spaces included."""
    ritz = spectra.lanczos(operator(symmetric(eigenvalues, seed)), start(len(eigenvalues), seed), len(eigenvalues))
    scale = max(map(abs, eigenvalues)) + 1e-300
    assert np.abs(ritz.values.numpy() - np.sort(eigenvalues)).max() <= 1e-7 * scale
    assert ritz.weights.sum().item() == pytest.approx(1)
    assert ritz.residuals.max() <= 1e-7 * scale


@settings(deadline=None, max_examples=60)
@given(EIGENVALUES, st.integers(0, 1000), st.integers(1, 10))
def test_residuals_bound_the_errors_and_weights_give_the_moments(eigenvalues, seed, steps):
    matrix, first = symmetric(eigenvalues, seed), start(len(eigenvalues), seed)
    ritz = spectra.lanczos(operator(matrix), first, steps)
    scale = max(map(abs, eigenvalues))
    for value, residual in zip(ritz.values, ritz.residuals, strict=True):
        assert np.abs(np.array(eigenvalues) - value.item()).min() <= residual.item() + 1e-9 * scale
    v = first / first.norm()
    assert (ritz.weights @ ritz.values).item() == pytest.approx((v @ matrix @ v).item(), abs=1e-9 * scale)
    if steps > 1:
        second = (ritz.weights @ ritz.values.square()).item()
        assert second == pytest.approx((matrix @ v).square().sum().item(), abs=1e-9 * scale**2)


def test_weights_are_squared_components_of_the_start():
    matrix, first = symmetric([1.0, 2.0, 5.0, -3.0]), start(4)
    _, vectors = torch.linalg.eigh(matrix)
    ritz = spectra.lanczos(operator(matrix), first, 4)
    assert torch.allclose(ritz.weights, (vectors.T @ (first / first.norm())).square())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 5e-6)])
def test_no_orthogonality_is_lost_where_plain_lanczos_loses_it(dtype, bound):
    matrix, first = symmetric(NETWORK_LIKE, dtype=dtype), start(400, dtype=dtype)
    basis = spectra.krylov(operator(matrix), first, 100).basis
    naive = reference.plain_lanczos(matrix, first, 100)
    eye = torch.eye(100, dtype=dtype)
    assert (naive @ naive.T - eye).abs().max() > 0.1
    assert (basis @ basis.T - eye).abs().max() < bound


def test_one_new_direction_after_another_stays_orthogonal():
    """With one pass of re-orthogonalisation it would be off by 1.7e-5: little of the space is left in the end."""
    basis = spectra.krylov(operator(torch.eye(200)), torch.ones(200), 200).basis
    assert (basis @ basis.T - torch.eye(200)).abs().max() < 3e-6


def test_the_matrix_is_tridiagonal_in_the_basis():
    matrix = symmetric(NETWORK_LIKE)
    basis, diagonal, coupling = spectra.krylov(operator(matrix), start(400), 30)
    expected = torch.diag(diagonal) + torch.diag(coupling[:-1], 1) + torch.diag(coupling[:-1], -1)
    assert torch.allclose(basis @ matrix @ basis.T, expected, atol=1e-11)


def test_too_few_steps_show_in_the_residual():
    matrix = symmetric(np.concatenate([np.linspace(0, 1, 199), [1.05]]))  # a top eigenvalue that barely stands out
    few, many = (spectra.extremes(spectra.lanczos(operator(matrix), start(200), steps)) for steps in (5, 100))
    assert few.largest < 1.03
    assert few.largest_residuals > 0.02
    assert many.largest.item() == pytest.approx(1.05, rel=1e-8)
    assert many.largest_residuals < 1e-8


def test_extremes_at_both_ends():
    found = spectra.extremes(spectra.lanczos(operator(symmetric(NETWORK_LIKE)), start(400), 80), k=3)
    assert torch.allclose(found.largest, torch.from_numpy(NETWORK_LIKE[:-4:-1].copy()), rtol=1e-8)
    assert found.smallest[0].item() == pytest.approx(-0.3, rel=1e-2)
    assert (found.smallest.diff() > 0).all()
    assert found.largest_residuals.shape == found.smallest_residuals.shape == (3,)


@pytest.mark.parametrize("matrix", [torch.zeros(6, 6), torch.eye(6), torch.diag(torch.tensor([5.0, 0, 0, 0, 0, 0]))])
def test_exhausted_krylov_spaces(matrix):
    """The zero matrix, the identity and rank one end after a step or two; more steps than entries are not taken."""
    found = spectra.krylov(operator(matrix), torch.ones(6), 50)
    assert torch.allclose(found.basis @ found.basis.T, torch.eye(6), atol=1e-5)
    ritz = spectra.quadrature(operator(matrix), 50, 2)
    assert torch.allclose(ritz.values, torch.linalg.eigvalsh(matrix).expand(2, 6), atol=1e-5)
    assert torch.allclose(ritz.weights.sum(1), torch.ones(2))


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_density_equals_that_of_the_eigenvalues(sigma):
    eigenvalues = [-2.0, 0.0, 0.0, 1.0, 7.0]
    grid, found = spectra.spectral_density(exact(symmetric(eigenvalues)), sigma)
    expected = reference.density(eigenvalues, grid.numpy(), sigma or 1e-2 * 9)
    assert np.allclose(found.numpy(), expected, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(EIGENVALUES, st.integers(1, 10), st.integers(1, 3))
def test_density_integrates_to_1(eigenvalues, steps, num_starts):
    ritz = spectra.quadrature(operator(symmetric(eigenvalues)), steps, num_starts)
    grid, density = spectra.spectral_density(ritz)
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)
    assert (density >= 0).all()


def test_density_of_a_large_matrix_is_near_the_true_one():
    matrix = symmetric(NETWORK_LIKE)
    grid, found = spectra.spectral_density(spectra.quadrature(operator(matrix), 80, 10))
    expected = reference.density(NETWORK_LIKE, grid.numpy(), 1e-2 * (100 + 0.3))
    assert torch.trapezoid((found - torch.from_numpy(expected)).abs(), grid) < 0.05


def test_shape_of_the_spectrum_equals_that_of_the_eigenvalues():
    eigenvalues = [-2.0, 0.0, 0.01, 1.0, 7.0]
    ritz = exact(symmetric(eigenvalues))
    assert spectra.effective_rank(ritz, 5).item() == pytest.approx(reference.effective_rank(eigenvalues))
    assert spectra.share_near_zero(ritz).item() == pytest.approx(0.4)
    assert spectra.share_near_zero(ritz, 0.2).item() == pytest.approx(reference.share_near_zero(eigenvalues, 0.2))
    zeros = exact(torch.zeros(3, 3))
    assert spectra.effective_rank(zeros, 3) == 0
    assert spectra.share_near_zero(zeros) == 1


def test_conditioning_is_bounded_and_signed():
    def conditioning(*pair):
        return spectra.conditioning(*torch.tensor(pair)).item()

    assert conditioning(6.0, 2.0) == 3
    assert conditioning(6.0, -2.0) == -3
    bound = 1 / (32 * torch.finfo(torch.float32).eps)
    assert conditioning(6.0, 0.0) == conditioning(6.0, -1e-12) == pytest.approx(bound)
    assert conditioning(0.0, 0.0) == 1


def test_trace_equals_the_dense_one():
    matrix = symmetric(NETWORK_LIKE)
    found = [spectra.trace(operator(matrix), 10, seed) for seed in range(100)]
    values, errors = torch.stack([f.value for f in found]), torch.stack([f.error for f in found])
    assert values.mean().item() == pytest.approx(NETWORK_LIKE.sum(), abs=4 * values.std().item() / 10)
    assert values.std().item() == pytest.approx(errors.square().mean().sqrt().item(), rel=0.3)
    plain = [(v @ matrix @ v).item() for v in spectra.rademacher(operator(matrix), 3000, 0)]
    assert values.std() < 0.5 * np.std(plain) / 30**0.5  # as many products without the sketch


@settings(deadline=None, max_examples=30)
@given(st.lists(NUMBERS, min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 100))
def test_trace_is_exact_up_to_the_rank_of_the_sketch(eigenvalues, zeros, seed):
    eigenvalues = eigenvalues + [0.0] * zeros
    value, error = spectra.trace(operator(symmetric(eigenvalues, seed)), 3 + 3, seed)
    scale = max(map(abs, eigenvalues)) + 1e-300
    assert abs(value.item() - sum(eigenvalues)) <= 1e-6 * scale
    assert error.item() <= 1e-6 * scale


def everything(matrix):
    ritz = spectra.quadrature(operator(matrix), 8, 2)
    one = spectra.lanczos(operator(matrix), torch.ones(len(matrix), dtype=matrix.dtype), 5)
    shape = spectra.effective_rank(ritz, len(matrix)), spectra.share_near_zero(ritz)
    ends = spectra.extremes(one, 2)
    ratio = spectra.conditioning(ends.largest[0], ends.smallest[0])
    return (*ritz, *one, *ends, ratio, *shape, *spectra.spectral_density(ritz), *spectra.trace(operator(matrix), 3))


def test_population_equals_a_loop():
    members = [symmetric(NETWORK_LIKE[350 + i :: 4], i) for i in range(3)] + [torch.zeros(13, 13).double()]
    members = [m[:12, :12] for m in members]
    population = vmap(everything)(torch.stack(members))
    for i, matrix in enumerate(members):
        for alone, together in zip(everything(matrix), population, strict=True):
            assert torch.allclose(together[i], alone, rtol=1e-9, atol=1e-10)


def test_a_member_that_is_not_finite_is_nan_and_leaves_the_others_alone():
    good = symmetric(NETWORK_LIKE[-12:])
    bad = good.clone()
    bad[3, 4] = torch.nan
    population = vmap(everything)(torch.stack([good, bad]))
    for alone, together in zip(everything(good), population, strict=True):
        assert torch.allclose(together[0], alone, rtol=1e-9, atol=1e-10)
        assert together[1].isnan().any()


def test_draws_are_a_function_of_the_seed():
    matrix = symmetric(NETWORK_LIKE[-12:])
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = everything(matrix), everything(matrix)
    assert all(map(torch.equal, first, second))
    assert torch.equal(before, torch.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()  # noqa: NPY002
    single = spectra.rademacher(operator(matrix.float()), 2, 0)
    assert torch.equal(single.double(), spectra.rademacher(operator(matrix), 2, 0))
    assert not torch.equal(single, spectra.rademacher(operator(matrix.float()), 2, 1))
    assert not torch.equal(single[0], single[1])


def test_errors_say_what_to_write():
    identity = operator(torch.eye(3))
    with pytest.raises(ValueError, match=r"start vector of shape \(3,\), got .* shape \(2,\): write rademacher"):
        spectra.lanczos(identity, torch.ones(2), 2)
    with pytest.raises(ValueError, match="steps >= 1"):
        spectra.lanczos(identity, torch.ones(3), 0)
    with pytest.raises(ValueError, match="k <= 2 Lanczos steps, got k=3: take more steps"):
        spectra.extremes(spectra.lanczos(identity, torch.ones(3), 2), 3)
    with pytest.raises(ValueError, match="num_vectors >= 2"):
        spectra.trace(identity, 1)


def test_the_share_near_zero_is_an_estimate_that_is_exact_only_with_all_steps():
    """Eigenvalues 0.9^k, k from 0 to 99: 56 of them are below 0.01. With fewer steps it reads too high or too low."""
    matrix = torch.diag(0.9 ** torch.arange(100, dtype=torch.float64))
    operator = spectra.Operator(lambda v: matrix @ v, 100, matrix.dtype, matrix.device)
    found = {s: spectra.share_near_zero(spectra.quadrature(operator, s, 3)).item() for s in (5, 10, 15, 40, 100)}
    expected = {5: 0.732, 10: 0.598, 15: 0.513, 40: 0.556, 100: 0.56}
    assert found == pytest.approx(expected, abs=1e-3)
    assert found[100] == pytest.approx(0.56, rel=1e-9)


@pytest.mark.parametrize("apart", ["together", "little memory", "no rule for vmap"])
def test_starts_side_by_side_equal_one_after_the_other(monkeypatch, apart):
    matrix, calls = symmetric(NETWORK_LIKE), []

    def product(vector):
        calls.append(1)
        return matrix @ vector if apart != "no rule for vmap" else matrix @ vector * float(vector.norm() > 0)

    monkeypatch.setattr(spectra, "TOGETHER", 0 if apart == "little memory" else 1 << 27)
    shown = operator(matrix)._replace(product=product)
    found = spectra.quadrature(shown, 20, 3, seed=5)
    calls_of_a_product = 1 if apart == "together" else 3 if apart == "little memory" else 4
    assert len(calls) == 20 * calls_of_a_product
    for i, alone in enumerate(spectra.rademacher(shown, 3, seed=5)):
        one = spectra.lanczos(operator(matrix), alone, 20)
        assert torch.allclose(found.values[i], one.values, atol=1e-10)
        assert torch.allclose(found.weights[i], one.weights, atol=1e-10)


def test_starts_of_another_length_are_refused():
    with pytest.raises(ValueError, match="a start vector of shape"):
        spectra.krylov(operator(symmetric([1.0, 2.0])), torch.ones(3), 2)
    with pytest.raises(ValueError, match="steps >= 1"):
        spectra.quadrature(operator(symmetric([1.0, 2.0])), 0, 2)
