"""How many steps a probe takes, at which rate, and that no verdict is given where fresh networks learn nothing."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

import pliant
from pliant.data import load
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.probe import FreshLabels, Start, Training, budget, plasticity, refit, training
from pliant.probe.budget import BUDGETS, CONTROLS, SHARE, chosen
from pliant.probe.draws import draw, number
from tests.probe.setting import inputs, perceptron

LABELS = FreshLabels(2)


def asked(optimizer, steps=None):
    model, x = perceptron(hidden=32), inputs()
    network = Network(model, example=x[:4])
    return chosen(network, network.params(), x, Training(optimizer), LABELS, steps, 24, 0)


def test_the_budget_is_the_smallest_at_which_fresh_networks_learn_control_targets():
    found = asked(Adam(5e-3))
    model, x = perceptron(hidden=32), inputs()
    network = Network(model, example=x[:4])
    params, losses = network.params(), {}
    for steps in BUDGETS[:2]:
        starts = [
            Start(p := draw(network, params, 0, i, 4), LABELS.targets(network, p, x, number(0, i, 3)))
            for i in range(CONTROLS)
        ]
        made = refit(network, LABELS, starts, x, Training(Adam(5e-3)), steps=steps, batch_size=24)
        losses[steps] = made.scores[:, -1].mean() / np.log(2)
    enough = [steps for steps, loss in losses.items() if loss <= 1 - SHARE]
    assert found.steps == enough[0] > BUDGETS[0]  # not the first of all, so that there is something to choose
    assert found.note == (
        f"budget {found.steps} steps, the first of 100, 200, 500, 1000, 2000 in which fresh networks learn 80% of 3 "
        "control targets, which are not used otherwise"
    )


def test_a_budget_of_ones_own_is_taken_as_it_is():
    assert asked(Adam(1e-2), 7) == (7, "")


@pytest.fixture
def small(monkeypatch):
    """Budgets that take no time."""
    monkeypatch.setattr(budget, "BUDGETS", (5, 10, 40))


def test_where_fresh_networks_never_learn_as_little_as_can_be_is_spent(small):
    for optimizer in (SGD(1e-9), Adam(0.0)):
        assert asked(optimizer) == (5, "budget 5 steps: even in 40 fresh networks learn but 0% of 3 control targets, "
                                    "which are not used otherwise")  # fmt: skip
    assert asked(SGD(1e308)).note.startswith("budget 5 steps: fresh networks diverge within ")
    slow = asked(Adam(1e-2))
    assert slow.steps == 40
    assert "the most that is tried" in slow.note


def test_control_targets_are_not_those_that_are_measured():
    every = [number(0, target, purpose) for target in range(10) for purpose in range(5)]
    assert len(set(every)) == len(every)


def test_plasticity_and_disentangle_say_what_was_chosen():
    model, x = perceptron(hidden=32), inputs()
    how = {"inputs": x, "optimizer": Adam(1e-2), "probe": LABELS, "targets": 2, "batch_size": 24}
    found = plasticity(model, **how)
    assert found.steps[-1] in BUDGETS
    assert found.notes[0].startswith(f"budget {found.steps[-1]} steps, the first of ")
    assert found.notes[0] in str(found)
    causes = pliant.disentangle(model, repairs=(), **how)
    assert causes.probed.notes == found.notes
    assert "budget" in str(causes)
    assert plasticity(model, steps=3, **how).notes == ()


# -- rates -------------------------------------------------------------------------------------------------------------


def scheduled(make):
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = make(optimizer)
    for _ in range(100):
        optimizer.step()
        scheduler.step()
    return model, optimizer


SCHEDULES = {
    "cosine": (lambda o: schedules.CosineAnnealingLR(o, 100), 1e-2, "learning rate 0.01, before its schedule (now"),
    "steps": (lambda o: schedules.StepLR(o, 50), 1e-2, "learning rate 0.01, before its schedule (now it is 0.0001)"),
    "one cycle": (lambda o: schedules.OneCycleLR(o, 0.1, 101), 0.1, "learning rate 0.1, the highest of its schedule"),
    "constant": (lambda o: schedules.ConstantLR(o, 1.0), 1e-2, ""),
}  # fmt: skip


@pytest.mark.parametrize(("make", "lr", "note"), SCHEDULES.values(), ids=SCHEDULES)
def test_under_a_scheduler_the_rate_is_that_of_most_of_the_training(make, lr, note):
    model, optimizer = scheduled(make)
    before = [group["lr"] for group in optimizer.param_groups]
    made = training(optimizer, model)
    assert made.optimizer.lr == pytest.approx(lr)
    assert made.note.startswith(note)
    assert bool(made.note) == bool(note)
    assert training(optimizer, model, lr=0.5).optimizer.lr == 0.5
    assert [group["lr"] for group in optimizer.param_groups] == before


def test_a_rate_of_ones_own():
    model = perceptron()
    own = training(Adam(1e-2), model, lr=0.5)
    assert (own.optimizer.lr, own.note) == (0.5, "learning rate 0.5, as given")
    assert training(Adam(0.5), model, lr=0.5).note == ""
    assert training(Training(SGD(0.1)), model, lr=0.5).optimizer == SGD(0.5)
    adam = torch.optim.Adam(model.parameters(), lr=0.25)
    assert training(adam, model, lr=0.5).note == "learning rate 0.5, as given (the optimizer's is 0.25)"
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"expected a learning rate above 0, got .*: write lr=1e-3"):
            training(adam, model, lr=bad)


# -- networks whose every unit is dead ---------------------------------------------------------------------------------


def dead():
    """A network none of whose hidden units ever fires, and digits."""
    digits = torch.tensor(load("digits").x_train[:64]).float().flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.zero_()
            layer.bias.fill_(-1)
    return model, (digits - digits.mean()) / digits.std()


DEAD = {
    "Adam": (lambda p: torch.optim.Adam(p, 3e-3), 150),
    "a schedule's end": (lambda p: torch.optim.Adam(p, 0.0), 50),
    "slow SGD": (lambda p: torch.optim.SGD(p, 1e-3), 300),
    "a diverging rate": (lambda p: torch.optim.SGD(p, 1e6), 20),
    "two steps": (lambda p: torch.optim.Adam(p, 1e-3), 2),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, 1e-3), 100),
    "momentum": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 100),
    "a budget that is chosen": (lambda p: torch.optim.Adam(p, 3e-2), None),
    "nothing to choose": (lambda p: torch.optim.SGD(p, 1e-12), None),
}


@pytest.mark.parametrize(("make", "steps"), DEAD.values(), ids=DEAD)
@pytest.mark.parametrize("probe", [FreshLabels(10), None], ids=["labels", "sines"])
def test_a_network_whose_every_unit_is_dead_is_never_healthy(small, make, steps, probe):
    model, x = dead()
    how = {"inputs": x, "optimizer": make(model.parameters()), "probe": probe, "targets": 3, "steps": steps}
    found = plasticity(model, batch_size=64, **how)
    causes = pliant.disentangle(model, repairs=(), batch_size=64, **how)
    assert found.verdict("now") == causes.verdict != "healthy"
    assert causes.verdict == ("lost" if found.learned else "cannot tell")
    if not found.learned:
        said = " ".join(str(causes).split())
        assert re.match(r"cannot tell: (fresh networks did not learn|\d of 3 fresh networks diverged)", said)
        assert str(causes).splitlines()[-1].startswith("to tell more, write ")
    if probe is not None and (make, steps) in (DEAD["Adam"], DEAD["a budget that is chosen"]):
        assert causes.verdict == "lost"


def test_the_line_that_is_written_leads_to_a_verdict():
    model, x = dead()
    how = {"inputs": x, "probe": FreshLabels(10), "targets": 3, "batch_size": 64}
    first = plasticity(model, optimizer=Adam(1e-3), steps=20, **how)
    assert first.verdict("now") == "cannot tell"
    advice = first.instead("now")
    for setting in advice:
        assert plasticity(model, optimizer=Adam(1e-3), **how, **({"steps": 20} | {setting: advice[setting]})).learned


def test_the_pace_of_a_dead_network_stands_beside_its_final_loss():
    model, x = dead()
    found = plasticity(
        model, inputs=x, optimizer=Adam(3e-3), probe=FreshLabels(10), targets=3, steps=100, batch_size=64
    )
    assert found.increase("now", "area").low > 0
