"""What a user may get wrong by hand: one line that says what was expected, what came and what to write."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pliant
from pliant import Monitor, Network
from pliant.causes.repairs import Norm
from pliant.diagnostics import DeadUnits, ParameterNorm
from pliant.interventions import L2, Chain, LayerNorm, Reset
from pliant.interventions import GradientNormPenalty as Penalty
from pliant.monitor import JSONL
from pliant.probe import FreshLabels

X, Y = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.cell(x[:, None])[0][:, -1])


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def attach(*members, **settings):
    model = net()
    keeper = Chain(*members).attach(model, torch.optim.Adam(model.parameters()), **settings)
    model(X)
    return keeper, model


def probed(measure=pliant.plasticity, **settings):
    model = net()
    given = {"inputs": X, "optimizer": torch.optim.Adam(model.parameters()), "probe": FreshLabels(4), "steps": 2}
    return measure(model, **{**given, "targets": 2, **settings})


def penalised(loss):
    keeper, model = attach(Penalty(strength=0.1))
    return keeper.penalty(loss(model))


MONITOR = {
    "no model": (lambda: Monitor(None, X), "expected an nn.Module, got NoneType"),
    "a class": (lambda: Monitor(nn.Linear, X), r"expected an nn.Module, got Linear: write Linear\(...\)"),
    "no probe": (lambda: Monitor(net(), None), r"as the probe, got NoneType without tensors: write probe=\(x, y\)"),
    "a name": (lambda: Monitor(net(), "x"), "got str without tensors"),
    "a loader": (lambda: Monitor(net(), torch.utils.data.DataLoader(X)), "got DataLoader without tensors"),
    "an empty probe": (lambda: Monitor(net(), X[:0]), "got an empty batch"),
    "a width": (lambda: Monitor(net(), X[:, :3]), "the model cannot be called on the probe: mat1 and mat2"),
    "the class of a loss": (
        lambda: Monitor(net(), (X, Y), loss=nn.CrossEntropyLoss), r"the class .*: write loss=CrossEntropyLoss\(\)"
    ),
    "the name of a loss": (lambda: Monitor(net(), (X, Y), loss="mse"), "got 'mse': write loss=nn.functional"),
    "one diagnostic": (lambda: Monitor(net(), X, diagnostics=DeadUnits()), r"write diagnostics=\(DeadUnits\(\),\)"),
    "a word": (lambda: Monitor(net(), X, diagnostics="dead"), "got 'dead': write diagnostics="),
    "an LSTM": (
        lambda: Monitor(Recurrent(), X, diagnostics=(DeadUnits(),)),
        r"of Recurrent are inside 'cell', where they cannot be seen: measure what needs none",
    ),
    "noise that is no dropout": (
        lambda: Monitor(nn.Sequential(*net(), Noise()), X, purify=True), "draw from a generator of the model's own"
    ),
    "one sink": (lambda: Monitor(net(), X, sinks=JSONL("x")), r"expected a list of sinks, .* write sinks=\["),
    "a path": (lambda: Monitor(net(), X, sinks=["x.jsonl"]), r"expected a list of sinks, got \['x.jsonl'\]"),
}  # fmt: skip
KEEPER = {
    "no model": (lambda: Chain(L2(0.1)).attach(None, None), "expected an nn.Module, got NoneType"),
    "the wrong way round": (
        lambda: Chain(L2(0.1)).attach(torch.optim.SGD([torch.ones(1)]), net()), "expected an nn.Module, got SGD"
    ),
    "a network as fresh": (lambda: attach(L2(0.1), fresh=net()), "got Sequential: write fresh=make_model"),
    "a number as fresh": (lambda: attach(L2(0.1), fresh=3), "got int: write fresh=make_model"),
    "a name as seed": (lambda: attach(L2(0.1), seed="a"), "expected a seed of at least 0, got 'a'"),
    "a negative seed": (lambda: attach(L2(0.1), seed=-1), "expected a seed of at least 0, got -1"),
    "a number as loss": (lambda: penalised(lambda m: 3.0), r"got one without a graph: write loss = loss \+ keeper"),
    "a loss without a graph": (lambda: penalised(lambda m: m(X).sum().detach()), "a scalar tensor, got one without"),
    "losses": (
        lambda: penalised(lambda m: F.cross_entropy(m(X), Y, reduction="none")), r"got one of shape \(32,\)"
    ),
    "no tied copy": (
        lambda: attach(Reset("last"))[0].event("task_switch", tied=None), r"got NoneType: write tied=\[target\]"
    ),
    "a name as tied": (lambda: attach(Reset("last"))[0].event("task_switch", tied="t"), "copies of the model, got str"),
    "no example": (lambda: Chain(LayerNorm()).build(net(), example=None), "cannot be built in with this example"),
    "a class to build in": (lambda: Chain(LayerNorm()).build(nn.Sequential, example=X), "expected an nn.Module"),
}  # fmt: skip
PROBE = {
    "the name of a probe": (lambda: probed(probe="labels"), r"got 'labels': write probe=Sines\(\)"),
    "the class of a probe": (lambda: probed(probe=FreshLabels), "expected a probe such as Sines"),
    "half a target": (lambda: probed(targets=2.5), "expected at least 2 targets, for an interval, got 2.5"),
    "half a step": (lambda: probed(steps=2.5), "steps of a refit to be at least 1, got 2.5: write a whole number"),
    "a width": (lambda: probed(inputs=X[:, :3]), "the model cannot be called on the inputs: mat1 and mat2"),
    "whole numbers": (lambda: probed(inputs=X.long()), "the model cannot be called on the inputs"),
    "a network as fresh": (lambda: probed(fresh=net()), "got Sequential: write fresh=make_model"),
    "checkpoints without names": (lambda: probed(checkpoints=[net().state_dict()]), "got list: write checkpoints={"),
    "the name of a repair": (lambda: probed(pliant.disentangle, repairs="norm"), r"got 'norm': write repairs=\("),
    "the class of a repair": (lambda: probed(pliant.disentangle, repairs=(Norm,)), "expected a sequence of repairs"),
    "an example of another width": (lambda: Network(net(), example=X[:, :3]).units, "cannot be called on the example"),
}  # fmt: skip
EVERY = {f"{part}: {name}": case for part, cases in
         {"Monitor": MONITOR, "keeper": KEEPER, "probe": PROBE}.items() for name, case in cases.items()}  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), EVERY.values(), ids=EVERY)
def test_one_line_says_what_to_write(wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_a_recurrent_network_is_measured_where_no_activations_are_needed():
    row = Monitor(Recurrent(), X, diagnostics=(ParameterNorm(),))(0)
    assert row["norm_ratio"] == 1.0


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x, y):
        return self.b(torch.relu(self.a(x)) * y)


def other_optimizer():
    return torch.optim.SGD(net().parameters(), lr=0.1)


def frozen_below(model):
    model[0].requires_grad_(False)
    recipe = Chain(pliant.ReDo(tau=0.1, every=1))
    keeper = recipe.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(X)
    return keeper


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda: Monitor(Pair(), ((X, torch.ones(32, 4)), Y)), r"write pliant.Inputs\(\(a, b\), {}\)"),
        (
            lambda: pliant.plasticity(Pair(), inputs=(X, torch.ones(32, 4)), optimizer=pliant.optim.SGD(0.1)),
            r"write pliant.Inputs\(\(a, b\), {}\)",
        ),
        (
            lambda: pliant.plasticity(net(), inputs=X, optimizer=other_optimizer()),
            r"an optimizer that holds none of the model's: write torch.optim.Adam\(model.parameters\(\)\)",
        ),
        (
            lambda: pliant.plasticity(net().requires_grad_(False), inputs=X, optimizer=other_optimizer()),
            r"all of them frozen: write requires_grad_\(True\)",
        ),
        (lambda: Monitor(nn.Sequential(nn.LazyLinear(4), nn.ReLU()), X), r"lazy 0.weight: call model\(x\) first"),
        (lambda: Network(nn.Sequential(nn.LazyLinear(4), nn.ReLU())), r"lazy 0.weight: call model\(x\) first"),
        (lambda: frozen_below(net()), "that may be reset: frozen layers, .* are left alone; leave ReDo out"),
    ],
    ids=["probe of two", "inputs of two", "other optimizer", "frozen", "lazy", "lazy network", "frozen below"],
)
def test_the_line_to_write_is_that_of_the_mistake(what, said):
    with pytest.raises(ValueError, match=said):
        what()
