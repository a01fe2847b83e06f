"""Shares by hand, how coalitions are refitted, and what is refused."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from pliant.causes import (
    EVERY,
    Causes,
    HiddenSchedule,
    Norm,
    OptimizerState,
    OutputLayer,
    Repaired,
    Spectra,
    TargetScale,
    Units,
    disentangle,
)
from pliant.causes.rescaling import rescalings
from pliant.causes.words import SHOWN
from pliant.functional.shapley import orders, prefixes
from pliant.interventions import Draw
from pliant.network import Network
from pliant.optim import Adam
from pliant.probe import FreshLabels, Plasticity, Sines, Training, plasticity
from pliant.probe.draws import draw, number
from pliant.sites import Inputs
from tests.probe.setting import assert_same, inputs, perceptron, snapshot, trained
from tests.probe.test_measure import Two, Words, adam
from tests.probe.test_refused import broken

NAMES = [repair.name for repair in EVERY]


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
    evidence = {"units": {"dead": 0.5}, "norm growth": {"norm_ratio": 2.0}}
    return Causes(repairs, ("output layer",), values, probed, evidence, {"units": 0.0, "norm growth": 0.5}, **rest)


def test_parts_by_hand():
    causes = made({(): [0.9, 0.9], (0,): [0.5, 0.5], (1,): [0.8, 0.8], (0, 1): [0.3, 0.3]}, [0.1, 0.1])
    np.testing.assert_allclose(causes.lost, [0.8, 0.8])
    np.testing.assert_allclose(causes.recovered, [[0.45] * 2, [0.15] * 2])
    np.testing.assert_allclose(causes.interactions[..., 0], [[0, 0.1], [0.1, 0]], atol=1e-12)
    parts = {name: tuple(np.round(part, 6)) for name, part in causes.parts.items()}
    assert parts == {"units": (0.45,) * 3, "norm growth": (0.15,) * 3, "unexplained": (0.2,) * 3}
    assert causes.shares == pytest.approx({"units": 0.5625, "norm growth": 0.1875, "unexplained": 0.25})
    assert causes.alone(0) == pytest.approx(0.4)
    assert causes.alone(1) == pytest.approx(0.1)
    said, table, remarks, reading, evidence, pace, todo = str(causes).split("\n\n")
    assert " ".join(said.split()) == (
        "lost 0.80 nats [0.80, 0.80] against fresh networks: units 56 %, norm growth 19 %, unexplained 25 %"
    )
    assert [line[:15].strip() for line in table.splitlines()] == [
        "fresh networks", "units", "norm growth", "unexplained", "this network"
    ]  # fmt: skip
    assert table.splitlines()[1].split()[1:-1] == ["+0.450", "[+0.450,", "+0.450]", "56", "%"]
    assert remarks.splitlines()[0] == "0.200 nats stay unexplained: no repair here brings them back"
    assert "units and norm growth need each other: treating both brings 0.100 nats more" in " ".join(remarks.split())
    assert "2 targets" in " ".join(reading.split())
    assert evidence.splitlines() == ["units: dead 0.5", "norm growth: norm ratio 2", "nothing to repair: output layer"]
    assert " ".join(pace.split()) == (
        "loss in nats: after 10 steps 0.9 (0.1 fresh), after 10 0.9 (0.1 fresh), area under the curve 0.95 (0.55 fresh)"
    )
    treats, shown = todo.splitlines()[:2], " ".join(" ".join(todo.splitlines()[2:]).split())
    assert treats == [
        "treat units with: LayerNorm(), ReDo(tau=0.0)",
        'treat norm growth with: L2(1e-4), NormalizeAndProject(scales="project")',
    ]
    assert shown == SHOWN


def test_no_cure_is_advised_that_the_network_has():
    taken = {(): [0.9] * 3, (0,): [0.2] * 3, (1,): [0.8] * 3, (0, 1): [0.1] * 3}
    assert made(taken, [0.1] * 3).todo()[0] == "treat units with: LayerNorm(), ReDo(tau=0.0)"
    assert made(taken, [0.1] * 3, has=("LayerNorm",)).todo()[0] == "treat units with: ReDo(tau=0.0)"
    both = made(taken, [0.1] * 3, has=("LayerNorm", "ReDo"))
    assert both.todo()[0] == "treat units with: more than LayerNorm(), ReDo(tau=0.0)"


def test_intervals_of_parts_are_students_over_targets():
    lost, gained = np.array([0.2, 0.6, 0.7]), np.array([0.2, 0.3, 0.1])
    causes = made({(): lost, (0,): lost - gained}, [0.0, 0.0, 0.0], repairs=(Units(),))
    half = 4.302653 * gained.std(ddof=1) / np.sqrt(3)
    assert causes.parts["units"] == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-6)
    assert causes.parts["unexplained"].mean == pytest.approx(0.3)


def test_a_repair_that_costs_is_a_bar_the_other_way_and_said_in_words():
    """Clearing the optimizer's state takes 0.45 of what units bring; the repaired network is better than new."""
    spread = np.array([-0.002, 0.0, 0.002])
    values = {(): 1.3, (0,): 0.1, (1,): 1.75, (0, 1): 0.55}
    causes = made(
        {c: v + spread * (1 + len(c)) for c, v in values.items()}, [0.6, 0.6, 0.6], (Units(), OptimizerState()), 2.3
    )
    assert causes.parts["optimizer state"].mean == pytest.approx(-0.45)
    assert causes.parts["unexplained"].mean == pytest.approx(-0.05)
    assert causes.shares == {"units": 1.0}
    said = " ".join(str(causes).split())
    assert "keeping the optimizer's state helps here: clearing it costs 0.45 nats" in said
    assert "what it has learned helps: with all repairs made it is 0.05 nats better than new" in said
    assert "against fresh networks: units 100 % fresh" in said
    assert [bar.name for bar in causes.waterfall.bars] == ["units", "unexplained", "optimizer state"]
    assert causes.waterfall.now == pytest.approx(1.3)
    wide = made(
        {c: v + 150 * spread * (1 in c) for c, v in values.items()}, [0.6, 0.6, 0.6], (Units(), OptimizerState()), 2.3
    )
    assert wide.parts["optimizer state"].mean == pytest.approx(-0.45)
    assert "keeping the optimizer's state" not in str(wide)  # its interval holds 0


def test_raw_values_of_all_subsets_are_exported():
    causes = made({(): [0.9, 5.0], (0,): [0.5, 0.5], (1,): [0.8, 0.8], (0, 1): [0.3, 0.3]}, [0.1, 0.2])
    rows = [row.split(",") for row in causes.to_csv().splitlines()]
    assert rows[0] == ["repairs", "target", "final_loss", "constant_predictor"]
    assert rows[1:3] == [["none", "0", "0.9", "1.0"], ["none", "1", "5.0", "1.0"]]
    assert [row[0] for row in rows[3::2]] == ["units", "norm growth", "units + norm growth", "a fresh network"]
    assert causes.to_dict()["values"]["units + norm growth"] == [0.3, 0.3]
    json.dumps(causes.to_dict(), allow_nan=False)


@pytest.mark.parametrize("targets", [3, 5, 10])
def test_intervals_cover_what_they_should(targets):
    """Parts of many targets are the truth; how often the interval of a few contains it.

    Losses of the kind that refits give: targets that are hard for all, repairs that bring more on some targets than on
    others, and rounding noise of every refit.
    """
    generator, trials = np.random.default_rng(0), 1500
    truth = {"units": 0.9, "norm growth": 0.25}
    inside = dict.fromkeys(truth, 0)
    for _ in range(trials):
        hard, units, norm = (generator.normal(0, s, targets) for s in (0.05, 0.12, 0.06))
        gains = {(): 0.0, (0,): 0.8 + units, (1,): 0.15 + norm, (0, 1): 1.15 + units + norm}
        values = {c: 1.5 + hard - gain + generator.normal(0, 0.03, targets) for c, gain in gains.items()}
        parts = made(values, np.full(targets, 0.2) + hard, baseline=2.3).parts
        for name, value in truth.items():
            inside[name] += parts[name].low <= value <= parts[name].high
    for name, count in inside.items():
        assert 0.93 <= count / trials <= 0.97, (name, count)


def test_losses_count_up_to_the_constant_predictors():
    """A refit that blows up to 1e9 is no more lost than one that learns nothing."""
    causes = made({(): [1e9, np.inf], (0,): [5.0, 1.0], (1,): [0.4, 0.4], (0, 1): [0.2, 0.2]}, [0.0, 0.0])
    np.testing.assert_allclose(causes.lost, [1, 1])
    np.testing.assert_allclose(causes.recovered, [[0.1, 0.1], [0.7, 0.7]])
    assert causes.alone(0) == 0
    assert causes.values[frozenset()][0] == 1e9
    assert causes.verdict == "lost"


@pytest.mark.parametrize(
    ("now", "fresh", "said"),
    [
        ([0.1, 0.1, 0.1], 0.1, "healthy: final loss +0.00 nats [+0.00, +0.00] against fresh networks"),
        ([0.05, 0.06, 0.05], 0.1, "healthy: final loss -0.05 nats [-0.06, -0.03] against fresh networks"),
        ([0.2, 0.3, 0.2], 0.7, "healthy: what it has learned helps, 0.47 nats better than new"),
        ([0.1, 0.3, 0.2], 0.1, "which allows for a loss and for none"),
        ([0.99, 1.0, 1.0], 1.0, "cannot tell: fresh networks did not learn either (loss 1.000 of 1.000)"),
        ([0.3, 0.3, 0.3], 1.0, "cannot tell: fresh networks did not learn (loss 1.000 of 1.000)"),
    ],
)
def test_what_is_said_where_nothing_is_known_to_be_lost(now, fresh, said):
    causes = made({(): now}, [fresh] * 3, repairs=())
    assert said in " ".join(str(causes).split())
    assert "treat " not in str(causes).replace("nothing to treat", "")
    assert causes.interactions is None
    assert causes.recovered.shape == (0, 3)
    json.dumps(causes.to_dict(), allow_nan=False)
    healthy = causes.verdict == "healthy"
    assert str(causes).splitlines()[-1].startswith("nothing to treat" if healthy else "to tell more, write ")


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

    class Spy(OutputLayer):
        def repair(self, network, before, x, draw):
            draws.append(draw)
            return super().repair(network, before, x, draw)

    asked(perceptron(), repairs=(Norm(), Spy()))
    first, second = Draw(number(0, 0, 2), 0, 1), Draw(number(0, 1, 2), 0, 1)
    assert draws == [first, first, first, second, second]  # to see what acts; then alone and after the other


def test_repairs_that_change_nothing_are_left_out():
    causes = asked(perceptron())
    assert "optimizer state" in causes.idle
    assert "units" in causes.idle
    assert {"norm growth", "output layer", "target scale"} <= {repair.name for repair in causes.repairs}
    assert sorted([*causes.idle, *(repair.name for repair in causes.repairs)]) == sorted(NAMES)
    assert set(causes.evidence) == {*NAMES, "curvature"}
    assert asked(perceptron(), repairs=()).repairs == ()


def test_more_than_six_repairs_are_sampled():
    kinds = [type(f"Number{i}", (Norm,), {"name": str(i)}) for i in range(7)]
    model, told = perceptron(), []
    causes = asked(model, repairs=[kind() for kind in kinds], orders=3, on_progress=lambda *at: told.append(at))
    assert len(causes.repairs) == 7
    assert causes.orders == [orders(7, 3, number(0, target, 5)) for target in range(2)]
    assert causes.orders[0] != causes.orders[1], "so that the interval over targets counts the sampling"
    assert set(causes.values) == {c for of_target in causes.orders for c in prefixes(of_target)}
    for t, of_target in enumerate(causes.orders):
        there = {c for c, value in causes.values.items() if np.isfinite(value[t])}
        assert there == set(prefixes(of_target)) == {c for c in causes.values if causes.refitted(c)[t]}
        assert len(there) <= 2 + 3 * 6, "as the docstring says"
    assert causes.interactions is None
    capped = {c: np.minimum(v, causes.probed.baseline) for c, v in causes.values.items()}
    lost = capped[frozenset()] - capped[frozenset(range(7))]
    np.testing.assert_allclose(causes.recovered.sum(0), lost, rtol=0, atol=1e-12)
    assert sum(part.mean for part in causes.parts.values()) == pytest.approx(causes.gap.mean)
    assert causes.to_dict()["exact"] is False
    assert any(causes.alone(i) is None for i in range(7))
    str(causes)
    stored = json.loads(json.dumps(causes.to_dict(), allow_nan=False))["values"]
    assert (
        sum(loss is not None for values in stored.values() for loss in values) == len(causes.to_csv().splitlines()) - 3
    )
    assert told[-1][0] == told[-1][1]


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
    behind = asked(noisy, purify=True, probe=FreshLabels(2))
    assert behind.repairs == (Spectra(), HiddenSchedule(), OutputLayer(apart=True), TargetScale())
    assert {"norm growth", "normaliser scales"} < set(behind.idle)  # the schedule has it all; they were never trained
    assert (behind.has, compiled.has) == (("LayerNorm",), ())  # a batch norm does what layer norm is advised for
    assert_same(snapshot(noisy), before)


def test_a_network_that_casts_its_inputs_is_read_too():
    class Agent(nn.Sequential):
        def forward(self, x):
            return super().forward(x.float())

    model = Agent(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    causes = asked(model, inputs(dtype=torch.float32))
    assert set(causes.changed) == set(NAMES)
    assert rescalings(Network(model, example=torch.ones(2, 4))).basis.shape == (2, 1)


def test_a_network_without_second_derivatives_has_no_curvature():
    model = nn.Sequential(nn.Linear(4, 8), nn.Hardsigmoid(), nn.Linear(8, 2)).double()
    with pytest.warns(UserWarning, match="curvature is not among the evidence: derivative for aten::hardsigmoid"):
        causes = asked(model)
    assert causes.evidence["curvature"] == {}
    assert "curvature" not in causes.text()


def test_a_network_without_hidden_units_has_no_evidence_of_them():
    model = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid()).double()
    causes = asked(model)
    assert causes.evidence["units"] == {}
    assert "units" in causes.idle


def test_a_dead_network_is_told_without_numbers_that_are_not_there():
    model = perceptron()
    model[1] = nn.ReLU()
    model[0].bias.data.fill_(-100.0)
    causes = asked(model)
    told = causes.told("target scale")
    assert (
        told == "top singular share undefined (all features are 0), output offset undefined (the outputs do not vary)"
    )


def test_a_frozen_head_has_no_evidence():
    model = perceptron()
    for p in list(model.parameters())[-2:]:
        p.requires_grad_(False)
    causes = asked(model)
    assert causes.evidence["output layer"] == {}
    assert "output layer" in causes.idle


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
    "tuple, labels": (Active, {"probe": FreshLabels(2)}, "got tuple"),
    "no nonlinearity": (lambda: Linear().double(), {}, "no nonlinearity was seen in Linear"),
    "another architecture": (perceptron, {"fresh": lambda: perceptron(hidden=7)}, "expected the same architecture"),
    "amsgrad": (perceptron, {"optimizer": lambda m: torch.optim.Adam(m.parameters(), amsgrad=True)}, "amsgrad"),
    "unknown optimizer": (perceptron, {"optimizer": lambda m: torch.optim.Adagrad(m.parameters())}, "got Adagrad"),
    "one target": (perceptron, {"targets": 1}, "at least 2 targets, for an interval, got 1"),
    "no steps": (perceptron, {"steps": 0}, "at least 1, got 0"),
    "the same twice": (perceptron, {"repairs": (Norm(), Norm())}, "different names, got norm growth, norm growth"),
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
    class Failing(OutputLayer):
        def repair(self, network, before, x, draw):
            raise RuntimeError("on the way")

    model, x = perceptron(), inputs()
    optimizer = trained(model, adam, x)
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="on the way"):
        asked(model, x, optimizer=optimizer, repairs=(Norm(), Failing()), probe=Sines())
    assert_same(snapshot(model, optimizer), before)


@pytest.mark.parametrize("name", ["sharpness", "of_a_fresh_network"])
def test_curvature_is_that_of_the_probes_loss(name):
    """Against a dense Hessian, at the network and at the fresh one that is the first target's control."""
    model, x = perceptron(hidden=3), inputs()
    found = asked(model, x).evidence["curvature"]
    network, probe = Network(model, example=x[:4]), Sines()
    params = network.params() if name == "sharpness" else draw(network, network.params(), 0, 0)
    y, sizes = probe.targets(network, params, x, number(0, 0, 0)), [p.numel() for p in params.values()]

    def loss(flat):
        parts = zip(params.items(), flat.split(sizes), strict=True)
        return probe.loss(network({n: t.view_as(p) for (n, p), t in parts}, x), y)

    flat = torch.cat([p.flatten() for p in params.values()])
    top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1]
    assert found[name] == pytest.approx(float(top), rel=0.01)
