"""Repairs of norms, heads, target scale and optimizer: exactly what is stated changes."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant import interventions
from pliant.causes import EVERY, Norm, OptimizerState, OutputLayer, Repaired, TargetScale
from pliant.interventions import Draw
from pliant.nets import MLP
from tests.causes.test_repairs import SEED, _layers, built, changed, randn, setting
from tests.probe.setting import assert_same
from tests.test_units import kill

# -- norm --------------------------------------------------------------------------------------------------------------


def norm(params, layer):
    return torch.cat([params[f"{layer}.weight"].flatten(), params[f"{layer}.bias"]]).norm()


def test_every_layer_gets_the_norm_of_a_fresh_draw():
    module = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    x = randn(50, 3)
    network, now = setting(module.double(), x)
    aged = Repaired({name: factor * p for factor, (name, p) in enumerate(now.params.items(), start=2)}, now.moments)
    after = Norm().repair(network, aged, x, SEED)
    fresh = SEED.fresh(network)
    for layer in "03":
        torch.testing.assert_close(norm(after.params, layer), norm(fresh, layer))
        scale = after.params[f"{layer}.weight"] / aged.params[f"{layer}.weight"]
        torch.testing.assert_close(scale, scale[0, 0].expand_as(scale))
        torch.testing.assert_close(after.params[f"{layer}.bias"], aged.params[f"{layer}.bias"] * scale[0, 0])
    mean = network.trace(aged.params, x).features.mean(0)
    along = torch.outer(mean, mean) / (mean @ mean)
    across = torch.eye(6).double() - along
    old, new, drawn = (params["5.weight"] for params in (aged.params, after.params, fresh))
    torch.testing.assert_close(new @ along, old @ along)
    torch.testing.assert_close(new @ across, (old @ across) * (drawn @ across).norm() / (old @ across).norm())
    for name in ("1.weight", "1.bias", "5.bias"):
        assert torch.equal(after.params[name], aged.params[name])
    assert after.moments is aged.moments


@pytest.mark.parametrize(
    "make", [lambda: MLP((30,), 10, hidden=(100, 100)), lambda: Heads(30, 100)], ids=["MLP", "heads"]
)
def test_norms_times_8_are_undone_up_to_the_spread_of_fresh_norms(make):
    module, x = built(make, (30,))
    network, now = setting(module, x)
    aged = Repaired({name: 8 * p for name, p in now.params.items()}, {})
    after = Norm().repair(network, aged, x, SEED).params
    linear = TargetScale().repair(network, aged, x, SEED) is not aged
    layers = _layers(network)
    for layer in layers[:-1] if linear else layers:
        assert float(norm(after, layer) / norm(now.params, layer)) == pytest.approx(1, abs=0.15)
    found = Norm().evidence(network, aged, x, network.trace(aged.params, x), network.fresh(3))
    assert found["norm_ratio"] == pytest.approx(8, abs=0.5)
    assert found["norm_ratio"] <= found["largest_ratio"] < 9


def test_a_layer_of_zeros_stays():
    network, now = setting(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double(), randn(9, 3))
    zero = now.params | {"2.weight": torch.zeros(2, 4).double(), "2.bias": torch.zeros(2).double()}
    after = Norm().repair(network, Repaired(zero, {}), randn(9, 3), SEED).params
    assert set(changed(zero, after)) == {"0.weight", "0.bias"}


def test_a_norm_that_begins_at_zero_has_no_ratio():
    network, now = setting(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double(), randn(9, 3))
    fresh = network.fresh(3) | {name: torch.zeros_like(now.params[name]) for name in network.head}
    trace = network.trace(now.params, randn(9, 3))
    found = Norm().evidence(network, now, randn(9, 3), trace, fresh)
    first = [torch.cat([p["0.weight"].flatten(), p["0.bias"]]).norm() for p in (now.params, fresh)]
    assert found == pytest.approx(dict.fromkeys(["norm_ratio", "largest_ratio"], float(first[0] / first[1])))
    assert math.isnan(OutputLayer().evidence(network, now, randn(9, 3), trace, fresh)["norm_ratio"])


# -- head and target scale ---------------------------------------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self, inputs=3, hidden=4):
        super().__init__()
        self.body = nn.Linear(inputs, hidden)
        self.policy, self.value = nn.Linear(hidden, 2), nn.Linear(hidden, 1)

    def forward(self, x):
        x = F.relu(self.body(x))
        return torch.cat([self.policy(x), self.value(x)], -1)


def shifted(seed=0):
    module = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    network, now = setting(module, randn(50, 3))
    params = now.params | {"2.weight": now.params["2.weight"] + 30, "2.bias": torch.tensor([100.0, -7.0]).double()}
    return network, Repaired(params, now.moments)


def test_a_new_head_keeps_the_mean_prediction():
    network, before = shifted()
    x = randn(50, 3)
    after = OutputLayer().repair(network, before, x, SEED)
    old, new = network(before.params, x), network(after.params, x)
    torch.testing.assert_close(new.mean(0), old.mean(0), rtol=0, atol=1e-10)
    assert not torch.allclose(new, old, atol=0.01)
    assert set(changed(before.params, after.params)) == {"2.weight"}
    mean = network.trace(before.params, x).features.mean(0)
    mean /= mean.norm()
    drawn = SEED.fresh(network, network.head)["2.weight"]
    across = torch.eye(6).double() - torch.outer(mean, mean)
    torch.testing.assert_close(after.params["2.weight"] @ across, drawn @ across, rtol=0, atol=1e-10)
    for kind in ("exp_avg", "exp_avg_sq"):
        expected = before.moments[kind] | {"2.weight": torch.zeros(2, 6).double()}
        assert_same(after.moments[kind], expected)
    assert float(after.moments["step"][""]) == 40


def test_several_heads_are_all_drawn_anew():
    x = randn(50, 3)
    network, before = setting(Heads().double(), x)
    after = OutputLayer().repair(network, before, x, SEED)
    assert set(changed(before.params, after.params)) == {
        "policy.weight", "policy.bias", "value.weight", "value.bias",
    }  # fmt: skip
    drawn = SEED.fresh(network, network.head)
    assert_same({name: after.params[name] for name in network.head}, drawn)
    assert TargetScale().repair(network, before, x, SEED) is before


def test_target_scale_centres_the_output_and_removes_the_mean_feature_from_the_head():
    network, before = shifted()
    x = randn(50, 3)
    after = TargetScale().repair(network, before, x, SEED)
    old, new = network(before.params, x), network(after.params, x)
    torch.testing.assert_close(new.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-10)
    mean = network.trace(before.params, x).features.mean(0)
    torch.testing.assert_close(after.params["2.weight"] @ mean, torch.zeros(2).double(), rtol=0, atol=1e-10)
    left = before.params["2.weight"] - after.params["2.weight"]
    torch.testing.assert_close(left, torch.outer(left @ mean, mean) / (mean @ mean), rtol=0, atol=1e-10)  # only that
    assert set(changed(before.params, after.params)) == {"2.weight", "2.bias"}
    assert new.std() < old.std()
    for kind in ("exp_avg", "exp_avg_sq"):
        zero = {name: torch.zeros_like(before.moments[kind][name]) for name in ("2.weight", "2.bias")}
        assert_same(after.moments[kind], before.moments[kind] | zero)
    again = TargetScale().repair(network, after, x, SEED)
    torch.testing.assert_close(again.params, after.params, rtol=0, atol=1e-12)


def test_evidence_of_head_and_target_scale_by_hand():
    network, _ = setting(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double(), randn(4, 1))
    fresh = network.fresh(0)
    now = Repaired(fresh | {name: 3 * fresh[name] for name in ("2.weight", "2.bias")}, {})
    x = randn(40, 1)
    trace = network.trace(now.params, x)
    assert OutputLayer().evidence(network, now, x, trace, fresh) == {"norm_ratio": pytest.approx(3)}
    found = TargetScale().evidence(network, now, x, trace, fresh)
    s = torch.linalg.svdvals(trace.features)
    assert found["top_singular_share"] == pytest.approx(float(s[0] ** 2 / (s**2).sum()), rel=1e-5)
    assert found["output_offset"] == pytest.approx(float(trace.output.mean().abs() / trace.output.std()), rel=1e-5)


def test_a_network_that_ends_in_no_linear_layer_keeps_its_scale():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    network, before = setting(module, randn(9, 3))
    assert TargetScale().repair(network, before, randn(9, 3), SEED) is before
    assert set(changed(before.params, OutputLayer().repair(network, before, randn(9, 3), SEED).params)) == {"2.weight"}


# -- the optimizer, and all of them ------------------------------------------------------------------------------------


def test_the_optimizer_starts_afresh():
    _, before = shifted()
    after = OptimizerState().repair(None, before, None, SEED)
    assert after.moments == {}
    assert after.params is before.params


@pytest.mark.parametrize("repair", EVERY, ids=lambda repair: repair.name)
def test_repairs_depend_on_their_draw_alone_and_leave_what_they_got(repair):
    module, x = built(lambda: MLP((3,), 2, hidden=(6, 6)), (3,))
    network, before = setting(module, x)
    for group in network.units:
        before = Repaired(kill(group, dict(before.params), torch.arange(group.size) < 2), before.moments)
    kept, stream = copy.deepcopy(tuple(before)), torch.get_rng_state()
    one, two, other = (repair.repair(network, before, x, Draw(seed, 0)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), stream)
    assert_same(tuple(before), kept)
    assert_same(tuple(one), tuple(two))
    draws = repair.name in ("units", "norm growth", "weight spectrum", "output layer")
    assert draws == bool(changed(one.params, other.params))


def test_every_cure_can_be_typed():
    for repair in EVERY:
        for call in re.findall(r"\w+\([^()]*\)", repair.cure.replace("betas=(0.9, 0.9)", "")):
            assert isinstance(eval(call, vars(interventions)), interventions.Intervention)
    from pliant.heads import HLGauss, PopArt

    assert all(kind.__name__ in TargetScale.cure for kind in (HLGauss, PopArt))
