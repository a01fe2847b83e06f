"""The causes that were planted are found, and a network that has lost nothing is told so."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.causes import REPAIRS, disentangle
from pliant.data import load
from pliant.functional.shapley import coalitions
from pliant.optim import Adam
from tests.probe.setting import assert_same, snapshot

NAMES = ["units", "norm", "head", "target scale", "optimizer"]


def digits(size=128):
    x = torch.tensor(load("digits").x_train[:size]).float().flatten(1)
    return (x - x.mean()) / x.std()


def regressor(outputs=1):
    """A network that has fitted noise around 0, and its optimizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs))
    x, y = digits(), 0.1 * torch.randn(128, outputs, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return model, optimizer, x


@torch.no_grad()
def kill_units(model, optimizer, x):
    for layer in (model[0], model[2]):
        layer.weight[:24] = 0
        layer.bias[:24] = -1


@torch.no_grad()
def scale_weights(model, optimizer, x):
    for layer in (model[0], model[2], model[4]):
        layer.weight *= 8
        layer.bias *= 8


def stale_moments(model, optimizer, x):
    for state in optimizer.state.values():
        state["exp_avg_sq"] *= 1e6


@torch.no_grad()
def shift_head(model, optimizer, x):
    mean = model[:4](x).mean(0)
    model[4].weight += 100 * mean / (mean @ mean)


PLANTED = {"units": kill_units, "norm": scale_weights, "optimizer": stale_moments, "target scale": shift_head}


@pytest.fixture(scope="module")
def found():
    """What is said of a healthy network, and of one with each cause planted."""
    said = {}
    for name, plant in {"healthy": lambda *_: None, **PLANTED}.items():
        model, optimizer, x = regressor()
        plant(model, optimizer, x)
        before = snapshot(model, optimizer)
        said[name] = disentangle(model, inputs=x, optimizer=optimizer, targets=3, steps=60, batch_size=64)
        assert_same(snapshot(model, optimizer), before)
    return said


@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_repair_gets_the_largest_share(found, name):
    causes = found[name]
    assert causes.verdict == "lost", str(causes)
    assert max(causes.shares, key=lambda n: causes.shares[n].mean) == name, str(causes)
    first = " ".join(str(causes).split("\n\n")[0].split())
    mechanism = next(repair.mechanism for repair in REPAIRS if repair.name == name)
    assert first.split("fresh networks: ")[1].split("%", 1)[1].startswith(f" {mechanism}")
    assert str(causes).splitlines()[-1].startswith(f"treat {mechanism} with: ")


def test_a_healthy_network_is_told_apart(found):
    assert found["healthy"].gap.mean < min(found[name].gap.mean for name in PLANTED)


@pytest.mark.parametrize("name", PLANTED)
def test_shares_sum_to_everything(found, name):
    causes = found[name]
    assert sum(share.mean for share in causes.shares.values()) == pytest.approx(1, abs=1e-12)
    assert list(causes.shares) == [*(repair.name for repair in causes.repairs), "unexplained"]
    everything = frozenset(range(len(causes.repairs)))
    capped = {c: np.minimum(v, causes.probed.baseline) for c, v in causes.values.items()}
    np.testing.assert_allclose(causes.recovered.sum(0), capped[frozenset()] - capped[everything], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(causes.values[frozenset()], causes.probed.final("now"))
    np.testing.assert_array_equal(causes.values[everything], causes.probed.final("repaired"))
    assert set(causes.values) == set(coalitions(len(causes.repairs)))
    for share in causes.shares.values():
        assert share.low <= share.mean <= share.high


def test_evidence_names_the_planted_cause(found):
    assert found["units"].evidence["units"]["dead"] >= 0.75
    assert found["norm"].evidence["norm"]["norm_ratio"] == pytest.approx(
        8 * found["healthy"].evidence["norm"]["norm_ratio"], rel=1e-4
    )
    assert found["target scale"].evidence["target scale"]["output_offset"] > 5
    assert found["units"].changed["units"] == pytest.approx(0, abs=0.1)
    assert found["target scale"].changed["target scale"] == pytest.approx(1, abs=0.3)
    assert found["optimizer"].changed["optimizer"] == 0
    assert set(found["norm"].changed) == set(NAMES)


def test_the_report_fits_a_terminal(found):
    for name in PLANTED:
        assert max(map(len, str(found[name]).splitlines())) <= 80, str(found[name])


def test_the_report_has_a_row_for_each_repair_the_largest_share_first(found):
    for name in PLANTED:
        _, table, *_ = str(found[name]).split("\n\n")
        rows = [line[:14].strip() for line in table.splitlines()[1:]]
        shares = found[name].shares
        assert rows == sorted(NAMES, key=lambda n: -shares[n].mean)


@pytest.mark.parametrize("name", ["healthy", *PLANTED])
def test_numbers_survive_json(found, name):
    causes = found[name]
    stored = json.loads(json.dumps(causes.to_dict(), allow_nan=False))
    assert stored["verdict"] == causes.verdict
    assert stored["exact"] is True
    assert {n: tuple(s.values()) for n, s in stored["shares"].items()} == {
        n: tuple(s) for n, s in causes.shares.items()
    }
    assert stored["values"]["none"] == causes.probed.final("now").tolist()
    assert len(stored["values"]) == 2 ** len(causes.repairs)
    assert stored["recovered"][causes.repairs[0].name] == causes.recovered[0].tolist()
    assert stored["probe"]["curves"]["fresh"] == causes.probed.curves["fresh"].tolist()


def test_a_fresh_network_has_lost_nothing():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    causes = disentangle(model, inputs=digits(), optimizer=Adam(3e-3), targets=5, steps=150, batch_size=64)
    assert causes.verdict != "lost"
    assert str(causes).startswith(("no plasticity lost: final loss ", "cannot tell"))
    assert "optimizer" in causes.idle
