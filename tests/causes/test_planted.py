"""The causes that were planted are found, and a network that has lost nothing is told so."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.causes import REPAIRS, Norm, OptimizerState, Repaired, TargetScale, Units, disentangle
from pliant.data import load
from pliant.functional.shapley import coalitions
from pliant.optim import Adam
from tests.probe.setting import assert_same, snapshot

NAMES = [repair.name for repair in REPAIRS]


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


PLANTED = {
    "units": kill_units,
    "norm growth": scale_weights,
    "optimizer state": stale_moments,
    "target scale": shift_head,
}


@pytest.fixture(scope="module")
def found():
    """What is said of a healthy network, and of one with each cause planted."""
    said = {}
    for name, plant in {"healthy": lambda *_: None, **PLANTED}.items():
        model, optimizer, x = regressor()
        plant(model, optimizer, x)
        before = snapshot(model, optimizer)
        said[name] = disentangle(
            model, inputs=x, optimizer=optimizer, repairs=REPAIRS, targets=3, steps=60, batch_size=64
        )
        assert_same(snapshot(model, optimizer), before)
    return said


@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_repair_gets_the_largest_part(found, name):
    causes = found[name]
    assert causes.verdict == "lost", str(causes)
    assert max(causes.parts, key=lambda n: causes.parts[n].mean) == name, str(causes)
    first = " ".join(str(causes).split("\n\n")[0].split())
    assert first.split("fresh networks: ")[1].startswith(f"{name} ")
    assert str(causes).split("\n\n")[-1].startswith(f"treat {name} with: ")


def test_a_healthy_network_is_told_apart(found):
    assert found["healthy"].gap.mean < min(found[name].gap.mean for name in PLANTED)


@pytest.mark.parametrize("name", PLANTED)
def test_bars_sum_to_everything(found, name):
    causes = found[name]
    fall = causes.waterfall
    assert sum(part.mean for part in causes.parts.values()) == pytest.approx(causes.gap.mean, abs=1e-12)
    assert fall.bars[-1].end == pytest.approx(fall.now, abs=1e-12)
    assert fall.now == pytest.approx(np.minimum(causes.probed.final("now"), causes.probed.baseline).mean(), abs=1e-12)
    assert sum(causes.shares.values()) == pytest.approx(1)
    assert sum(fall.percent.values()) == 100
    assert list(causes.parts) == [*(repair.name for repair in causes.repairs), "unexplained"]
    everything = frozenset(range(len(causes.repairs)))
    capped = {c: np.minimum(v, causes.probed.baseline) for c, v in causes.values.items()}
    np.testing.assert_allclose(causes.recovered.sum(0), capped[frozenset()] - capped[everything], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(causes.values[frozenset()], causes.probed.final("now"))
    np.testing.assert_array_equal(causes.values[everything], causes.probed.final("repaired"))
    assert set(causes.values) == set(coalitions(len(causes.repairs)))
    for part in causes.parts.values():
        assert part.low <= part.mean <= part.high


def test_evidence_names_the_planted_cause(found):
    assert found["units"].evidence["units"]["dead"] >= 0.75
    assert found["norm growth"].evidence["norm growth"]["norm_ratio"] == pytest.approx(
        8 * found["healthy"].evidence["norm growth"]["norm_ratio"], rel=1e-4
    )
    assert found["target scale"].evidence["target scale"]["output_offset"] > 5
    assert found["units"].changed["units"] == pytest.approx(0, abs=0.1)
    assert found["target scale"].changed["target scale"] == pytest.approx(1, abs=0.3)
    assert found["optimizer state"].changed["optimizer state"] == 0
    assert set(found["norm growth"].changed) == set(NAMES)


@pytest.mark.parametrize("width", [60, 80])
def test_the_report_fits_a_terminal(found, width):
    for name in PLANTED:
        assert max(map(len, found[name].text(width).splitlines())) <= width, found[name].text(width)
        assert found[name].text(width).isascii()


def test_the_report_has_a_line_for_each_mechanism_the_largest_first(found):
    for name in PLANTED:
        _, table, *_ = str(found[name]).split("\n\n")
        rows = [line[:15].strip() for line in table.splitlines()[1:-1]]
        parts = found[name].parts
        assert set(rows) == {*NAMES, "unexplained"}
        assert rows[0] == name
        down = [row for row in rows if parts[row].mean <= 0]
        assert rows[len(rows) - len(down) :] == down


@pytest.mark.parametrize("name", ["healthy", *PLANTED])
def test_numbers_survive_json(found, name):
    causes = found[name]
    stored = json.loads(json.dumps(causes.to_dict(), allow_nan=False))
    assert stored["verdict"] == causes.verdict
    assert stored["exact"] is True
    assert {n: tuple(s.values()) for n, s in stored["parts"].items()} == {n: tuple(s) for n, s in causes.parts.items()}
    assert stored["shares"] == causes.shares
    assert stored["values"]["none"] == causes.probed.final("now").tolist()
    assert len(stored["values"]) == 2 ** len(causes.repairs)
    assert stored["recovered"][causes.repairs[0].name] == causes.recovered[0].tolist()
    assert stored["probe"]["curves"]["fresh"] == causes.probed.curves["fresh"].tolist()


def test_a_fresh_network_has_lost_nothing():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    causes = disentangle(
        model, inputs=digits(), optimizer=Adam(3e-3), repairs=REPAIRS, targets=5, steps=150, batch_size=64
    )
    assert causes.verdict != "lost"
    assert str(causes).startswith(("healthy: ", "cannot tell: final loss "))
    assert "optimizer state" in causes.idle


# -- what costs, and what interacts ------------------------------------------------------------------------------------


class Spoil(Norm):
    """A repair that does harm: all weights are multiplied by 8."""

    name = "spoiled weights"
    kept = "its weights"
    undone = "multiplying them"

    def repair(self, network, before, x, draw):
        return Repaired({name: 8 * p for name, p in before.params.items()}, before.moments)


def test_a_repair_that_does_harm_is_said_to_cost():
    model, optimizer, x = regressor()
    kill_units(model, optimizer, x)
    budget = {"targets": 4, "steps": 60, "batch_size": 64}
    causes = disentangle(model, inputs=x, optimizer=optimizer, repairs=(Units(), Spoil()), **budget)
    assert causes.verdict == "lost", str(causes)
    part = causes.parts["spoiled weights"]
    assert part.high < 0, str(causes)
    assert f"keeping its weights helps here: multiplying them costs {-part.mean:.3f} squared" in " ".join(
        str(causes).split()
    )
    assert "spoiled weights" not in causes.shares
    assert sum(part.mean for part in causes.parts.values()) == pytest.approx(causes.gap.mean, abs=1e-12)
    assert [bar.name for bar in causes.waterfall.bars][-1] == "spoiled weights"


def test_two_mechanisms_that_need_each_other():
    """A shifted head behind steps that have become small: neither repair alone brings much, both do."""
    model, optimizer, x = regressor()
    shift_head(model, optimizer, x)
    stale_moments(model, optimizer, x)
    budget = {"targets": 4, "steps": 60, "batch_size": 64}
    causes = disentangle(model, inputs=x, optimizer=optimizer, repairs=(TargetScale(), OptimizerState()), **budget)
    assert causes.verdict == "lost", str(causes)
    both, alone = causes.interactions[0, 1], (causes.alone(0), causes.alone(1))
    np.testing.assert_allclose(both.mean(), causes.recovered.sum(0).mean() - sum(alone), rtol=0, atol=1e-12)
    assert both.mean() > 0.5 * causes.gap.mean, str(causes)
    assert "target scale and optimizer state need each other" in " ".join(str(causes).split())
    np.testing.assert_allclose(causes.recovered[0].mean(), alone[0] + both.mean() / 2, rtol=0, atol=1e-12)
