"""Plasticity of whole models: what is reported, of which kinds of models, with which settings."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.heads import TwoHot
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.probe import FreshLabels, Plasticity, Sines, Start, Training, plasticity, refit
from pliant.probe.draws import draw, number
from pliant.sites import Inputs
from tests.probe.setting import assert_same, inputs, perceptron, snapshot, trained

QUICK = {"targets": 2, "steps": 6, "batch_size": 8}


def adam(params):
    return torch.optim.Adam(params, lr=1e-2)


def measured(model, x=None, **settings):
    settings = QUICK | {"optimizer": Adam(1e-2), "inputs": inputs() if x is None else x} | settings
    return plasticity(model, **settings)


def same(one, two):
    for name in one.curves:
        np.testing.assert_array_equal(one.curves[name], two.curves[name])


def made(now, fresh, baseline=1.0):
    """A finding of one checkpoint with these final losses."""
    curves = {"now": np.stack([np.ones(len(now)), now], 1), "fresh": np.stack([np.ones(len(now)), fresh], 1)}
    diverged = {"now": 0, "fresh": 0}
    return Plasticity(("now",), "nats", np.array([0, 10]), curves, np.full(len(now), baseline), diverged)


# -- what is reported --------------------------------------------------------------------------------------------------


def test_by_hand():
    found = made([0.5, 0.7], [0.1, 0.2], baseline=1.5)
    assert found.initial("now").tolist() == [1, 1]
    assert found.final("now").tolist() == [0.5, 0.7]
    assert found.area("now").tolist() == [0.75, 0.85]
    assert found.plasticity("now").mean == pytest.approx(1.5 - 0.6)
    assert found.increase("now").mean == pytest.approx(0.45)
    uneven = Plasticity(
        ("now",), "nats", np.array([0, 1, 4]), {"now": np.array([[8.0, 4.0, 2.0]])}, np.ones(1), {"now": 0}
    )
    assert uneven.area("now").tolist() == [(6 + 9) / 4]


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ([0.2, 0.21, 0.19], "lost"),
        ([-0.1, 0.2, 0.5], "cannot tell"),
        ([0.04, 0.041, 0.039], "healthy"),  # surely lost, and too little to matter
        ([0.04, 0.045, 0.035], "cannot tell"),  # its interval reaches 0.052
        ([0.0, 0.001, -0.001], "healthy"),
        ([-0.3, -0.32, -0.28], "healthy"),
    ],
)
def test_verdicts(gaps, said):
    for scale in (1.0, 10.0):
        fresh = np.full(3, 0.4 * scale)
        assert made(fresh + scale * np.array(gaps), fresh, scale).verdict("now") == said
    assert made(0.81 + np.array(gaps), np.full(3, 0.81)).verdict("now") == "cannot tell"  # fresh ones did not learn


def test_without_a_working_probe_nothing_is_told_but_what_to_write():
    idle = replace(made([1.0, 1.0], [1.0, 1.0]), lr=0.01)
    assert not idle.learned
    assert idle.conclusion("now") == "cannot tell: fresh networks did not learn either (loss 1.000 of 1.000)"
    assert idle.instead("now") == {"steps": 100, "lr": 0.1}
    assert idle.advice("now") == "steps=100 or lr=0.1"
    assert idle.advice("now", "--{} {:g}") == "--steps 100 or --lr 0.1"
    assert replace(idle, lr=0.0).instead("now") == {"lr": 0.001}
    assert (
        made([0.3, 0.3], [1.0, 1.0]).conclusion("now")
        == "cannot tell: fresh networks did not learn (loss 1.000 of 1.000)"
    )
    blown = replace(made([0.5, 0.5], [0.1, 0.1]), diverged={"now": 0, "fresh": 1}, lr=3.0)
    assert blown.verdict("now") == "cannot tell"
    assert blown.conclusion("now") == "cannot tell: 1 of 2 fresh networks diverged"
    assert blown.instead("now") == {"lr": 0.3}
    for broken in ([np.nan, 0.1], [np.inf, 0.1]):
        assert made([0.5, 0.5], broken).verdict("now") == "cannot tell"
    wide = made([0.1, 0.9], [0.1, 0.1])
    assert wide.instead("now") == {"targets": 4}
    assert str(wide).splitlines()[-1] == "to tell more of now, write targets=4"
    assert made([0.9, 0.9], [0.1, 0.1]).instead("now") == {}


def test_a_shallower_slope_shows_where_the_final_loss_hides_it():
    fresh, now = np.array([[1.0, 0.5, 0.0]] * 3), np.array([[1.0, 0.9, 0.0]] * 3)
    found = replace(
        made([0, 0], [0, 0]), steps=np.array([0, 1, 10]), curves={"now": now, "fresh": fresh}, baseline=np.ones(3)
    )
    assert found.verdict("now") == "healthy"
    assert found.early("now").tolist() == [0.9] * 3
    assert found.increase("now", "early").mean == pytest.approx(0.4)
    assert found.increase("now", "area").mean == pytest.approx((0.4 / 2 + 9 * 0.4 / 2) / 10)
    assert found.conclusion("now").endswith("; but it learns more slowly, +0.40 nats after 1 of 10 steps")
    stored = found.to_dict()["increase"]["now"]
    assert {name: round(part["mean"], 6) for name, part in stored.items()} == {"early": 0.4, "final": 0, "area": 0.2}
    tall = replace(found, curves={"now": now + np.array([9.0, 9.0, 0.0]), "fresh": fresh})
    assert tall.increase("now", "early").mean == pytest.approx(0.5)  # up to the constant predictor's


def test_verdicts_of_curves():
    assert made([0.50, 0.51, 0.52], [0.1, 0.1, 0.1]).verdict("now") == "lost"
    assert made([0.50, 0.51, 0.52], [0.1, 0.1, 0.1], baseline=10.0).verdict("now") == "healthy"
    assert made([0.1, 0.9], [0.1, 0.1]).verdict("now") == "cannot tell"


def test_checkpoints_and_fresh_networks_are_refitted_side_by_side():
    """Written out: P1's procedure for every checkpoint, one refit after another."""
    model, x = perceptron(), inputs()
    aged = {name: 5 * p.detach() for name, p in model.named_parameters()}
    found = measured(model, x, checkpoints={"young": model.state_dict(), "aged": aged}, seed=3, targets=3)
    assert found.names == ("young", "aged")
    assert found.unit == "squared error"
    assert found.steps.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found.diverged == {"young": 0, "aged": 0, "fresh": 0}
    network, probe, how = Network(model), Sines(), Training(Adam(1e-2))
    for target in range(3):
        control = draw(network, aged, 3, target)
        for name, params in {"young": network.params(), "aged": aged, "fresh": control}.items():
            y = probe.targets(network, params, x, number(3, target, 0))
            alone = refit(network, probe, [Start(params, y)], x, how, steps=6, batch_size=8, seed=3)
            np.testing.assert_allclose(found.curves[name][target], alone.scores[0], rtol=0, atol=1e-8)
            assert found.baseline[target] == pytest.approx(float((y - y.mean(0)).square().mean()))
    assert (found.initial("aged") > found.initial("young")).all()


def test_targets_controls_and_repairs_share_no_numbers():
    found = {number(seed, target, purpose) for seed in (0, 1) for target in range(4) for purpose in range(3)}
    assert len(found) == 24
    assert min(found) >= 0


def test_without_checkpoints_it_is_the_present_state():
    model = perceptron()
    found = measured(model)
    assert found.names == ("now",)
    np.testing.assert_array_equal(
        found.curves["now"], measured(model, checkpoints={"x": model.state_dict()}).curves["x"]
    )


def test_a_broken_network_has_lost_plasticity_and_a_fresh_one_has_not():
    model = perceptron(hidden=64)
    settings = {"targets": 4, "steps": 200, "batch_size": 24, "optimizer": Adam(1e-2)}
    healthy = measured(model, **settings)
    assert healthy.verdict("now") != "lost"
    assert (healthy.final("fresh") < 0.2 * healthy.baseline).all()
    model[0].weight.data.zero_()
    model[0].bias.data.fill_(100)  # no unit tells inputs apart, or learns to
    found = measured(model, **settings)
    assert found.verdict("now") == "lost"
    assert found.plasticity("now").mean < found.plasticity("fresh").mean - 0.1


def test_the_state_is_carried_only_if_asked_for_and_never_into_fresh_networks():
    model, x = perceptron(), inputs()
    optimizer = trained(model, adam, x)
    fresh, carried = measured(model, x, optimizer=optimizer), measured(model, x, optimizer=optimizer, carry=True)
    same(fresh, measured(model, x, optimizer=Adam(1e-2)))
    np.testing.assert_allclose(carried.curves["fresh"], fresh.curves["fresh"], rtol=0, atol=1e-8)
    assert not np.allclose(carried.final("now"), fresh.final("now"), atol=1e-6)
    np.testing.assert_array_equal(carried.initial("now"), fresh.initial("now"))
    with pytest.raises(ValueError, match="expected an optimizer with state to carry, got a fresh one"):
        measured(model, x, optimizer=adam(model.parameters()), carry=True)


def test_only_the_taken_actions_output_is_fitted():
    model, x = perceptron(outputs=3), inputs()
    actions = torch.arange(24) % 3
    found = measured(model, x, actions=actions, batch_size=24)
    network = Network(model)
    for target in range(2):
        y = Sines().targets(network, network.params(), x, number(0, target, 0))
        picked = y[torch.arange(24), actions]
        output = network(network.params(), x)[torch.arange(24), actions]
        assert found.initial("now")[target] == pytest.approx(float((output - picked).square().mean()))
        each = [picked[actions == action] for action in range(3)]
        assert found.baseline[target] == pytest.approx(float(np.mean([part.var(correction=0) for part in each])))
    chosen = model[2].bias
    moved = measured(model, x, actions=torch.zeros(24), batch_size=24)
    chosen.data[1:] += 100  # outputs that nobody takes
    np.testing.assert_allclose(
        measured(model, x, actions=torch.zeros(24), batch_size=24).curves["now"], moved.curves["now"], atol=1e-8
    )


def test_taken_actions_of_a_value_head():
    head = TwoHot(-2.0, 2.0, 5)
    model, x, actions = perceptron(outputs=10), inputs(), torch.arange(24) % 2
    found = measured(model, x, probe=Sines(head=head), actions=actions)
    network = Network(model)
    y = Sines(head=head).targets(network, network.params(), x, number(0, 0, 0))
    values = head.value(head.split(network(network.params(), x)))
    errors = (values - y).square()[torch.arange(24), actions]
    assert found.initial("now")[0] == pytest.approx(float(errors.mean()))


@pytest.mark.parametrize("actions", [torch.zeros(5), torch.zeros(24, 1), torch.full((24,), 7), torch.full((24,), -1)])
def test_actions_that_do_not_fit(actions):
    with pytest.raises(ValueError, match=r"expected (one action a sample|actions from 0 to 1)"):
        measured(perceptron(), actions=actions)


def test_labels_have_no_actions():
    with pytest.raises(ValueError, match="expected one action a sample"):
        measured(perceptron(), probe=FreshLabels(2), actions=torch.zeros(24))


def test_diverged_refits_are_counted():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = inputs(dtype=torch.float32)
    aged = {name: 30 * p for name, p in model.state_dict().items()}
    found = measured(model, x, optimizer=SGD(0.1), checkpoints={"aged": aged}, steps=30)
    assert found.diverged == {"aged": 2, "fresh": 0}
    assert np.isfinite(found.curves["aged"]).all()


def test_losses_count_up_to_that_of_the_constant_predictor():
    found = made([0.5, 0.7, np.inf], [0.1, 0.2, 0.3])
    capped = made([0.5, 0.7, 1.0], [0.1, 0.2, 0.3])
    for other in (made([0.5, 0.7, np.nan], [0.1, 0.2, 0.3]), made([0.5, 0.7, 1e30], [0.1, 0.2, 0.3]), found):
        assert other.increase("now") == capped.increase("now")
        assert other.plasticity("now") == capped.plasticity("now")
        assert other.verdict("now") == capped.verdict("now") == "lost"
    assert found.increase("now").mean == pytest.approx((0.4 + 0.5 + 0.7) / 3)
    assert np.isinf(found.final("now")[2])
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["curves"]["now"] == [[1.0, 0.5], [1.0, 0.7], [1.0, None]]


def test_losses_that_are_infinite_from_the_start():
    model = perceptron(dtype=torch.float32)
    model[2].bias.data.fill_(1e25)
    found = measured(model, inputs(dtype=torch.float32), probe=Sines(offset=0.0), optimizer=SGD(0.1), targets=3)
    assert found.diverged == {"now": 3, "fresh": 0}
    assert np.isinf(found.curves["now"]).all()
    assert found.plasticity("now").mean == 0
    assert np.isfinite(found.increase("now")).all()
    json.dumps(found.to_dict(), allow_nan=False)
    assert "inf" in str(found)


def test_same_twice_and_another_seed_is_another():
    model = perceptron()
    one, other = measured(model), measured(model, seed=1)
    same(one, measured(model))
    assert not np.allclose(one.final("now"), other.final("now"))


def test_text_and_numbers():
    found = measured(perceptron(), checkpoints={"after task 10": perceptron(seed=1).state_dict()})
    lines = str(found).splitlines()
    assert lines[0].startswith("probe loss (squared error), 2 targets, 6 steps, constant predictor 0.")
    assert [line.split("  ")[0] for line in lines[2:4]] == ["after task 10", "fresh"]
    assert lines[3].endswith("control")
    assert f"{found.final('after task 10').mean():.3f}" in lines[2]
    assert max(map(len, lines)) <= 100
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["curves"]["fresh"] == found.curves["fresh"].tolist()
    assert stored["verdict"] == {"after task 10": found.verdict("after task 10")}
    assert stored["increase"]["after task 10"]["final"]["mean"] == found.increase("after task 10").mean
    assert lines[5].startswith("after task 10: ")


# -- kinds of models ---------------------------------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self, words=12):
        super().__init__()
        self.embed, self.hidden, self.out = nn.Embedding(words, 6), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(F.relu(self.hidden(self.embed(x).flatten(1))))


class Two(nn.Module):
    """Takes two inputs, and a number."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 6), nn.Linear(2, 6), nn.Linear(6, 2)

    def forward(self, left, right=None, scale=1.0):
        if isinstance(left, dict):
            left, right = left["left"], left["right"]
        return self.out(F.relu(self.left(left) + scale * self.right(right)))


def test_integer_inputs():
    x = torch.randint(12, (24, 2), generator=torch.Generator().manual_seed(0))
    found = measured(Words(), x)
    assert (found.final("now") < found.initial("now")).all()
    wanted = measured(Words(), x, probe=FreshLabels(2), fresh=Words)
    assert wanted.unit == "nats"


def test_several_inputs():
    model, x = Two(), inputs(dtype=torch.float32)
    by_dict = measured(model, {"left": x, "right": x[:, :2]})
    by_name = measured(model, Inputs((x,), {"right": x[:, :2]}))
    same(by_dict, by_name)
    scaled = measured(model, Inputs((x,), {"right": x[:, :2], "scale": torch.tensor(1.0)}))
    same(by_dict, scaled)


def test_a_compiled_model_is_measured_as_it_is():
    model, x = perceptron(), inputs()
    compiled = torch.compile(model, backend="eager")
    same(measured(compiled, x), measured(model, x))
    optimizer = trained(model, adam, x)
    same(measured(compiled, x, optimizer=optimizer, carry=True), measured(model, x, optimizer=optimizer, carry=True))


def test_a_factory_makes_the_controls():
    def zeros():
        model = perceptron()
        for p in model.parameters():
            nn.init.constant_(p, 0.1)
        return model

    model, x = perceptron(), inputs()
    found = measured(model, x, fresh=zeros, probe=Sines(frequency=1.0))
    y = Sines(frequency=1.0).targets(Network(zeros), Network(zeros).params(), x, 0)
    assert found.initial("fresh") == pytest.approx([float((zeros()(x) - y).detach().square().mean())] * 2)
    plain = measured(model, x, probe=Sines(frequency=1.0))
    np.testing.assert_array_equal(found.curves["now"].shape, plain.curves["now"].shape)
    assert not np.allclose(found.initial("fresh"), plain.initial("fresh"))


def test_purify_measures_a_copy_without_dropout_and_running_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    x = inputs()
    with pytest.raises(ValueError, match=r"write nn.BatchNorm1d\(..., track_running_stats=False\), or model.eval\(\)"):
        measured(model, x)
    with pytest.raises(ValueError, match=r"write pliant.nets.Dropout\(p\), or model.eval\(\)"):
        measured(nn.Sequential(*model[2:]), torch.zeros(24, 8))
    before = snapshot(model)
    found = measured(model, x, purify=True, batch_size=24)
    assert_same(snapshot(model), before)
    plain = nn.Sequential(
        model[0], nn.BatchNorm1d(8, track_running_stats=False).double(), nn.ReLU(), nn.Identity(), model[4]
    )
    same(found, measured(plain, x, batch_size=24))

    def make():
        return copy.deepcopy(model)

    assert measured(model, x, purify=True, fresh=make).curves["fresh"].shape == (2, 7)


def test_checkpoints_with_other_running_statistics_are_refused():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double().eval(), inputs()
    young = copy.deepcopy(model.state_dict())
    model[0].weight.data += 1
    assert measured(model, x, checkpoints={"young": young}).names == ("young",)
    model[1].running_mean += 3
    with pytest.raises(ValueError, match=r"got young with another 1.running_mean: write model.load_state_dict"):
        measured(model, x, checkpoints={"young": young})
    model.train()
    assert measured(model, x, checkpoints={"young": young}, purify=True).names == ("young",)


def test_samples_that_depend_on_each_other_are_refused():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = perceptron()

        def forward(self, x, edges):
            return self.layers(torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))

    x = inputs()
    edges = torch.randint(len(x), (2, 30))
    with pytest.raises(ValueError, match=r"^expected as many samples in each of the inputs.*got 2 and 24.*graph"):
        plasticity(Graph(), inputs=Inputs((x, edges), {}), optimizer=SGD(0.1), targets=2, steps=2)
