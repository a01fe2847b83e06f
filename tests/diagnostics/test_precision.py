"""Networks of half precision read what the same weights read in float32; what is not finite reads NaN, everywhere."""

import pytest
import torch
from torch import nn
from torch.func import grad
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from pliant.diagnostics import EmpiricalNTK, FeatureRanks, LinearizedUnits, Observation, Sharpness
from pliant.diagnostics._shared import finite
from pliant.functional import change, distributions, jacobians, norms, offsets, preactivations, ranks, units
from pliant.network import Network
from tests.diagnostics.nets import inputs, mlp, observe, targets
from tests.diagnostics.test_contract import every_diagnostic, every_net, trained

halves = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
APART = {"target_offset", "rank_bound", "scale_invariant"}  # of the targets, the batch, the architecture


def single(tree):
    return tree_map(lambda leaf: leaf.float() if isinstance(leaf, torch.Tensor) else leaf, tree)


def observed(make, dtype, half):
    """A network of weights and inputs that half precision can hold, run in `dtype`."""
    net = Network(make().to(dtype), example=inputs(dtype))
    params, initial = ({n: p.to(half).to(dtype) for n, p in of.items()} for of in trained(Network(make()), 0))
    x, y = inputs().to(half).to(dtype), targets(dtype)
    wide = single(params), single(x), single(y)
    gradients = grad(lambda p: F.cross_entropy(net(p, wide[1]), wide[2]))(wide[0])
    gradients = {name: g.to(half).to(dtype) for name, g in gradients.items()}
    update = {name: -0.125 * g for name, g in gradients.items()}
    return Observation(
        params, initial, net.trace(params, x), gradients, update, net.trace(initial, x), net, x, y, F.cross_entropy
    )


@halves
@every_net
@every_diagnostic
def test_the_same_numbers_read_the_same_in_half_precision(diagnostic, make, half):
    seen = observed(make, half, half)
    now, wide = diagnostic.measure(seen), diagnostic.measure(single(seen))
    assert now.keys() == wide.keys()
    for name, value in now.items():
        told = f"{name} is {value}, of float32 {wide[name]}: write t = pliant.functional.precision.wide(t)"
        assert value.dtype == wide[name].dtype in (torch.float32, torch.float64, torch.int64), told
        assert torch.allclose(value, wide[name], rtol=1e-6, atol=1e-7), told


@halves
@pytest.mark.parametrize("act", [nn.Hardsigmoid, nn.PReLU], ids=["Hardsigmoid", "PReLU"])
def test_gates_that_vary_little_are_linear_in_half_precision(act, half):
    """Around 1 / 2, or 3, half precision rounds by more than what they vary."""
    gates = nn.Linear(4, 6), act(), nn.Linear(6, 2)
    nn.init.uniform_(gates[0].weight, -0.02, 0.02)
    nn.init.constant_(gates[0].bias, 3.0 if act is nn.PReLU else 0.0)
    net = Network(nn.Sequential(*gates).to(half))
    trace = net.trace(net.params(), torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).to(half))
    assert LinearizedUnits().measure(Observation(net.params(), trace=trace))["linearized"] == 1
    assert next(iter(trace.sites.values())).slope.dtype is torch.float32


@halves
@every_diagnostic
def test_the_same_weights_read_the_same_in_half_precision(diagnostic, half):
    """Up to what the rounding of the forward pass itself moves."""
    now, wide = (diagnostic.measure(observed(mlp, dtype, half)) for dtype in (half, torch.float32))
    for name, value in now.items():
        assert value.item() == pytest.approx(wide[name].item(), rel=0.01, abs=2e-3), name


@halves
def test_ranks_of_a_wide_layer_are_those_of_float32(half):
    layers = nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)
    generator = torch.Generator().manual_seed(0)
    params = {n: p.to(half) for n, p in Network(nn.Sequential(*layers)).fresh(0).items()}
    x = torch.randn(1024, 8, generator=generator).to(half)
    net = Network(nn.Sequential(*layers).to(half))
    now = FeatureRanks().measure(Observation({}, trace=net.trace(params, x)))
    wide = FeatureRanks().measure(Observation({}, trace=net.trace(single(params), x.float())))
    assert wide["feature_rank"] > 200
    for name, value in now.items():
        assert value.item() == pytest.approx(wide[name].item(), rel=0.005), name


NUMBERS = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)).cumsum(0)
FUNCTIONS = {
    "dead": lambda t: units.dead(t, 0.1),
    "silent": lambda t: units.silent(t, 0.1, 0.02),
    "constant": lambda t: units.constant(t, 2.0),
    "dormancy": units.dormancy,
    "active": units.active,
    "duplicate": lambda t: units.duplicate(t, 0.5),
    "gradient_dormancy": units.gradient_dormancy,
    "gradient_saturated": lambda t: units.gradient_saturated(t, t.flip(0), 0.1, 0.05),
    "saturated": lambda t: units.saturated(t, 0.1, 0.05),
    "affine_linear": lambda t: units.affine_linear(t, t.flip(0), 0.5),
    "slope_linear": lambda t: units.slope_linear(t, 3.0),
    "off_branch": lambda t: units.off_branch(t, (t > 0).to(t)),
    "one_sided": preactivations.one_sided,
    "moments": lambda t: torch.stack(preactivations.moments(t)),
    "z_shift": lambda t: preactivations.z_shift(t, t[:30]),
    "sign_agreement": preactivations.sign_agreement,
    "norm": lambda t: norms.norm({"a": t}),
    "norm_ratio": lambda t: norms.norm_ratio({"a": t}, {"a": t[:7]}),
    "feature_norm": norms.feature_norm,
    "effective_lr": lambda t: torch.stack(norms.effective_lr(t, 0.1)),
    "churn": lambda t: change.churn(t, t[:1]),
    "sample_plasticity": lambda t: change.sample_plasticity(t.abs(), t.abs().flip(0)),
    "offset": offsets.offset,
    "entropy": distributions.entropy,
    "isometry_gap": jacobians.isometry_gap,
    **{
        rank.__name__: lambda t, rank=rank: rank(ranks.singular_values(t))
        for rank in (ranks.effective_rank, ranks.srank, ranks.stable_rank, ranks.participation_ratio, ranks.pca_rank)
    },
    "feature_rank": lambda t: ranks.feature_rank(ranks.singular_values(t), len(t)),
}


@halves
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pure_functions_take_half_precision_in_float32(name, half):
    function, held = FUNCTIONS[name], NUMBERS.to(half)
    now, wide = function(held), function(held.float())
    assert now.dtype == wide.dtype
    torch.testing.assert_close(now, wide, rtol=1e-6, atol=0)


class OwnPrecision(nn.Module):
    """Casts to bfloat16 in its forward pass, so it does not run in float32."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8).bfloat16(), nn.Linear(8, 3).bfloat16()

    def forward(self, x):
        return self.last(self.first(x).relu().bfloat16())


@pytest.mark.parametrize("diagnostic", [EmpiricalNTK(), Sharpness()])
def test_a_network_that_runs_in_half_precision_alone_says_so(diagnostic):
    net, x = Network(OwnPrecision()), inputs(torch.bfloat16)
    with pytest.warns(UserWarning, match="runs in half precision alone"):
        found = diagnostic.measure(Observation(net.params(), network=net, x=x))
    assert all(value.isfinite() for value in found.values())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@every_net
@every_diagnostic
def test_a_network_that_is_not_finite_reads_nan_in_every_row(diagnostic, make, bad):
    net, x = Network(make(), example=inputs()), inputs()
    params, initial = trained(net, 0)
    broken = {name: torch.full_like(p, bad) for name, p in params.items()}
    seen = observe(net, broken, initial, x)
    found = diagnostic.measure(seen._replace(gradients=broken, update=broken))
    for name, value in found.items():
        endless = bad is torch.inf and value.isinf()  # a norm, say
        told = (
            f"{name} is {value}: comparisons with NaN are False, write torch.where(t.isfinite().all(), ..., torch.nan)"
        )
        assert value.isnan() or endless or name in APART, told


def test_a_matrix_that_was_written_to_is_looked_through_again():
    m = torch.ones(3, 2)
    assert finite(m)
    m[0, 0] = torch.nan
    assert not finite(m)
    with torch.inference_mode():
        assert finite(torch.ones(2, 2))
    assert torch.vmap(lambda x: finite(x))(torch.tensor([[1.0, 2.0], [1.0, torch.inf]])).tolist() == [True, False]
