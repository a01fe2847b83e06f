"""A model that changes while it is watched: what is measured is what is there, and no training ends."""

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant import Monitor
from pliant.diagnostics import DeadUnits, GradientNorm, ParameterNorm, RelativeUpdate
from pliant.monitor import Sink
from tests.bitwise import assert_same

X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def mlp(outputs=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs))


def new_head(model):
    model[4] = nn.Linear(5, 6)


def wider(model):
    model[2], model[4] = nn.Linear(6, 9), nn.Linear(9, 3)


def swapped(model):
    model[1] = nn.Tanh()


def deeper(model):
    model.append(nn.ReLU())
    model.append(nn.Linear(3, 3))


def shorter(model):
    del model[4], model[3]
    model[2] = nn.Linear(6, 3)


def assigned(model):
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)


def renamed(model):
    model._modules["head"] = model._modules.pop("4")


def frozen(model):
    model[0].requires_grad_(False)


def resized(model):
    model[4].weight = nn.Parameter(torch.zeros(5, 5))
    model[4].bias = nn.Parameter(torch.zeros(5))


def cast(model):
    model.double()


def impossible(model):
    model[0] = nn.Linear(7, 6)


def random(model):
    model[3] = nn.Dropout(0.5)


def silent(model):
    model[1] = model[3] = nn.Identity()


def none_left(model):
    for i in range(5):
        model[i] = nn.Identity()


CHANGES = {f.__name__: f for f in (new_head, wider, swapped, deeper, shorter, assigned, renamed, frozen, resized, cast)}
HOPELESS = {f.__name__: f for f in (impossible, random, silent, none_left)}


def run(change, watch, tier="full", steps=8, every=2):
    """A loop that makes a new optimizer where the model changes, and tells the monitor nothing."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    monitor = None
    if watch:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            monitor = Monitor(model, (X, Y), loss=F.cross_entropy, optimizer=optimizer, every=every, tier=tier)
    for step in range(steps):
        if step == 3:
            change(model)
            if any(p.requires_grad for p in model.parameters()):
                optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        p = next(model.parameters(), torch.zeros(1))
        at = torch.randint(len(X), (8,))
        x = X[at].to(p.dtype)
        try:
            loss = F.cross_entropy(model(x), Y[at])
            loss.backward()
        except (RuntimeError, IndexError):  # what cannot be called is not trained, either
            continue
        finally:
            if monitor is not None:
                monitor.mark() if step == 5 else monitor(step)
        optimizer.step()
        optimizer.zero_grad()
        if monitor is not None:
            monitor(step)
    if monitor is not None:
        monitor.close()
    return [model.state_dict(), optimizer.state_dict(), torch.get_rng_state()], monitor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_goes_on_measuring_what_is_there(change):
    plain, _ = run(change, False)
    watched, monitor = run(change, True)
    assert_same(plain, watched)
    assert [row["step"] for row in monitor.rows] == [0, 2, 4, 6]
    assert {"dead", "norm_ratio", "gradient_norm"} <= set(monitor.rows[-1])
    assert {"dead", "norm_ratio", "gradient_norm", "relative_update"} <= set(monitor.latest)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", HOPELESS.values(), ids=HOPELESS)
def test_what_can_no_longer_be_measured_is_said_once_and_ends_no_training(change):
    plain, _ = run(change, False, steps=12)
    with pytest.warns(UserWarning, match="measured|trained|new in the model") as said:
        watched, monitor = run(change, True, steps=12)
    assert_same(plain, watched)
    assert [row["step"] for row in monitor.rows][:2] == [0, 2]
    messages = [str(w.message).split(": ", 1)[-1] for w in said if issubclass(w.category, UserWarning)]
    assert len(messages) == len(set(messages))


def test_a_new_head_is_named_once_and_measured_from_its_beginning_on():
    model = mlp()
    chosen = (ParameterNorm(), RelativeUpdate(), DeadUnits())
    monitor = Monitor(model, X, diagnostics=chosen, every=1)
    monitor(0)
    model[4] = nn.Linear(5, 6)
    with pytest.warns(UserWarning, match=r"^4.bias, 4.weight are new in the model: what compares") as said:
        row = monitor(1)
    assert len(said) == 1
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    again = monitor(2)
    assert row["norm_ratio"] == pytest.approx(1.0)
    assert "relative_update" not in row
    assert again["norm_ratio"] == pytest.approx(1.5)
    assert "relative_update" in again


def test_numbers_after_a_change_are_those_of_a_new_monitor():
    model = mlp()
    settings = {"loss": F.cross_entropy, "every": 1, "diagnostics": (DeadUnits(), GradientNorm(), ParameterNorm())}
    monitor = Monitor(model, (X, Y), **settings)
    monitor(0)
    wider(model)
    with pytest.warns(UserWarning, match="new in the model"):
        row = monitor(1)
    expected = Monitor(model, (X, Y), **settings)(1)
    names = {name for name in expected if "norm_ratio" not in name}
    assert {name: row[name] for name in names} == {name: expected[name] for name in names}


@pytest.mark.parametrize("change", [new_head, assigned])
def test_an_optimizer_that_lacks_parameters_is_named(change):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, X, optimizer=optimizer, diagnostics=(DeadUnits(),), every=1)
    change(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monitor(0)
    assert any("does not hold" in str(w.message) and "monitor.follow(optimizer)" in str(w.message) for w in said)
    monitor.follow(torch.optim.SGD(model.parameters(), lr=0.5))
    assert monitor(1)["learning_rate"] == 0.5


def test_a_new_optimizer_of_the_same_parameters_is_asked_for():
    model = mlp()
    old, new = (torch.optim.SGD(model.parameters(), lr=lr) for lr in (0.1, 0.2))
    monitor = Monitor(model, X, optimizer=old, diagnostics=(DeadUnits(),), every=1)

    def step(optimizer, at):
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        return monitor(at)

    step(old, 0)
    step(old, 1)
    monitor(2)  # nobody trained
    with pytest.warns(UserWarning, match=r"trained without a step of the monitor's optimizer: .* monitor.follow"):
        step(new, 3)
    step(new, 4)  # said once
    monitor.follow(new)
    assert not old._optimizer_step_post_hooks
    assert step(new, 5)["learning_rate"] == 0.2
    monitor.close()
    assert not new._optimizer_step_post_hooks
    step(new, 6)


def test_learning_rates_of_groups_and_several_optimizers():
    model = mlp()
    two, one = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim == 1]
    pair = [torch.optim.Muon(two, lr=0.1), torch.optim.AdamW(one, lr=0.2)]
    row = Monitor(model, X, optimizer=pair, diagnostics=(DeadUnits(),))(0)
    assert [row[name] for name in ("learning_rate", "learning_rate/0", "learning_rate/1")] == [0.1, 0.1, 0.2]
    groups = torch.optim.AdamW([{"params": two}, {"params": one, "weight_decay": 0.0}], lr=0.3)
    row = Monitor(model, X, optimizer=groups, diagnostics=(DeadUnits(),))(0)
    assert [name for name in row if "learning_rate" in name] == ["learning_rate"]
    other = torch.optim.SGD(mlp().parameters(), lr=0.1)
    for wrong, message in (([pair[0], other], "one of other parameters"), ({}, "got dict"), ([], "got none")):
        with pytest.raises(ValueError, match=message):
            Monitor(model, X, optimizer=wrong)


# -- nothing ends a training -------------------------------------------------------------------------------------------


def test_whatever_is_called_ends_nothing():
    class Bad(Sink):
        def write(self, row):
            pass

        def close(self):
            raise OSError("disk full")

    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.broken = mlp(), False

        def forward(self, x):
            if self.broken:
                raise RuntimeError("broken")
            return self.net(x)

    model = Fragile()
    monitor = Monitor(model, X, every=1, sinks=[Bad()])
    monitor(0)
    monitor._subject._network.module.broken = True
    with pytest.warns(UserWarning, match="could not be measured: broken"):
        assert monitor(1) is None
    monitor.mark()
    with pytest.warns(UserWarning, match="Bad object .* could not be closed: disk full"):
        monitor.close()
    strange = Monitor(mlp(), X, diagnostics=(DeadUnits(),))
    with pytest.warns(UserWarning, match="could not be measured"):
        assert strange("soon") is None


# -- saving and loading ------------------------------------------------------------------------------------------------


def loop(model, optimizer, monitor, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        at = torch.randint(len(X), (8,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(X[at]), Y[at]).backward()
        optimizer.step()
        if step in (4, 13):
            monitor.mark()
        monitor(step)


@pytest.mark.parametrize("stop", [5, 8, 9, 10])
@pytest.mark.filterwarnings("ignore:.*samples are too few", "ignore:.*could not be measured")
def test_a_resumed_monitor_equals_an_uninterrupted_one_bitwise(stop):
    def begin(seed=0):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        return model, optimizer, Monitor(model, (X, Y), loss=F.cross_entropy, optimizer=optimizer, every=3, tier="full")

    straight = begin()
    loop(*straight, range(18))
    first = begin()
    loop(*first, range(stop))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    resumed = begin(seed=7)
    for part, saved in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(saved)
    loop(*resumed, range(stop, 18))
    assert [list(row) for row in resumed[2].rows] == [list(row) for row in straight[2].rows]
    torch.testing.assert_close(resumed[2].rows, straight[2].rows, rtol=0, atol=0, equal_nan=True)


def test_the_state_of_another_monitor_is_refused_and_changes_nothing():
    monitor = Monitor(mlp(), X, every=1)
    monitor(0)
    other = Monitor(mlp(outputs=5), X, every=1)
    bare = Monitor(mlp(), X, diagnostics=(DeadUnits(),))
    for wrong, message in (
        (other.state_dict(), r"'4.weight' is \(5, 5\) in its initial parameters"),
        (bare.state_dict(), "same diagnostics, '0.weight' is not there in its initial"),
        ({}, r"expected what monitor.state_dict\(\) returned, got an empty dict"),
        (None, "got NoneType"),
    ):
        before = copy.deepcopy(monitor.state_dict())
        with pytest.raises(ValueError, match=message):
            monitor.load_state_dict(wrong)
        torch.testing.assert_close(monitor.state_dict(), before, rtol=0, atol=0, equal_nan=True)
