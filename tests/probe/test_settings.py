"""What a torch optimizer's settings and state become, and what has no equivalent."""

import copy

import pytest
import torch

from pliant.interventions import L2, Chain
from pliant.optim import SAM, SGD, Adam, RMSProp, TorchOptimizer
from pliant.probe import Training, training
from pliant.probe.parts import Decayed
from tests.probe.setting import assert_same, inputs, perceptron, trained

TRANSLATED = [
    (lambda p: torch.optim.SGD(p, lr=0.1), SGD(0.1)),
    (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
        Decayed(SGD(0.1, momentum=0.9, nesterov=True), 0.2, decoupled=False),
    ),
    (lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.6), eps=1e-4), Adam(0.1, (0.5, 0.6), 1e-4)),
    (lambda p: torch.optim.Adam(p, weight_decay=0.2), Decayed(Adam(1e-3), 0.2, decoupled=False)),
    (lambda p: torch.optim.AdamW(p, weight_decay=0.2), Decayed(Adam(1e-3), 0.2, decoupled=True)),
    (
        lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, eps=1e-5, centered=True, momentum=0.3),
        RMSProp(0.1, alpha=0.9, eps=1e-5, centered=True, momentum=0.3),
    ),
    (lambda p: TorchOptimizer(p, Adam(0.1, eps_root=1e-3)), Adam(0.1, eps_root=1e-3)),
]


@pytest.mark.parametrize(("make", "optimizer"), TRANSLATED)
def test_settings_are_taken_over(make, optimizer):
    model = perceptron()
    found = training(make(model.parameters()), model)
    assert found == Training(optimizer)
    assert found.moments == {}


@pytest.mark.parametrize("make", [make for make, _ in TRANSLATED])
def test_the_state_is_copied_in_the_form_of_ours(make):
    model, x = perceptron(), inputs()
    optimizer = trained(model, make, x, steps=3)
    before = copy.deepcopy(optimizer.state_dict())
    found = training(optimizer, model)
    params = {name: p.detach() for name, p in model.named_parameters()}
    empty = found.optimizer.init(params)
    assert {kind: set(group) for kind, group in found.moments.items()} == {k: set(g) for k, g in empty.items()}
    for kind, group in found.moments.items():
        for name, tensor in group.items():
            if kind == "step":
                assert float(tensor) == 3
            else:
                assert torch.equal(tensor, optimizer.state[model.get_parameter(name)][kind])
            tensor.fill_(99)
    assert_same(optimizer.state_dict(), before)


def test_a_learning_rate_that_no_scheduler_changed_counts():
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    optimizer.param_groups[0]["lr"] = 0.25
    assert training(optimizer, model).optimizer == Adam(0.25)


def test_groups_with_the_same_settings_are_one():
    model = perceptron()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
    optimizer = trained(model, lambda _: torch.optim.Adam(groups, lr=0.1), inputs())
    found = training(optimizer, model)
    assert found.optimizer == Adam(0.1)
    assert set(found.moments["exp_avg"]) == {name for name, _ in model.named_parameters()}


def test_ours_and_trainings_are_taken_as_they_are():
    how = Training(Adam(0.3), Chain(L2(0.1)))
    assert training(how, perceptron()) is how
    assert training(SGD(0.3), perceptron()) == Training(SGD(0.3))


REFUSED = {
    "amsgrad": (lambda m: torch.optim.Adam(m.parameters(), amsgrad=True), "Adam without amsgrad, got amsgrad=True"),
    "maximize": (lambda m: torch.optim.SGD(m.parameters(), maximize=True), "SGD without maximize, got maximize=True"),
    "dampening": (
        lambda m: torch.optim.SGD(m.parameters(), momentum=0.9, dampening=0.5), "without dampening, got dampening=0.5"
    ),
    "unknown": (
        lambda m: torch.optim.Adagrad(m.parameters()),
        "SGD, Adam, AdamW, RMSprop or Muon, got Adagrad: write optimizer=pliant.optim.Adam",
    ),
    "amsgrad in a group": (
        lambda m: torch.optim.Adam([
            {"params": m[0].parameters(), "amsgrad": True}, {"params": m[2].parameters()},
        ]),
        "Adam without amsgrad, got amsgrad=True",
    ),
    "unknown among several": (
        lambda m: [torch.optim.SGD(m[0].parameters()), torch.optim.Adagrad([m[2].weight])], "Muon, got Adagrad: write"
    ),
    "a parameter of two": (
        lambda m: [torch.optim.Adam(m.parameters()), torch.optim.Adam(m[0].parameters())],
        r"expected every parameter in one optimizer, got 0.bias in two: write optimizer=pliant.optim.Adam",
    ),
    "SAM in a group": (
        lambda m: [TorchOptimizer(m[0].parameters(), SAM(SGD(0.1), 0.1)), torch.optim.SGD(m[2].parameters())],
        r"expected one optimizer with SAM, .* write optimizer=pliant.optim.SAM",
    ),
    "none": (lambda m: [], r"got none: write \[optimizer\]"),
    "of another model": (
        lambda m: torch.optim.Adam(perceptron().parameters()), "optimizer of the model's trainable parameters"
    ),
    "no optimizer": (lambda m: "adam", "expected an optimizer of torch.optim or of pliant.optim, got str"),
    "a class": (lambda m: torch.optim.Adam, "got type"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:the optimizer lacks")
@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_equivalent_is_refused(make, message):
    model = perceptron()
    optimizer = make(model)
    before = copy.deepcopy(optimizer.state_dict()) if isinstance(optimizer, torch.optim.Optimizer) else None
    with pytest.raises(ValueError, match=message):
        training(optimizer, model)
    if before is not None:
        assert_same(optimizer.state_dict(), before)
