"""Scales that normalisers hide, those of normalisers and outputs: exactly what is stated changes, and no more."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.causes import HiddenSchedule, LogitScale, Norm, NormaliserScales, OutputLayer, Repaired
from pliant.causes.rescaling import log_ratios, rescalings
from pliant.interventions import Draw
from pliant.nets import CNN, MLP, ViT, layer_norm
from pliant.network import Network
from pliant.optim import Adam, RMSProp
from tests.causes.test_repairs import SEED, built, changed, randn, setting
from tests.probe.setting import assert_same


class Tied(nn.Module):
    """A small language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(9, 6), nn.Embedding(4, 6)
        self.norm, self.expand, self.contract = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)
        self.final, self.output = nn.LayerNorm(6), nn.Linear(6, 9, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x):
        h = self.embedding(x) + self.positions.weight
        return self.output(self.final(h + self.contract(F.gelu(self.expand(self.norm(h))))))


IMAGES = (1, 6, 6)
STREAM = {"embedding", "embedding.patches", "blocks.0.attention.projection", "blocks.0.contract"}
KEPT = {  # by network, the modules whose common factor keeps the function
    "MLP": (lambda: MLP(IMAGES, 2, hidden=(5, 6)), set()),
    "MLP, layer norm": (lambda: MLP(IMAGES, 2, hidden=(5, 6), norm=layer_norm), {"hidden.0", "hidden.1"}),
    "CNN": (lambda: CNN(IMAGES, 2, channels=(3, 4), hidden=(5,)), set()),
    "CNN, layer norm": (
        lambda: CNN(IMAGES, 2, channels=(3, 4), hidden=(5,), norm=layer_norm), {"convs.0", "convs.1", "hidden.0"},
    ),
    "transformer": (lambda: ViT(IMAGES, 2, features=4, ff=6, heads=2, dropout=0.0, norm=None), set()),
    "transformer, layer norm": (lambda: ViT(IMAGES, 2, features=4, ff=6, heads=2, dropout=0.0), STREAM),
}  # fmt: skip


def name_of(names):
    return names[0].rpartition(".")[0]


@pytest.mark.parametrize("name", KEPT)
def test_factors_that_keep_the_function_are_found(name):
    make, stream = KEPT[name]
    module, x = built(make, IMAGES, size=20)
    network = Network(module, example=x[:4])
    found = rescalings(network)
    common = found.kept(torch.ones(len(found.modules)).double())
    assert {name_of(m) for m, f in zip(found.modules, common, strict=True) if f > 0.5} == stream
    params = network.fresh(5)
    for v in found.basis.T:  # every direction, not of the draws at which they were found
        moved = {n: p * math.exp(f) for names, f in zip(found.modules, v.tolist(), strict=True)
                 for n, p in params.items() if n in names}  # fmt: skip
        torch.testing.assert_close(network(params | moved, x), network(params, x), rtol=0.01, atol=0.01)
    assert name_of(found.scaling) == "output"


def grown(name, size=20, by=20.0):
    """A network all of whose layers have grown, with an optimizer's state; and its inputs."""
    make, _ = KEPT[name]
    module, x = built(make, IMAGES, size=size)
    network, before = setting(module, x)
    params = {n: p if n in network.normalisers else by * p for n, p in before.params.items()}
    return network, Repaired(params, before.moments), x


@pytest.mark.parametrize("name", [name for name, (_, stream) in KEPT.items() if stream])
def test_the_hidden_schedule_goes_and_the_function_stays(name):
    network, before, x = grown(name)
    after = HiddenSchedule().repair(network, before, x, SEED)
    y, z = network(before.params, x), network(after.params, x)
    assert float((y - z).norm() / y.norm()) <= 0.01
    here = {layer: float(after.params[f"{layer}.weight"].norm() / before.params[f"{layer}.weight"].norm())
            for layer in KEPT[name][1] if f"{layer}.weight" in before.params}  # fmt: skip
    assert all(0.03 < ratio < 0.08 for ratio in here.values()), here
    fresh = SEED.fresh(network)
    left = log_ratios(rescalings(network).modules, fresh, after.params)
    assert rescalings(network).kept(left).abs().max() < 1e-3, "as near to fresh norms as can be"
    assert HiddenSchedule().evidence(network, before, x, network.trace(before.params, x), fresh)[
        "learning_rate_divided_by_up_to"
    ] == pytest.approx(20, rel=0.5)


@pytest.mark.parametrize("optimizer", [Adam(1e-3), RMSProp(1e-3, momentum=0.9)], ids=["Adam", "RMSProp"])
def test_steps_are_as_long_as_before_on_smaller_weights(optimizer):
    """One step after the repair moves every weight by as much as one step before it."""
    network, before, x = grown("MLP, layer norm")
    moments = optimizer.init(before.params)
    y = randn(len(x), 2, seed=3)

    def gradients(params):
        leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
        loss = F.mse_loss(network(leaves, x), y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    params = {n: p.clone() for n, p in before.params.items()}
    for _ in range(3):
        optimizer.update(params, gradients(params), moments)
    now = Repaired(params, moments)
    after = HiddenSchedule().repair(network, now, x, SEED)
    moves = []
    for one in (now, after):
        new, state = {n: p.clone() for n, p in one.params.items()}, {
            kind: {n: m.clone() for n, m in group.items()} for kind, group in one.moments.items()
        }  # fmt: skip
        optimizer.update(new, gradients(one.params), state)
        moves.append({n: new[n] - p for n, p in one.params.items()})
    for name in ("hidden.0.weight", "hidden.1.weight"):
        assert float(after.params[name].norm()) < 0.1 * float(now.params[name].norm())
        torch.testing.assert_close(moves[1][name], moves[0][name], rtol=0.02, atol=1e-7)


def test_without_normalisers_nothing_is_hidden():
    network, before, x = grown("MLP")
    assert HiddenSchedule().repair(network, before, x, SEED) is before
    assert HiddenSchedule().evidence(network, before, x, network.trace(before.params, x), network.fresh(0)) == {}


def test_what_would_move_the_outputs_is_rescaled_a_part_of_the_way():
    """Where a normaliser's eps counts: the embedding of images that are almost constant, say."""
    network, before, x = grown("MLP, layer norm")
    x = 0.02 * x
    names = ("hidden.0.weight", "hidden.1.weight")
    aged = Repaired(before.params | {"hidden.0.bias": torch.zeros(5).double()}, {})
    after = HiddenSchedule().repair(network, aged, x, SEED)
    y, z = network(aged.params, x), network(after.params, x)
    assert 0 < float((y - z).norm() / y.norm()) <= 0.01
    whole = HiddenSchedule(moved=math.inf).repair(network, aged, x, SEED).params
    assert all(whole[n].norm() < after.params[n].norm() < aged.params[n].norm() for n in names)


def test_norm_apart_leaves_what_others_mend():
    """Together they scale every hidden layer as Norm does by itself; the output layer's norm is the logits' scale."""
    network, before, x = grown("transformer, layer norm")
    whole = Norm().repair(network, before, x, SEED).params
    apart = Norm(apart=True).repair(network, before, x, SEED)
    for name in network.head:
        assert torch.equal(apart.params[name], before.params[name])
    both = HiddenSchedule(moved=math.inf).repair(network, apart, x, SEED).params
    for name in network.weights:
        if name not in network.head:
            torch.testing.assert_close(both[name], whole[name], rtol=1e-3, atol=1e-6)
    plain, now, x = grown("MLP")
    there, here = (Norm(apart=a).repair(plain, now, x, SEED).params for a in (False, True))
    assert all(torch.equal(there[n], here[n]) for n in there if n not in plain.head)


def test_a_new_output_layer_apart_is_as_large_as_the_old():
    network, before, x = grown("MLP")
    after = OutputLayer(apart=True).repair(network, before, x, SEED).params["output.weight"]
    old, mean = before.params["output.weight"], network.trace(before.params, x).features.mean(0)
    along = torch.outer(mean, mean) / (mean @ mean)
    torch.testing.assert_close(after @ along, old @ along)
    torch.testing.assert_close((after - after @ along).norm(), (old - old @ along).norm())
    assert not torch.allclose(after, old, atol=0.01)


def test_logits_vary_as_much_as_new_ones_and_the_mean_prediction_stays():
    network, before, x = grown("MLP", size=200)
    after = LogitScale().repair(network, before, x, SEED)
    assert set(changed(before.params, after.params)) == {"output.weight"}
    assert after.moments is before.moments
    torch.testing.assert_close(
        network(after.params, x).mean(0), network(before.params, x).mean(0), rtol=1e-6, atol=1e-6
    )
    found = [LogitScale().evidence(network, now, x, network.trace(now.params, x), SEED.fresh(network))
             for now in (before, after)]  # fmt: skip
    assert found[0]["spread_of_outputs_over_fresh"] > 100
    assert found[1]["spread_of_outputs_over_fresh"] == pytest.approx(1)
    quiet = Repaired({n: p / 400 for n, p in before.params.items()}, {})
    assert LogitScale().repair(network, quiet, x, SEED) is quiet


def test_logits_of_a_tied_output_layer_are_scaled_by_the_last_normaliser():
    x = torch.randint(9, (30, 4), generator=torch.Generator().manual_seed(0))
    network = Network(Tied, example=x[:4])
    params = network.fresh(0)
    before = Repaired(params | {"final.weight": 50 * params["final.weight"]}, {})
    after = LogitScale().repair(network, before, x, Draw(0, 0))
    assert set(changed(before.params, after.params)) == {"final.weight"}  # its offset is 0
    torch.testing.assert_close(network(after.params, x).std(), network(params, x).std(), rtol=0.5, atol=0)
    grown = Repaired({n: p if n in network.normalisers else 9 * p for n, p in params.items()}, {})
    mended = HiddenSchedule().repair(network, grown, x, Draw(0, 0))
    torch.testing.assert_close(network(mended.params, x), network(grown.params, x), rtol=0.01, atol=0.1)


def test_scales_and_offsets_go_back_but_those_of_dead_units():
    network, before, x = grown("MLP, layer norm", size=50)
    scale, offset = torch.full((5,), 0.1).double(), torch.tensor([-9.0, 0.3, 0.3, 0.3, 0.3]).double()
    aged = Repaired(before.params | {"norms.0.weight": scale, "norms.0.bias": offset}, before.moments)
    after = NormaliserScales().repair(network, aged, x, SEED)
    assert after.params["norms.0.weight"].tolist() == pytest.approx([0.1, 1, 1, 1, 1])
    assert after.params["norms.0.bias"].tolist() == [-9, 0, 0, 0, 0]
    assert set(changed(aged.params, after.params)) == {"norms.0.weight", "norms.0.bias"}
    zero = {n: torch.zeros_like(p) for n, p in before.params.items() if n in network.normalisers}
    for kind in ("exp_avg", "exp_avg_sq"):
        assert_same(after.moments[kind], before.moments[kind] | zero)
    found = NormaliserScales().evidence(network, aged, x, None, network.fresh(0))
    assert found["smallest_ratio"] == pytest.approx(0.1)
    plain, now, x = grown("MLP")
    assert NormaliserScales().repair(plain, now, x, SEED) is now
    assert NormaliserScales().evidence(plain, now, x, None, plain.fresh(0)) == {}
