"""What cannot be measured is refused in one line, and nothing is touched, whatever happens."""

import pytest
import torch
from torch import nn

from pliant.heads import TwoHot
from pliant.optim import Adam
from pliant.probe import FreshLabels, Sines
from pliant.sites import Inputs
from tests.probe.setting import assert_same, inputs, perceptron, snapshot, trained
from tests.probe.test_measure import adam, measured


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x), x


def broken():
    model = perceptron()
    model[2].bias.data[0] = torch.nan
    return model


def far():
    model = perceptron(dtype=torch.float32)
    model[2].bias.data[1] = 1e6
    return model


REFUSED = {
    "no module": (lambda: (lambda x: x), {}, "expected an nn.Module, got function"),
    "no parameters": (nn.Tanh, {"optimizer": lambda _: Adam()}, "expected a model with parameters, got a Tanh"),
    "dropout": (lambda: nn.Sequential(perceptron(), nn.Dropout()), {}, "model.eval"),
    "batch norm": (lambda: nn.Sequential(perceptron(), nn.BatchNorm1d(2).double()), {}, "track_running_stats=False"),
    "NaN": (broken, {}, "expected finite outputs, got NaN or infinity from 'now'"),
    "NaN in a checkpoint": (
        perceptron, {"checkpoints": {"bad": broken().state_dict()}}, "got NaN or infinity from 'bad'"
    ),
    "tuple": (Pair, {}, "expected one tensor as the network's output, got tuple: write call=lambda"),
    "tuple, labels": (Pair, {"probe": FreshLabels(2)}, r"expected logits \(samples, 2\).* got tuple"),
    "classes": (perceptron, {"probe": FreshLabels(3)}, r"expected logits \(samples, 3\)"),
    "another architecture": (
        perceptron, {"fresh": lambda: perceptron(hidden=7)},
        r"expected the same architecture, got the model with \(6,\) where a fresh network has \(7,\) \(0.bias\)",
    ),
    "another depth": (perceptron, {"fresh": lambda: perceptron()[:1]}, "where a fresh network has nothing"),
    "another checkpoint": (
        perceptron, {"checkpoints": {"old": perceptron(hidden=7).state_dict()}},
        r"expected the same architecture, got old with \(7,\) where",
    ),
    "a checkpoint called fresh": (
        perceptron, {"checkpoints": {"fresh": perceptron().state_dict()}}, "another name of a checkpoint than 'fresh'"
    ),
    "no samples": (perceptron, {"inputs": None}, "expected inputs with samples along the first axis, got NoneType"),
    "one target": (perceptron, {"targets": 1}, "at least 2 targets, for an interval, got 1"),
    "no steps": (perceptron, {"steps": 0}, "steps of a refit to be at least 1, got 0"),
    "no batch": (perceptron, {"batch_size": 0}, "batch_size .* at least 1, got 0"),
    "amsgrad": (perceptron, {"optimizer": lambda p: torch.optim.Adam(p, amsgrad=True)}, "without amsgrad"),
    "unknown optimizer": (perceptron, {"optimizer": torch.optim.Adagrad}, "got Adagrad"),
    "no optimizer": (perceptron, {"optimizer": lambda p: None}, "got NoneType"),
    "plain SGD to carry": (
        perceptron, {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1), "carry": True},
        r"with state to carry, got SGD\(lr=0.1, momentum=0, nesterov=False\), which never has any: leave carry out",
    ),
    "an offset that hides the sine": (
        lambda: perceptron(dtype=torch.float32),
        {"inputs": inputs(dtype=torch.float32), "probe": Sines(offset=-2e5)},
        r"sines that show in the targets, got torch.float32 with an offset of 2e\+05, where it goes in steps of 0.024",
    ),
    "an offset beyond float32": (
        lambda: perceptron(dtype=torch.float32),
        {"inputs": inputs(dtype=torch.float32), "probe": Sines(offset=1e39)},
        r"with an offset of 1e\+39, where it goes in steps of .*, a phase error of up to .* rad: write",
    ),
    "a frequency beyond float32": (
        lambda: perceptron(dtype=torch.float32),
        {"inputs": inputs(dtype=torch.float32), "probe": Sines(frequency=1e39)},
        r"a frequency whose phases torch.float32 can hold, got 1e\+39, with which they overflow",
    ),
    "a mean that hides the sine": (
        far, {"inputs": inputs(dtype=torch.float32)}, r"an offset of 1e\+06, .* write model.double\(\), or probe=Sines"
    ),
    "a number among the inputs": (
        perceptron, {"inputs": Inputs((inputs(),), {"scale": 2.0})},
        r"expected tensors as inputs, got a float \(2.0\) among them: write torch.tensor\(...\) for a number",
    ),
    "a number in a dict": (perceptron, {"inputs": {"x": inputs(), "flag": True}}, r"got a bool \(True\) among them"),
    "bins": (perceptron, {"probe": Sines(head=TwoHot(0.0, 1.0, 3))}, r"expected outputs of shape .* got \(24, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, settings, message):
    model, settings = make(), dict(settings)
    own = adam(model.parameters()) if "optimizer" not in settings and isinstance(model, nn.Module) else None
    if "optimizer" in settings:
        settings["optimizer"] = settings["optimizer"](model.parameters())
    before = snapshot(model, own) if isinstance(model, nn.Module) else None
    with pytest.raises(ValueError, match=message) as caught:
        measured(model, **({"optimizer": own or Adam(1e-2)} | settings))
    assert "\n" not in str(caught.value)
    if before is not None:
        assert_same(snapshot(model, own), before)


def test_nothing_is_touched():
    torch.manual_seed(3)
    model, x = nn.Sequential(perceptron(), nn.BatchNorm1d(2).eval().double()), inputs()
    optimizer = trained(model, adam, x)
    model(x).sum().backward()
    handle = model.register_forward_hook(lambda *_: None)
    before, x_before = snapshot(model, optimizer), x.clone()
    measured(model, x, optimizer=optimizer, carry=True, checkpoints={"then": model.state_dict()})
    assert_same(snapshot(model, optimizer), before)
    assert torch.equal(x, x_before)
    handle.remove()


def test_nothing_is_touched_by_a_failure_on_the_way():
    class Failing(Sines):
        def score(self, output, y):
            raise RuntimeError("on the way")

    model, x = perceptron(), inputs()
    optimizer = trained(model, adam, x)
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="on the way"):
        measured(model, x, optimizer=optimizer, probe=Failing())
    assert_same(snapshot(model, optimizer), before)


def test_offsets_that_show_in_the_dtype_are_taken():
    model = perceptron(dtype=torch.float32)
    x = inputs(dtype=torch.float32)
    assert measured(model, x, probe=Sines(offset=5e4)).baseline.mean() > 0.3
    assert measured(far().double(), x.double()).baseline.mean() > 0.3


class Nodes(nn.Module):
    """A graph: its edges, `(edges, 2)`, are an input, or part of it."""

    def __init__(self, edges=None):
        super().__init__()
        self.first, self.second, self.edges = nn.Linear(4, 6), nn.Linear(6, 2), edges
        self.double()

    def forward(self, x, edges=None):
        edges = self.edges if edges is None else edges
        h = self.first(x).relu()
        return self.second(torch.zeros_like(h).index_add(0, edges[:, 1], h[edges[:, 0]]))


class Capacity(nn.Module):
    """Two experts, each for the first rows that choose it, as many as half of the batch."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList(nn.Linear(4, 2) for _ in range(2))
        self.double()

    def forward(self, x):
        chosen, out = self.gate(x).argmax(-1), torch.zeros_like(x[:, :2])
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero()[: len(x) // 4, 0]
            out = out.index_copy(0, rows, expert(x[rows]))
        return out


RING = torch.stack([torch.arange(24), (torch.arange(24) + 9) % 24], 1)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (lambda: Nodes(), Inputs((inputs(), RING), {}), r"on all inputs, not on some of them \(.*\): samples"),
        (lambda: Nodes(), Inputs((inputs(), RING % 4), {}), "do not depend on the order of the samples, got others"),
        (lambda: Nodes(RING), inputs(), r"on all inputs, not on some of them \(.*nodes of a graph"),
        (lambda: Nodes(RING[:4] % 4), inputs(4), "do not depend on the order of the samples"),
        (Capacity, inputs(), "do not depend on the order of the samples"),
    ],
    ids=["as many edges as nodes", "among the first nodes", "edges in the module", "a small graph", "capacity"],
)  # fmt: skip
@pytest.mark.parametrize("probe", [None, FreshLabels(2)], ids=["sines", "labels"])
def test_samples_that_depend_on_each_other(model, x, message, probe):
    with pytest.raises(ValueError, match=message):
        measured(model(), x, probe=probe)


def test_statistics_of_the_batch_do_not_depend_on_its_order():
    standardised = nn.Sequential(perceptron(hidden=5), nn.BatchNorm1d(2, track_running_stats=False).double())
    assert measured(standardised).names == ("now",)


class Drawing(nn.Module):
    """A policy that draws its action."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2).double()

    def forward(self, x):
        mean = self.layer(x)
        return mean + torch.randn_like(mean)


@pytest.mark.parametrize("probe", [None, FreshLabels(2)], ids=["sines", "labels"])
def test_what_draws_is_not_taken_for_samples_that_depend_on_each_other(probe):
    stream = torch.get_rng_state()
    with pytest.raises(ValueError, match="draws from the global random stream"):
        measured(Drawing(), probe=probe)
    torch.set_rng_state(stream)
