"""Shares by hand, how coalitions are refitted, and what is refused."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from pliant.causes import Causes, Head, Norm, OptimizerState, Repaired, TargetScale, Units, disentangle
from pliant.functional.shapley import orders, prefixes
from pliant.interventions import Draw
from pliant.network import Network
from pliant.optim import Adam
from pliant.probe import Plasticity, RandomLabels, Sines, Training, plasticity
from pliant.probe.measure import number
from pliant.sites import Inputs
from tests.probe.setting import assert_same, inputs, perceptron, snapshot, trained
from tests.probe.test_measure import Two, Words, adam
from tests.probe.test_refused import broken

NAMES = ["units", "norm", "head", "target scale", "optimizer"]


def asked(model, x=None, **settings):
    quick = {"targets": 2, "steps": 6, "batch_size": 8, "optimizer": Adam(1e-2)}
    return disentangle(model, **(quick | {"inputs": inputs() if x is None else x} | settings))


# -- by hand -----------------------------------------------------------------------------------------------------------


BOTH = (Units(), Norm())


def made(values, fresh, repairs=BOTH, baseline=1.0, **rest):
    """Causes of final losses by coalition, every curve a straight line."""
    values = {frozenset(c): np.asarray(v, dtype=float) for c, v in values.items()}
    everything = values.get(frozenset(range(len(repairs))), np.asarray(fresh, dtype=float))
    ends = {"now": values[frozenset()], "repaired": everything, "fresh": np.asarray(fresh, dtype=float)}
    curves = {name: np.stack([np.ones(len(end)), end], 1) for name, end in ends.items()}
    baselines, diverged = np.full(len(fresh), baseline), dict.fromkeys(ends, 0)
    probed = Plasticity(("now", "repaired"), "nats", np.array([0, 10]), curves, baselines, diverged)
    evidence = {"units": {"dead": 0.5}, "norm": {"norm_ratio": 2.0}}
    return Causes(repairs, ("head",), values, probed, evidence, {"units": 0.0, "norm": 0.5}, **rest)


def test_shares_by_hand():
    causes = made({(): [0.9, 0.9], (0,): [0.5, 0.5], (1,): [0.8, 0.8], (0, 1): [0.3, 0.3]}, [0.1, 0.1])
    np.testing.assert_allclose(causes.lost, [0.8, 0.8])
    np.testing.assert_allclose(causes.recovered, [[0.45] * 2, [0.15] * 2])
    np.testing.assert_allclose(causes.interactions, [[0, 0.1], [0.1, 0]], atol=1e-12)
    shares = {name: tuple(np.round(share, 6)) for name, share in causes.shares.items()}
    assert shares == {"units": (0.5625,) * 3, "norm": (0.1875,) * 3, "unexplained": (0.25,) * 3}
    assert causes.alone(0) == pytest.approx(0.4)
    assert causes.alone(1) == pytest.approx(0.1)
    said, table, evidence, cure = str(causes).split("\n\n")
    assert " ".join(said.split()) == (
        "lost 0.800 nats [+0.800, +0.800] against fresh networks: 56 % dead and linearized units, 19 % norm growth; "
        "25 % unexplained"
    )
    assert table.splitlines()[1].split() == ["units", "56", "%", "56", "%", "to", "56", "%", "+0.400", "0"]
    assert evidence.splitlines() == ["units:        dead 0.5", "norm:         norm ratio 2", "nothing to repair: head"]
    assert cure == "treat dead and linearized units with: LayerNorm(), ReDo(tau=0.0)"


def test_shares_are_ratios_of_means_with_percentiles_over_targets():
    lost, gained = np.array([0.2, 0.6, 0.7]), np.array([0.2, 0.3, 0.1])
    causes = made({(): lost, (0,): lost - gained}, [0.0, 0.0, 0.0], repairs=(Units(),))
    share = causes.shares["units"]
    assert share.mean == pytest.approx(0.6 / 1.5)
    picks = np.array([(i, j, k) for i in range(3) for j in range(3) for k in range(3)])
    every = gained[picks].mean(1) / lost[picks].mean(1)
    assert share.low < share.mean < share.high
    low, high = np.percentile(np.repeat(every, 100), [2.5, 97.5])
    assert share.low == pytest.approx(low, abs=0.05)
    assert share.high == pytest.approx(high, abs=0.05)


def test_losses_count_up_to_the_constant_predictors():
    """A refit that blows up to 1e9 is no more lost than one that learns nothing."""
    causes = made({(): [1e9, np.inf], (0,): [5.0, 1.0], (1,): [0.4, 0.4], (0, 1): [0.2, 0.2]}, [0.0, 0.0])
    np.testing.assert_allclose(causes.lost, [1, 1])
    np.testing.assert_allclose(causes.recovered, [[0.1, 0.1], [0.7, 0.7]])
    assert causes.alone(0) == 0
    assert causes.values[frozenset()][0] == 1e9
    assert causes.verdict == "lost"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ([0.1, 0.1, 0.1], "no plasticity lost: final loss +0.000 nats [+0.000, +0.000] against fresh networks"),
        ([0.05, 0.06, 0.05], "no plasticity lost: final loss -0.047 nats"),
        ([0.1, 0.3, 0.2], "; more targets or steps would tell more"),
    ],
)
def test_what_is_said_where_nothing_is_known_to_be_lost(now, said):
    causes = made({(): now}, [0.1, 0.1, 0.1], repairs=())
    assert said in " ".join(str(causes).split())
    assert "treat" not in str(causes)
    assert causes.interactions is None
    assert causes.recovered.shape == (0, 3)
    json.dumps(causes.to_dict())


# -- how it is put together --------------------------------------------------------------------------------------------


def test_every_coalition_is_refitted_as_by_itself():
    """Each value against `plasticity` of the network with these repairs made by hand."""
    model, x = perceptron(outputs=2, hidden=6), inputs()
    model[0].bias.data[0] = 90  # a saturated unit
    optimizer = trained(model, adam, x)
    repairs = (Units(), TargetScale(), OptimizerState())
    causes = asked(model, x, optimizer=optimizer, repairs=repairs)
    assert causes.repairs == repairs
    network = Network(model, example=x[:4])
    for coalition, values in causes.values.items():
        if 0 in coalition:
            continue  # its draws are its own
        mended = copy.deepcopy(model)
        own = adam(mended.parameters())
        own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if 1 in coalition:
            after = TargetScale().repair(network, Repaired(network.params(), {}), x, None)
            mended.load_state_dict(after.params)
            for p in (mended[2].weight, mended[2].bias):
                own.state[p]["exp_avg"].zero_()
                own.state[p]["exp_avg_sq"].zero_()
        alone = plasticity(mended, inputs=x, optimizer=own, targets=2, steps=6, batch_size=8, carry=2 not in coalition)
        np.testing.assert_allclose(values, alone.final("now"), rtol=0, atol=1e-8)
        np.testing.assert_allclose(causes.probed.curves["fresh"], alone.curves["fresh"], rtol=0, atol=1e-8)


def test_repairs_draw_anew_for_each_target_and_alike_in_all_coalitions():
    draws = []

    class Spy(Head):
        def repair(self, network, before, x, draw):
            draws.append(draw)
            return super().repair(network, before, x, draw)

    asked(perceptron(), repairs=(Norm(), Spy()))
    first, second = Draw(number(0, 0, 2), 0, 1), Draw(number(0, 1, 2), 0, 1)
    assert draws == [first, first, first, second, second]  # to see what acts; then alone and after the other


def test_repairs_that_change_nothing_are_left_out():
    causes = asked(perceptron())
    assert "optimizer" in causes.idle
    assert "units" in causes.idle
    assert [repair.name for repair in causes.repairs] == ["norm", "head", "target scale"]
    assert set(causes.evidence) == set(NAMES)
    assert asked(perceptron(), repairs=()).repairs == ()


def test_more_than_six_repairs_are_sampled():
    kinds = [type(f"Number{i}", (Norm,), {"name": str(i)}) for i in range(7)]
    model, told = perceptron(), []
    causes = asked(model, repairs=[kind() for kind in kinds], orders=3, on_progress=lambda *at: told.append(at))
    assert len(causes.repairs) == 7
    assert causes.orders == orders(7, 3, 0)
    assert set(causes.values) == set(prefixes(causes.orders))
    assert causes.interactions is None
    capped = {c: np.minimum(v, causes.probed.baseline) for c, v in causes.values.items()}
    lost = capped[frozenset()] - capped[frozenset(range(7))]
    np.testing.assert_allclose(causes.recovered.sum(0), lost, rtol=0, atol=1e-12)
    assert sum(share.mean for share in causes.shares.values()) == pytest.approx(1)
    assert causes.to_dict()["exact"] is False
    assert any(causes.alone(i) is None for i in range(7))
    str(causes)
    assert told == [(0, 1), (1, 1)]


def test_same_twice_and_another_seed_is_another():
    model = perceptron()
    one, two, other = asked(model), asked(model), asked(model, seed=1)
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict())
    assert not np.allclose(one.values[frozenset()], other.values[frozenset()])


def test_only_the_taken_actions_output_is_fitted():
    model, x = perceptron(outputs=3), inputs()
    actions = torch.arange(24) % 3
    causes = asked(model, x, actions=actions, optimizer=Adam(1e-2))
    alone = plasticity(model, inputs=x, optimizer=Adam(1e-2), targets=2, steps=6, batch_size=8, actions=actions)
    np.testing.assert_allclose(causes.probed.curves["now"], alone.curves["now"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(causes.probed.baseline, alone.baseline, rtol=0, atol=1e-8)


def test_kinds_of_models():
    words = torch.randint(12, (24, 2), generator=torch.Generator().manual_seed(0))
    x = inputs(dtype=torch.float32)
    assert asked(Words(), words, fresh=Words).gap.mean < 1
    by_name = asked(Two(), Inputs((x,), {"right": x[:, :2]}), seed=2)
    assert set(by_name.changed) == set(NAMES)
    model = perceptron()
    compiled = asked(torch.compile(model, backend="eager"))
    assert json.dumps(compiled.to_dict()) == json.dumps(asked(model).to_dict())
    noisy = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)).double()
    before = snapshot(noisy)
    assert len(asked(noisy, purify=True, probe=RandomLabels(2)).values) == 8
    assert_same(snapshot(noisy), before)


def test_a_network_without_hidden_units_has_no_evidence_of_them():
    model = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid()).double()
    causes = asked(model)
    assert causes.evidence["units"] == {}
    assert "units" in causes.idle


def test_a_training_of_ours_is_carried():
    model, x = perceptron(), inputs()
    moments = Adam().init(dict(model.named_parameters()))
    moments["exp_avg_sq"] = {name: t + 1e4 for name, t in moments["exp_avg_sq"].items()}
    moments["step"][""].fill_(5000)
    causes = asked(model, x, optimizer=Training(Adam(1e-2), moments=moments), repairs=(OptimizerState(),))
    assert causes.repairs == (OptimizerState(),)
    assert (causes.values[frozenset()] > causes.values[frozenset({0})]).all()


# -- what is refused ---------------------------------------------------------------------------------------------------


class Linear(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3), nn.Linear(3, 2))


class Active(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = perceptron()

    def forward(self, x):
        return self.body(x), x


REFUSED = {
    "no module": (lambda: (lambda x: x), {}, "expected an nn.Module, got function"),
    "dropout": (lambda: nn.Sequential(perceptron(), nn.Dropout()), {}, "model.eval"),
    "batch norm": (lambda: nn.Sequential(perceptron(), nn.BatchNorm1d(2).double()), {}, "track_running_stats=False"),
    "NaN": (broken, {}, "expected finite outputs, got NaN or infinity from 'the model'"),
    "tuple": (Active, {}, "got tuple: write call=lambda model, x: ... with the part to probe"),
    "tuple, labels": (Active, {"probe": RandomLabels(2)}, "got tuple"),
    "no nonlinearity": (lambda: Linear().double(), {}, "no nonlinearity was seen in Linear"),
    "another architecture": (perceptron, {"fresh": lambda: perceptron(hidden=7)}, "expected the same architecture"),
    "amsgrad": (perceptron, {"optimizer": lambda m: torch.optim.Adam(m.parameters(), amsgrad=True)}, "amsgrad"),
    "unknown optimizer": (perceptron, {"optimizer": lambda m: torch.optim.Adagrad(m.parameters())}, "got Adagrad"),
    "one target": (perceptron, {"targets": 1}, "at least 2 targets, for an interval, got 1"),
    "no steps": (perceptron, {"steps": 0}, "at least 1, got 0"),
    "the same twice": (perceptron, {"repairs": (Norm(), Norm())}, "repairs of different names, got norm, norm"),
    "actions": (perceptron, {"actions": torch.zeros(3)}, "expected one action a sample"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, settings, message):
    model, settings = make(), dict(settings)
    module = isinstance(model, nn.Module)
    if "optimizer" in settings:
        settings["optimizer"] = settings["optimizer"](model)
    elif module:
        settings["optimizer"] = adam(model.parameters())
    before = snapshot(model, settings["optimizer"]) if module else None
    with pytest.raises(ValueError, match=message) as caught:
        asked(model, **settings)
    assert "\n" not in str(caught.value)
    if module:
        assert_same(snapshot(model, settings["optimizer"]), before)


def test_nothing_is_touched_by_a_repair_that_fails():
    class Failing(Head):
        def repair(self, network, before, x, draw):
            raise RuntimeError("on the way")

    model, x = perceptron(), inputs()
    optimizer = trained(model, adam, x)
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="on the way"):
        asked(model, x, optimizer=optimizer, repairs=(Norm(), Failing()), probe=Sines())
    assert_same(snapshot(model, optimizer), before)
