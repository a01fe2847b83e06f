"""Singular values as even as new ones, at the norm and with the singular vectors that there were."""

import pytest
import torch
from torch import nn

from pliant.causes import Repaired, Spectra
from pliant.interventions import Draw
from pliant.nets import CNN, MLP
from pliant.network import Network
from tests.causes.test_repairs import SEED, built, changed, randn, setting


def uneven(w):
    return w + 3 * w.abs().max() * torch.ones_like(w)


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_the_shape_of_the_spectrum_is_a_new_one_and_norm_and_vectors_stay(kind):
    make = (lambda: MLP((1, 6, 6), 2, hidden=(8, 7))) if kind == "MLP" else lambda: CNN((1, 6, 6), 2, (3, 4), (5,))
    module, x = built(make, (1, 6, 6), size=30)
    network, now = setting(module, x)
    hidden = [n for n in network.weights if n not in network.head]
    aged = Repaired(now.params | {n: uneven(now.params[n]) for n in hidden}, now.moments)
    after, fresh = Spectra().repair(network, aged, x, SEED), SEED.fresh(network)
    assert after.moments is aged.moments
    assert set(changed(aged.params, after.params)) == set(hidden)
    for name in hidden:
        old, new, like = (p[name].double().flatten(1) for p in (aged.params, after.params, fresh))
        torch.testing.assert_close(new.norm(), old.norm())
        s, wanted = torch.linalg.svdvals(new), torch.linalg.svdvals(like)
        torch.testing.assert_close(s / s.norm(), wanted / wanted.norm())
        top = torch.linalg.svd(old).Vh[0]
        assert float((new @ top).norm() / s[0]) == pytest.approx(1), "it is still read most"
    found = [Spectra().evidence(network, r, x, network.trace(r.params, x), fresh) for r in (aged, after)]
    assert found[0]["stable_rank"] < 2 < found[1]["stable_rank"]
    assert found[1]["stable_rank"] == pytest.approx(found[1]["of_a_fresh_network"], rel=1e-3)
    assert Spectra().repair(network, after, x, SEED) is after or not changed(
        {n: p.float() for n, p in after.params.items()},
        {n: p.float() for n, p in Spectra().repair(network, after, x, SEED).params.items()},
    )


def test_rows_of_dead_units_stay():
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    network, now = setting(module, randn(50, 5))
    weight, bias = uneven(now.params["0.weight"]), now.params["0.bias"].clone()
    weight[:2], bias[:2] = 0, -1
    after = Spectra().repair(
        network, Repaired(now.params | {"0.weight": weight, "0.bias": bias}, {}), randn(50, 5), SEED
    )
    assert (after.params["0.weight"][:2] == 0).all()
    assert (after.params["0.weight"][2:] != weight[2:]).all()


class Turned(nn.Module):
    """Its weight is `(incoming, units)`."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.zeros(6))
        self.output = nn.Linear(6, 2)

    def forward(self, x):
        return self.output(torch.relu(x @ self.weight + self.bias))


def test_a_weight_that_lies_the_other_way():
    network = Network(Turned, example=torch.ones(1, 4))
    params = network.fresh(0) | {"weight": uneven(network.fresh(0)["weight"])}
    after = Spectra().repair(network, Repaired(params, {}), torch.randn(40, 4), Draw(1, 0)).params["weight"]
    s, wanted = (torch.linalg.svdvals(w) for w in (after, Draw(1, 0).fresh(network)["weight"]))
    torch.testing.assert_close(s / s.norm(), wanted / wanted.norm(), rtol=1e-4, atol=1e-5)
