import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant.diagnostics import Observation
from pliant.diagnostics.curvature import HessianSpectrum, HessianTrace, Sharpness
from pliant.network import Network
from tests.diagnostics.nets import NETS, inputs, targets
from tests.reference import curvature as reference

MATRICES = ["perturbation", "expected_perturbation", "loss", "gauss_newton"]
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
every_matrix = pytest.mark.parametrize("of", MATRICES)


def observed(make, dtype=torch.float64, **changes):
    net = Network(make().to(dtype))
    params = {name: 1.5 * p + 0.01 for name, p in net.fresh(0).items()}
    seen = Observation(params, network=net, x=inputs(dtype)[:8], y=targets(dtype)[:8], loss=F.cross_entropy)
    return seen._replace(**changes)


def eigenvalues(seen, of, seed=0):
    def forward(p):
        return seen.network(p, seen.x)

    def loss(output):
        return seen.loss(output, seen.y)

    if of == "loss":
        matrix = reference.hessian(lambda p: loss(forward(p)), seen.params)
    elif of == "gauss_newton":
        matrix = reference.gauss_newton(forward, loss, seen.params)
    elif of == "expected_perturbation":
        j = reference.jacobian(forward, seen.params)
        matrix = 2 / len(seen.x) * j.T @ j
    else:
        eps = torch.from_numpy(np.random.default_rng(seed).standard_normal((len(seen.x), 3)))
        matrix = reference.perturbation_hessian(forward, seen.params, eps)
    return torch.linalg.eigvalsh(matrix)


def prefix(of):
    return "" if of == "perturbation" else f"{of}_"


@every_net
@every_matrix
def test_every_number_equals_that_of_the_dense_matrix(make, of):
    seen = observed(make)
    expected = eigenvalues(seen, of)
    found = Sharpness(of=of).measure(seen) | HessianTrace(of=of, num_vectors=20).measure(seen)
    found |= HessianSpectrum(of=of, num_starts=5).measure(seen)
    found = {name.removeprefix(prefix(of)): value.item() for name, value in found.items()}
    top, bottom = expected[-1].item(), expected[0].item()
    assert found["sharpness"] == pytest.approx(top, rel=1e-6)
    assert found["hessian_largest"] == pytest.approx(top, rel=1e-6)
    assert found["sharpness_residual"] < 1e-3
    assert found["hessian_smallest"] == pytest.approx(bottom, rel=1e-6, abs=1e-6 * top)
    assert found["hessian_residual"] < 1e-3
    assert found["hessian_trace"] == pytest.approx(expected.sum().item(), abs=4 * found["hessian_trace_error"] + 1e-9)
    assert found["hessian_near_zero"] == pytest.approx(reference.share_near_zero(expected.tolist(), 1e-2), abs=0.1)
    if abs(bottom) > 1e-3 * top:
        assert found["hessian_conditioning"] == pytest.approx(top / bottom, rel=1e-6)


def test_every_matrix_has_names_of_its_own():
    seen = observed(NETS["mlp"])
    names = [
        name for of in MATRICES for cls in (Sharpness, HessianTrace, HessianSpectrum) for name in cls(of).measure(seen)
    ]
    assert len(names) == len(set(names)) == 4 * (2 + 2 + 5)
    assert {"sharpness", "loss_sharpness", "gauss_newton_hessian_trace"} < set(names)


def test_the_seed_draws_the_noise():
    seen = observed(NETS["mlp"])
    for seed in (0, 7):
        found = Sharpness(seed=seed).measure(seen)["sharpness"].item()
        assert found == pytest.approx(eigenvalues(seen, "perturbation", seed)[-1].item(), rel=1e-6)
    means = [Sharpness(of="expected_perturbation", seed=s).measure(seen) for s in (0, 7)]
    assert means[0]["expected_perturbation_sharpness"].item() == pytest.approx(
        means[1]["expected_perturbation_sharpness"].item(), rel=1e-8
    )


def test_the_order_of_the_samples_does_not_matter_without_noise():
    seen = observed(NETS["mlp"])
    turned = seen._replace(x=seen.x.flip(0), y=seen.y.flip(0))
    for of in MATRICES[1:]:
        before, after = (Sharpness(of=of).measure(s)[f"{of}_sharpness"].item() for s in (seen, turned))
        assert before == pytest.approx(after, rel=1e-9)


def test_too_few_steps_show_in_the_residual():
    seen = observed(NETS["attention"])
    true = eigenvalues(seen, "perturbation")[-1].item()
    few = {name: value.item() for name, value in Sharpness(steps=3).measure(seen).items()}
    assert few["sharpness"] < 0.99 * true
    assert few["sharpness_residual"] > 0.01
    assert Sharpness().measure(seen)["sharpness_residual"] < 1e-6


def test_asks_only_for_what_the_matrix_needs():
    seen = observed(NETS["mlp"])
    bare = seen._replace(y=None, loss=None)
    for cls in (Sharpness, HessianTrace, HessianSpectrum):
        assert cls().needs == cls(of="expected_perturbation").needs == {"network", "x"}
        assert cls(of="loss").needs == cls(of="gauss_newton").needs == {"network", "x", "y", "loss"}
        assert cls().measure(bare).keys() == cls().measure(seen).keys()
    with pytest.raises(ValueError, match="with y, got None: write Observation"):
        Sharpness(of="loss").measure(bare)
    with pytest.raises(ValueError, match="with network, got None: write Observation"):
        Sharpness().measure(Observation(seen.params))


def test_an_unknown_matrix_is_refused():
    with pytest.raises(ValueError, match=r"expected of= one of 'perturbation', .*, got 'fisher'"):
        Sharpness(of="fisher")


@every_matrix
def test_a_network_without_curvature_reads_zero(of):
    """Every weight zero: the outputs move with the last bias alone."""
    seen = observed(NETS["mlp"])
    zeros = {name: torch.zeros_like(p) for name, p in seen.params.items()}
    flat = seen._replace(params=zeros, loss=lambda output, y: 0 * output.sum())
    found = {}
    for cls in (Sharpness, HessianTrace, HessianSpectrum):
        found |= {name.removeprefix(prefix(of)): value.item() for name, value in cls(of=of).measure(flat).items()}
    if "perturbation" in of:  # 2/n times n, for each of three outputs
        assert found["sharpness"] == pytest.approx(2)
        assert found["hessian_trace"] == pytest.approx(6)
    else:
        names = ("sharpness", "sharpness_residual", "hessian_trace", "hessian_residual")
        assert [found[name] for name in names] == [0, 0, 0, 0]
        assert found["hessian_near_zero"] == found["hessian_conditioning"] == 1


def test_hand_computed():
    """f = w x: the expected Hessian is 2/n sum x^2, whatever w."""
    net = Network(nn.Linear(1, 1, bias=False))
    seen = Observation(net.params(), network=net, x=torch.tensor([[1.0], [2.0], [3.0]]))
    assert Sharpness().measure(seen)["sharpness"].item() == pytest.approx(2 / 3 * 14)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10)),
        lambda: nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 10)),
    ],
    ids=["1,002 parameters", "1,114 parameters"],
)
def test_the_share_near_zero_is_as_far_off_as_its_docstring_says(make):
    """Against eigenvalues of whole matrices; these two networks are the worst of five."""
    torch.manual_seed(0)
    net = Network(make().double())
    params = net.params()
    x = torch.randn(64, next(iter(params.values())).shape[1]).double()
    seen = Observation(params, network=net, x=x, y=torch.randint(10, (64,)), loss=F.cross_entropy)
    exact, found = {}, {}
    for of in MATRICES:
        operator = HessianSpectrum(of=of).operator(seen)
        sizes = torch.linalg.eigvalsh(
            torch.stack([operator.product(v) for v in torch.eye(operator.size).double()])
        ).abs()
        exact[of] = (sizes <= 0.01 * sizes.max()).double().mean().item()
        for steps in (40, 80):
            found[of, steps] = (
                HessianSpectrum(of=of, steps=steps).measure(seen)[f"{prefix(of)}hessian_near_zero"].item()
            )
    for of, share in exact.items():
        assert -0.07 <= found[of, 80] - share <= (0.02 if of in ("expected_perturbation", "gauss_newton") else 0.042)
        assert found[of, 80] == pytest.approx(share, rel=0.265)
        assert found[of, 40] - share <= 0.08
    assert max(abs(found[of, 80] - share) for of, share in exact.items()) > 0.03  # the numbers are not generous
