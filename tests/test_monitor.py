"""The monitor: it measures what it says, when it says, and training is bitwise the same without it."""

# pyright: reportOptionalSubscript=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportUnusedExpression=false
from __future__ import annotations

import copy
import json
import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch import nn
from torch.func import grad
from torch.nn import functional as F

import pliant
from pliant import Inputs, Monitor, Network
from pliant.diagnostics import (
    DeadUnits,
    Diagnostic,
    EmpiricalNTK,
    FeatureRanks,
    GradientCovariance,
    GradientNorm,
    Observation,
    ParameterNorm,
    PredictiveEntropy,
    RelativeUpdate,
    WeightRanks,
    registered,
)
from pliant.monitor import JSONL, Parquet, Sink
from pliant.monitor.choice import RARER, schedule
from tests.bitwise import assert_same, streams

pytestmark = pytest.mark.filterwarnings("ignore:.*no fresh reference")  # of layers that nobody can draw
X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def measured(row: Any) -> dict[str, float]:
    """A row without what fresh networks read."""
    return {name: value for name, value in row.items() if not name.startswith("fresh/")}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def cnn() -> nn.Module:
    convolutions = (nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*convolutions, nn.Linear(27, 3))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))


def spectral() -> nn.Module:
    """Moves buffers of its own whenever it is called."""
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))


NETS = {
    "mlp": (mlp, False),
    "cnn": (cnn, False),
    "batch_norm": (batch_norm, True),
    "dropout": (dropout, True),
    "spectral": (spectral, False),
}
OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
}


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that a monitor must leave alone."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "state": {name: t.clone() for name, t in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "modes": [m.training for m in model.modules()],
        "hooks": [len(getattr(m, kind)) for m in model.modules() for kind in hooks],
        "own": [sorted(vars(m)) for m in model.modules()],
        "streams": streams(),
        "grad_mode": torch.is_grad_enabled(),
    }


def train(
    make: Callable[[], nn.Module],
    optimizer: str = "adam",
    steps: int = 6,
    watch: Callable[..., Monitor] | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> tuple[dict[str, Any], Monitor | None]:
    """A loop whose batches are drawn from the global streams; gradients are left in place after a step."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    model = make()
    stepper = OPTIMIZERS[optimizer](model)
    called = wrap(model)
    monitor = watch(called, (X, Y), loss=F.cross_entropy, optimizer=stepper) if watch else None
    for step in range(steps):
        at = torch.randint(len(X), (8,))
        loss = F.cross_entropy(called(X[at]), Y[at])
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        if monitor is not None:
            monitor(step)
    return everything(model, stepper), monitor


def watching(**settings: Any) -> Callable[..., Monitor]:
    def watch(model: nn.Module, probe: Any, **more: Any) -> Monitor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Monitor(model, probe, **{"every": 2, **more, **settings})

    return watch


@dataclass(frozen=True)
class Failing(Diagnostic):
    """Draws from every stream, then raises, from the second time on."""

    calls: ClassVar[list[int]] = []
    needs: ClassVar[frozenset[str]] = frozenset({"trace", "network", "x", "gradients"})
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, torch.Tensor]:
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        self.calls.append(1)
        if len(self.calls) == 1:
            return {"failing": torch.tensor(1.0)}
        with torch.enable_grad():
            assert seen.network is not None
            seen.network(seen.params, seen.x).sum()
            raise RuntimeError(f"half-way, call {len(self.calls)}\nand more")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Failing.calls.clear()


# -- it changes nothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tier", ["economy", "business", "full"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.filterwarnings("ignore:.*samples are too few", "ignore:step .*could not be measured")
def test_training_is_bitwise_the_same(net: str, tier: str, optimizer: str) -> None:
    make, purify = NETS[net]
    plain, _ = train(make, optimizer)
    watched, monitor = train(make, optimizer, watch=watching(tier=tier, purify=purify))
    assert_same(plain, watched)
    assert monitor is not None
    assert [row["step"] for row in monitor.rows] == [0, 2, 4]
    assert {"dead", "norm_ratio", "relative_update", "learning_rate"} <= set(monitor.latest)
    assert ("gradient_norm" in monitor.latest) == (tier != "economy")


@pytest.mark.parametrize("net", NETS)
def test_training_is_bitwise_the_same_when_a_diagnostic_raises_half_way(net: str) -> None:
    make, purify = NETS[net]
    plain, _ = train(make)
    with pytest.warns(UserWarning, match=r"step 0: Failing\(\) could not be measured.*half-way, call 2$") as said:
        watched, monitor = train(make, watch=watching(diagnostics=(Failing(), DeadUnits()), purify=purify))
    assert_same(plain, watched)
    assert len([one for one in said if "no fresh reference" not in str(one.message)]) == 1
    assert monitor is not None
    assert [row["step"] for row in monitor.rows] == [0, 2, 4]
    assert all("dead" in row and "failing" not in row for row in monitor.rows)


def test_training_is_bitwise_the_same_when_the_forward_pass_raises_half_way() -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.inner(x).relu()
            if len(x) == len(X) and self.head.weight.abs().max() > 0.5:
                raise RuntimeError("too large")
            return self.head(x)

    plain, _ = train(Fragile, "sgd", steps=30)
    with pytest.warns(UserWarning, match="the network could not be measured: too large") as said:
        watched, monitor = train(Fragile, "sgd", steps=30, watch=watching())
    assert_same(plain, watched)
    assert len(said) == 1
    assert monitor is not None
    assert 0 < len(monitor.rows) < 15


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own
@pytest.mark.parametrize("part", [False, True])
def test_training_is_bitwise_the_same_compiled_and_compiles_nothing_more(part: bool) -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        compiled.append(1)
        return graph.forward

    def wrap(model: nn.Module) -> nn.Module:
        if not part:
            return torch.compile(model, backend=backend)  # type: ignore[return-value]
        model[2] = torch.compile(nn.Sequential(model[2], model[3]), backend=backend)
        model[3] = nn.Identity()
        return model

    counts, found = [], []
    for watch in (None, watching(tier="full")):
        torch._dynamo.reset()
        compiled.clear()
        found.append(train(mlp, watch=watch, wrap=wrap))
        counts.append(len(compiled))
    assert_same(found[0][0], found[1][0])
    assert counts[0] == counts[1] > 0
    eager, monitor = train(mlp, watch=watching(tier="full"))[1], found[1][1]
    assert eager is not None
    assert monitor is not None
    assert [row["dead"] for row in monitor.rows] == [row["dead"] for row in eager.rows]
    if not part:
        assert monitor.rows == eager.rows


@pytest.mark.parametrize("compile", ["module", "forward"])
def test_a_model_compiled_in_place_is_measured_itself(compile: str) -> None:
    def wrap(model: nn.Module) -> nn.Module:
        if compile == "module":
            model.compile(backend="eager")
        else:
            model.forward = torch.compile(model.forward, backend="eager")
        return model

    torch._dynamo.reset()
    assert_same(train(mlp, wrap=wrap)[0]["state"], train(mlp, wrap=wrap, watch=watching())[0]["state"])
    eager, compiled = train(mlp, watch=watching())[1], train(mlp, wrap=wrap, watch=watching())[1]
    assert eager is not None
    assert compiled is not None
    assert eager.rows == compiled.rows


def test_hooks_of_others_are_not_told_but_those_that_compute_weights_are() -> None:
    calls: list[int] = []
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def hook(*_: Any) -> None:
        calls.append(1)

    model[0].register_forward_hook(hook)
    monitor = Monitor(model, X, diagnostics=(DeadUnits(),))
    monitor(0)
    assert not calls
    model(X)
    assert len(calls) == 1
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[2])
    with torch.no_grad():
        model[2].weight_g.mul_(2.0)
    monitor = Monitor(model, X, diagnostics=(PredictiveEntropy(),))
    expected = torch.distributions.Categorical(logits=model(X)).entropy().mean().item()
    assert monitor(0)["entropy"] == pytest.approx(expected, rel=1e-5)


def test_autocast_is_off_where_it_measures() -> None:
    def run(watch: bool, inside: bool) -> tuple[dict[str, Any], list[Any]]:
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters())
        monitor = Monitor(model, (X, Y), loss=F.cross_entropy, every=2) if watch else None
        for step in range(6):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(X)
                assert output.dtype == torch.bfloat16
                loss = F.cross_entropy(output, Y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
                if monitor is not None:
                    monitor(step)
        return everything(model, optimizer), [] if monitor is None else monitor.rows

    plain, inside, outside = run(False, False), run(True, True), run(True, False)
    assert_same(plain[0], inside[0])
    assert inside[1] == outside[1]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_measures_gradients_wherever_it_is_called(mode: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = mlp()
    monitor = Monitor(model, (X, Y), loss=F.cross_entropy, diagnostics=(GradientNorm(),), every=1)
    usual = monitor(0)
    with mode():
        row = monitor(1)
    assert usual is not None
    assert row == measured(usual) | {"step": 1}


# -- what it measures --------------------------------------------------------------------------------------------------


def test_rows_hold_what_the_diagnostics_measure() -> None:
    torch.manual_seed(0)
    model = mlp()
    initial = Network(model).params()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    chosen = (DeadUnits(), ParameterNorm(), GradientNorm(), RelativeUpdate())
    monitor = Monitor(model, (X, Y), loss=F.cross_entropy, optimizer=optimizer, diagnostics=chosen, every=3)
    for step in range(1, 8):
        before = Network(model).params()
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        row = monitor(step)
        if step not in (1, 3, 6):
            assert row is None
            continue
        network = Network(model)
        now = network.params()
        gradients = grad(lambda p, network=network: F.cross_entropy(network(p, X), Y))(now)
        update = {name: now[name] - before[name] for name in now}
        seen = Observation(now, initial, network.trace(now, X), gradients, update)
        expected = {name: value.item() for d in chosen for name, value in d.measure(seen).items()}
        found = {"step": step, "learning_rate": 0.25, **expected}
        assert measured(row) == pytest.approx(found, rel=1e-6, nan_ok=True)
        assert list(row)[:2] == ["step", "learning_rate"]
    assert [row["step"] for row in monitor.rows] == [1, 3, 6]


def test_every_diagnostic_has_its_own_period_which_steps_may_overshoot() -> None:
    monitor = Monitor(mlp(), X, diagnostics={DeadUnits(): 10, ParameterNorm(): 25})
    for step in range(3, 60, 4):
        monitor(step)
        monitor(step)
    found = [(row["step"], "dead" in row, "norm_ratio" in row) for row in monitor.rows]
    assert found == [
        (3, True, True), (11, True, False), (23, True, False), (27, False, True), (31, True, False),
        (43, True, False), (51, True, True),
    ]  # fmt: skip
    assert monitor.latest["step"] == 51
    assert set(monitor.latest) == {name for row in monitor.rows for name in row}


@dataclass(frozen=True)
class Past(Diagnostic):
    """The first weight now, before the latest change and at the earlier moment, the latter by way of the output."""

    needs: ClassVar[frozenset[str]] = frozenset({"update", "earlier", "initial"})
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, torch.Tensor]:
        assert seen.update is not None
        assert seen.earlier is not None
        assert seen.initial is not None
        bias = seen.params["2.bias"][0]
        return {
            "now": bias,
            "update": seen.update["2.bias"][0],
            "earlier": seen.earlier.output[0, 0],
            "initial": seen.initial["2.bias"][0],
        }


def counting() -> nn.Module:
    """A network whose output is its last bias."""
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model


def test_the_past_is_what_it_says() -> None:
    model = counting()
    monitor = Monitor(model, X, diagnostics=(Past(),), every=3)
    for step in range(1, 12):
        with torch.no_grad():
            model[2].bias += step
        if step == 8:
            monitor.mark()
        monitor(step)
        assert monitor(step) is None
    found = [[row[name] for name in ("step", "now", "update", "earlier", "initial")] for row in monitor.rows]
    assert found == [[1, 1, 1, 0, 0], [3, 6, 3, 1, 0], [6, 21, 6, 6, 0], [9, 45, 9, 36, 0]]
    monitor(12)
    assert monitor.rows[-1]["earlier"] == 36


def test_without_the_call_before_there_is_no_update() -> None:
    model = counting()
    monitor = Monitor(model, X, diagnostics=(Past(), DeadUnits()), every=10)
    assert monitor(0)["update"] == 0
    for step in (2, 4, 6, 8):
        monitor(step)
    assert "update" in monitor(10)
    monitor(12)
    with pytest.warns(UserWarning, match=r"step 40: Past\(\) needs the parameters one call before"):
        row = monitor(40)
    assert row is not None
    assert set(measured(row)) == {"step", "dead", "dead_count", "dead/1"}
    assert "update" in monitor(68)  # as regular as the last two


def test_parameters_before_training_may_be_given() -> None:
    model = counting()
    initial = {name: torch.full_like(p, 2.0) for name, p in model.named_parameters()}
    monitor = Monitor(model, X, diagnostics=(Past(),), initial=initial)
    initial["2.bias"].zero_()
    assert monitor(0)["initial"] == 2
    with pytest.raises(ValueError, match=r"expected initial to hold the parameters of the model, '0.bias' is missing"):
        Monitor(model, X, initial={"0.weight": model[0].weight})


def test_the_buffers_are_the_live_ones() -> None:
    model = batch_norm()
    model.eval()
    monitor = Monitor(model, X, diagnostics=(PredictiveEntropy(),), every=1)
    model.train()
    before = monitor(0)
    for _ in range(20):
        model(X * 5 + 3)
    statistics = copy.deepcopy(model[1].state_dict())
    after = monitor(1)
    assert_same(statistics, model[1].state_dict())
    expected = torch.distributions.Categorical(logits=model.eval()(X)).entropy().mean().item()
    assert after["entropy"] == pytest.approx(expected, rel=1e-5)
    assert after["entropy"] != pytest.approx(before["entropy"], rel=1e-3)


def test_defaults_are_what_needs_no_settings_and_can_be_measured() -> None:
    def names(**settings: Any) -> set[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {type(d).__name__ for d in Monitor(mlp(), **{"probe": (X, Y), **settings})._schedule}

    economy, business = names(tier="economy"), names(loss=F.cross_entropy)
    assert {"DeadUnits", "FeatureRanks", "LinearizedUnits", "ParameterNorm", "RelativeUpdate"} <= economy
    assert "DormantUnits" not in economy  # has no default threshold
    assert "GradientNorm" not in economy
    assert names() < names(loss=F.cross_entropy)
    assert "GradientNorm" in business
    costs = {cls.__name__: cls.cost for cls in registered()}
    assert {costs[name] for name in names(tier="full", loss=F.cross_entropy)} == {"economy", "business", "full"}
    assert {costs[name] for name in business} == {"economy", "business"}
    assert names(probe=X) <= names()


def test_ranks_of_weights_are_rarer_by_default_only() -> None:
    periods = {type(d).__name__: every for d, every in schedule(None, "full", 7, set()).items()}
    assert {name for name, every in periods.items() if every == 70} == {cls.__name__ for cls in RARER}
    assert set(periods.values()) == {7, 70}
    assert schedule((WeightRanks(),), None, 7, set()) == {WeightRanks(): 7}


def test_what_needs_a_loss_is_left_out_aloud_if_asked_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Monitor(mlp(), torch.randn(64, 4))
    with pytest.warns(UserWarning, match="left out: GradientNorm needs gradients: write Monitor") as said:
        monitor = Monitor(mlp(), X, diagnostics=(GradientNorm(), DeadUnits()))
    assert len(said) == 1
    assert list(monitor._schedule) == [DeadUnits()]


class Two(nn.Module):
    """Two inputs, of which one is whole numbers; a tuple as output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.policy, self.value = nn.Embedding(5, 4), nn.Linear(8, 6), *heads()

    def forward(self, tokens: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.inner(torch.cat([self.embed(tokens), x], 1)).relu()
        return self.policy(h), self.value(h)


def heads() -> tuple[nn.Module, nn.Module]:
    return nn.Linear(6, 3), nn.Linear(6, 1)


def test_a_model_that_is_all_frozen_is_measured_as_if_it_were_trained_and_says_so() -> None:
    model = EachRow(False)
    free = Monitor(model, (X, Y), loss=F.cross_entropy)(0)
    model.requires_grad_(False)
    with pytest.warns(
        UserWarning, match="no parameter of the model is trained: gradients, .* as if all were"
    ) as caught:
        monitor = Monitor(model, (X, Y), loss=F.cross_entropy, every=1)
    assert monitor(0) == free
    monitor(1)
    assert len(caught) == 1
    Monitor(model, X)(0)  # of activations alone nothing is to be said


class EachRow(nn.Module):
    """Layers that are written for one row, and mapped over the batch or called on it."""

    def __init__(self, mapped: bool) -> None:
        super().__init__()
        self.first, self.second, self.mapped = nn.Linear(4, 5), nn.Linear(5, 3), mapped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = lambda row: self.second(torch.relu(self.first(row)))  # noqa: E731
        return torch.vmap(one)(x) if self.mapped else one(x)


def test_layers_inside_a_vmap_of_the_forward_pass() -> None:
    whole, mapped = EachRow(False), EachRow(True)
    mapped.load_state_dict(whole.state_dict())
    expected = Monitor(whole, (X, Y), loss=F.cross_entropy)(0)
    with pytest.warns(UserWarning, match="left out") as caught:
        row = Monitor(mapped, (X, Y), loss=F.cross_entropy)(0)
    (said,) = [str(w.message) for w in caught]
    assert said == (
        "at the start: left out, as this probe cannot measure it: GradientAlignment, FeatureOffset, OutputBiasNorm: "
        "expected layers that read whole batches, got some inside a torch.vmap of the forward pass, which are not seen "
        "as layers: write them for whole batches, or leave this out"
    )
    assert row is not None
    assert expected is not None
    assert "gradient_saturated/relu" in row
    assert row == pytest.approx({name: expected[name] for name in row}, rel=1e-4, abs=1e-6)


class Halving(nn.Module):
    """A decision that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return self.second(h / 2 if h.max() > 1e9 else h)


def test_what_needs_single_examples_is_named_where_data_decide() -> None:
    monitor = Monitor(Halving(), (X, Y), loss=F.cross_entropy, diagnostics=(GradientCovariance(), EmpiricalNTK()))
    with pytest.warns(UserWarning, match="could not be measured and is missing") as caught:
        monitor(0)
    for kind, warning in zip(("GradientCovariance", "EmpiricalNTK"), caught, strict=True):
        assert re.fullmatch(
            rf"step 0: {kind}\(.*\) could not be measured and is missing: expected a network that torch.vmap runs an "
            r"example at a time, got one with a step that it has no rule for \(.*\): leave .* out",
            str(warning.message),
        )


@pytest.mark.parametrize("named", [True, False])
def test_several_inputs_whole_numbers_and_several_outputs(named: bool) -> None:
    torch.manual_seed(0)
    model, tokens = Two(), torch.arange(24) % 5
    x = {"tokens": tokens, "x": X} if named else Inputs((tokens, X), {})

    def loss(output: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output[0], y) + output[1].square().mean()

    with pytest.warns(UserWarning, match=r"left out, as this probe cannot measure it: Churn: .*; PredictiveEntropy: "):
        monitor = Monitor(model, (x, Y), loss=loss)
    loss(model(tokens, X), Y).backward()
    row = monitor(0)
    assert row is not None
    expected = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
    assert row["gradient_norm"] == pytest.approx(expected, rel=1e-5)
    assert row["rank_bound"] == 6
    assert "entropy" not in row  # of a tuple there is none
    with pytest.raises(ValueError, match=r"PredictiveEntropy\(\) cannot be measured on this probe: expected logits"):
        Monitor(model, x, diagnostics=(PredictiveEntropy(),))


def test_outputs_with_logits() -> None:
    class Output:
        def __init__(self, logits: torch.Tensor):
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: torch.Tensor) -> Output:
            return Output(self.inner(x))

    model = Wrapped()
    expected = torch.distributions.Categorical(logits=model.inner(X)).entropy().mean().item()
    assert Monitor(model, X, diagnostics=(PredictiveEntropy(),))(0)["entropy"] == pytest.approx(expected, rel=1e-5)


# -- bad input ---------------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(self.inner(x).relu(), 0.5, self.training))


OTHER = torch.optim.SGD(mlp().parameters(), lr=0.1)
BAD: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "dropout": (dropout, {}, r"Dropout '2' draws from the global random stream.*write Monitor\(model, ..., purify"),
    "batch norm": (batch_norm, {}, r"BatchNorm1d '1' updates running statistics.*write Monitor\(model, ..., purify=T"),
    "F.dropout": (Functional, {}, r"draws from the global random stream \(F.dropout\?\): write Monitor.*purify=True"),
    "linear": (lambda: nn.Linear(4, 3), {}, "no nonlinearity was seen in Linear: .*call one of these, or wrap"),
    "no parameters": (nn.ReLU, {}, "expected a model with parameters, ReLU has none"),
    "three parts": (mlp, {"probe": (X, X, Y)}, r"got 3 values: write probe=\(x, y\), and x = pliant.Inputs"),
    "wrong shape": (mlp, {"probe": X[:, :2]}, "the model cannot be called on the probe: .*shapes cannot be multiplied"),
    "no scalar": (mlp, {"loss": lambda o, y: (o[:, 0] - y) ** 2}, r"to be a scalar tensor, got shape \(24,\)"),
    "no tensor": (mlp, {"loss": lambda o, y: 1.0}, "to be a scalar tensor, got float"),
    "failing loss": (mlp, {"loss": lambda o, y: F.cross_entropy(o, y[:3])}, "the loss of the output and targets .*"),
    "every": (mlp, {"every": 0}, "expected a number of steps of at least 1, got every=0"),
    "period": (mlp, {"diagnostics": {DeadUnits(): 0.5}}, "expected a number of steps of at least 1, got every=0.5"),
    "tier": (mlp, {"tier": "cheap"}, "expected a tier of economy, business, full, got 'cheap'"),
    "both": (mlp, {"tier": "full", "diagnostics": (DeadUnits(),)}, "expected diagnostics or a tier, got both"),
    "class": (mlp, {"diagnostics": (DeadUnits,)}, r"expected diagnostics such as DeadUnits\(\), got <class"),
    "none": (mlp, {"diagnostics": ()}, "expected at least one diagnostic"),
    "stranger": (mlp, {"optimizer": OTHER}, "expected the optimizer of the model, got one of other parameters"),
    "twice": (mlp, {"diagnostics": (DeadUnits(), DeadUnits(0.1))}, "both measure 'dead': leave one of them out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_at_the_start_and_leaves_all_as_it_was(case: str) -> None:
    make, settings, message = BAD[case]
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(nn.ModuleList([model, nn.Linear(1, 1)]).parameters(), lr=0.1)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=message):
        Monitor(model, **{"probe": (X, Y), **settings})
    assert_same(before, everything(model, optimizer))


def test_purified_models_are_measured_without_dropout() -> None:
    model = dropout()
    expected = torch.distributions.Categorical(logits=copy.deepcopy(model).eval()(X)).entropy().mean().item()
    monitor = Monitor(model, X, diagnostics=(PredictiveEntropy(),), purify=True)
    assert monitor(0)["entropy"] == pytest.approx(expected, rel=1e-5)
    assert model.training


def test_a_small_probe_is_named_once_and_the_bound_reported() -> None:
    with pytest.warns(UserWarning, match="at the start: 6 samples are too few to measure the rank of 5") as said:
        monitor = Monitor(mlp(), X[:6], every=1)
    assert len(said) == 1
    for step in range(3):
        monitor(step)
    assert [row["rank_bound"] for row in monitor.rows] == [5, 5, 5]


def test_the_first_site_that_is_not_finite_is_named_once_and_numbers_stay_nan() -> None:
    torch.manual_seed(0)
    model = mlp()
    monitor = Monitor(model, (X, Y), loss=F.cross_entropy, diagnostics=(FeatureRanks(), ParameterNorm()), every=1)
    monitor(0)
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.warns(UserWarning, match="step 1: the activations are not finite .*first in what enters '3'"):
        row = monitor(1)
    assert row is not None
    assert np.isnan(row["effective_rank"])
    assert np.isnan(row["parameter_norm"])
    assert monitor(2) is not None  # no second warning


def test_steps_that_go_back_are_named() -> None:
    monitor = Monitor(mlp(), X, diagnostics=(DeadUnits(),), every=2)
    monitor(4)
    with pytest.warns(UserWarning, match="step 0 came after step 4"):
        monitor(0)


# -- where the rows go -------------------------------------------------------------------------------------------------


def test_files_hold_the_rows_and_are_continued(tmp_path: Any) -> None:
    def run(steps: range) -> list[dict[str, float]]:
        sinks = (JSONL(tmp_path / "a" / "rows.jsonl"), Parquet(tmp_path / "b" / "rows.parquet"))
        chosen = {DeadUnits(): 1, ParameterNorm(): 2}
        monitor = Monitor(counting(), X, diagnostics=chosen, sinks=sinks)
        for step in steps:
            monitor(step)
        lines = (tmp_path / "a" / "rows.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == steps[-1]  # there at once
        monitor.close()
        assert monitor.to_table().to_pylist()[-1]["step"] == steps[-1]
        return monitor.rows

    rows = run(range(30)) + run(range(30, 45))
    lines = [json.loads(line) for line in (tmp_path / "a" / "rows.jsonl").read_text().splitlines()]
    assert lines == [{k: None if np.isnan(v) else v for k, v in row.items()} for row in rows]
    assert any(value is None for value in lines[0].values())  # ratios to zero
    table = pyarrow.parquet.read_table(tmp_path / "b" / "rows.parquet")
    assert table.column("step").to_pylist() == list(range(45))
    assert table.schema.field("step").type == pyarrow.int64()
    assert table.column("norm_ratio").null_count == 22
    assert [n for n in table.column("parameter_norm").to_pylist() if n is not None] == [0.0] * 23
    assert len(list(tmp_path.glob("*/*"))) == 2  # no temporary file is left


def test_a_sink_that_fails_is_named_once_and_ends_nothing() -> None:
    calls: list[int] = []

    class Full(Sink):
        def write(self, row: dict[str, float]) -> None:
            calls.append(1)
            torch.rand(1)
            raise OSError("no space left")

        def __repr__(self) -> str:
            return "Full()"

    plain, _ = train(mlp)
    with pytest.warns(UserWarning, match=r"step 0: Full\(\) gets no more rows: no space left") as said:
        watched, monitor = train(mlp, watch=watching(sinks=[Full()]))
    assert_same(plain, watched)
    assert monitor is not None
    assert (len(said), len(calls), len(monitor.rows)) == (1, 1, 3)
    monitor.close()


# -- distributed -------------------------------------------------------------------------------------------------------


@pytest.fixture
def _group(tmp_path: Any) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_group")
def test_a_distributed_model_is_measured_on_rank_0_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap = nn.parallel.DistributedDataParallel
    plain, first = train(mlp, watch=watching())
    first_rank, monitor = train(mlp, watch=watching(), wrap=wrap)
    assert first is not None
    assert monitor is not None
    assert monitor.rows == first.rows
    assert_same(plain["state"], first_rank["state"])
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    idle = Monitor(dropout(), X, sinks=[JSONL("nowhere/rows.jsonl")])
    assert idle(0) is None
    idle.mark()
    idle.close()
    assert (idle.rows, idle.latest, idle.to_table().num_rows) == ([], {}, 0)


def test_the_public_name() -> None:
    assert pliant.Monitor is Monitor
    assert Monitor.__module__ == "pliant.monitor.monitor"


def test_a_line_that_was_cut_off_stays_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    JSONL(path).write({"step": 0, "dead": 0.5})
    path.write_bytes(path.read_bytes() + b'{"step": 1, "de')
    JSONL(path).write({"step": 2, "dead": 0.25})
    whole, cut, last = path.read_text().splitlines()
    assert (json.loads(whole)["step"], cut, json.loads(last)) == (0, '{"step": 1, "de', {"step": 2, "dead": 0.25})
    JSONL(path).write({"step": 3})
    assert len(path.read_text().splitlines()) == 4


def test_steps_that_are_measured_again_are_not_repeated(tmp_path: Path) -> None:
    first = Parquet(tmp_path / "rows.parquet")
    for step in range(0, 100, 10):
        first.write({"step": step, "dead": float(step)})
    first.close()
    resumed = Parquet(tmp_path / "rows.parquet")
    for step in (50, 60, 100):
        resumed.write({"step": step, "dead": step + 0.5})
    resumed.close()
    rows = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row["step"] for row in rows] == list(range(0, 101, 10))
    assert [row["dead"] for row in rows][4:] == [40.0, 50.5, 60.5, 70.0, 80.0, 90.0, 100.5]
