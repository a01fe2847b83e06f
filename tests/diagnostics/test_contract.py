"""What every diagnostic in the package keeps, on every kind of network; a new file is tested without an entry here."""

import dataclasses
import inspect
import json
import re
import typing
from importlib.resources import files

import pytest
import torch
from torch import nn
from torch.func import vmap

from pliant.diagnostics import Diagnostic, Observation, registered
from pliant.network import Network
from tests.diagnostics.nets import NETS, inputs, mlp, observe, targets
from tests.listed import assert_public

VALUES = {float: 0.1, int: 2, bool: True}  # for settings without a default


def example(cls):
    types = typing.get_type_hints(cls)
    required = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    return cls(**{name: VALUES[types[name]] for name in required})


DIAGNOSTICS = [example(cls) for cls in registered()]
every_diagnostic = pytest.mark.parametrize("diagnostic", DIAGNOSTICS, ids=lambda d: type(d).__name__)
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())


def trained(net, seed, dtype=torch.float32):
    """Parameters, and initial ones they moved away from; none is zero, as a ratio to zero is NaN (see test_norms)."""
    initial = {name: p.to(dtype) + 0.01 for name, p in net.fresh(seed).items()}
    return {name: 1.5 * p + 0.01 for name, p in initial.items()}, initial


def tensors_of(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (tuple, list)) else ()
    return [tensor for child in children for tensor in tensors_of(child)]


def state_of(module):
    return {
        "tensors": {name: t.clone() for name, t in module.state_dict().items()},
        "gradients": {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None},
        "modes": [m.training for m in module.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "stream": torch.get_rng_state(),
    }


def doubled(tree):
    if isinstance(tree, torch.Tensor):
        return tree.double()
    if isinstance(tree, dict):
        return {key: doubled(child) for key, child in tree.items()}
    return type(tree)(*map(doubled, tree)) if isinstance(tree, tuple) else tree


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, dict):
            assert_same(value, after[key])
        else:
            assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key], key


@every_net
@every_diagnostic
def test_leaves_no_trace_and_measures_the_same_twice(diagnostic, make):
    module = make()
    module(inputs()).sum().backward()
    next(iter(module.children())).eval()
    net = Network(module, example=inputs())
    before, copied = state_of(module), state_of(net.module)
    seen = observe(net, *trained(net, 0), inputs())
    versions = [t._version for t in tensors_of(seen)]
    first = diagnostic.measure(seen)
    second = diagnostic.measure(seen)
    with pytest.raises(ValueError, match="write Observation"):
        diagnostic.measure(Observation(seen.params))
    assert_same(before, state_of(module))
    assert_same(copied, state_of(net.module))
    assert versions == [t._version for t in tensors_of(seen)]
    assert_same(first, second)


@every_net
@every_diagnostic
def test_values_are_finite_scalars_and_keep_their_bounds(diagnostic, make):
    net = Network(make(), example=inputs())
    found = diagnostic.measure(observe(net, *trained(net, 0), inputs()))
    assert found
    for name, value in found.items():
        assert value.shape == (), name
        assert value.isfinite(), name
        assert not value.requires_grad, name
    for name in (name for name in found if f"{name}_count" in found):  # the share of units
        assert 0 <= found[name] <= 1
        assert all(0 <= value <= 1 for key, value in found.items() if key.startswith(f"{name}/"))


@every_net
@every_diagnostic
def test_population_equals_a_loop(diagnostic, make):
    net, x = Network(make().double(), example=inputs(torch.float64)), inputs(torch.float64)
    members = [trained(net, seed, torch.float64) for seed in range(3)]

    def measure(params, initial):
        return diagnostic.measure(observe(net, params, initial, x))

    stacked = [{name: torch.stack([m[i][name] for m in members]) for name in members[0][i]} for i in range(2)]
    population = vmap(measure)(*stacked)
    for i, member in enumerate(members):
        alone = measure(*member)
        assert alone.keys() == population.keys()
        for name, value in alone.items():
            assert torch.allclose(population[name][i].double(), value.double(), rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize(
    "diagnostic",
    [d for d in DIAGNOSTICS if not hasattr(d, "seed")],  # these draw numbers for every sample
    ids=lambda d: type(d).__name__,
)
def test_the_order_of_the_samples_does_not_matter(diagnostic):
    net, x, y = Network(mlp().double(), example=inputs(torch.float64)), inputs(torch.float64), targets(torch.float64)
    params, initial = trained(net, 0, torch.float64)
    first = len(x) if not hasattr(diagnostic, "num_samples") else diagnostic.num_samples
    turned = torch.cat([torch.arange(first).flip(0), torch.arange(first, len(x))])
    before = diagnostic.measure(observe(net, params, initial, x, y))
    after = diagnostic.measure(observe(net, params, initial, x[turned], y[turned]))
    for name, value in before.items():
        assert torch.allclose(after[name].double(), value.double(), rtol=1e-8, atol=1e-10), name


@every_diagnostic
def test_a_broken_network_reads_otherwise(diagnostic):
    """A hidden layer of clones, dead, always on or read by nobody, in a network that grew; another mean of targets."""
    layers = nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    net, x, y = Network(nn.Sequential(*layers), example=inputs()), inputs(), targets()
    initial = {name: p + 0.01 for name, p in net.fresh(0).items()}
    gradients = observe(net, initial, initial, x, y).gradients
    params = {name: p - gradients[name] for name, p in initial.items()}
    broken = {name: 5 * p for name, p in params.items()}
    broken["3.weight"] = broken["3.weight"][:1].expand(6, -1).clone()
    broken["3.bias"] = torch.tensor([100.0, 100.0, 100.0, -100.0, -100.0, -100.0])
    broken["5.weight"] = broken["5.weight"] * torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    before, after = observe(net, params, initial, x, y), observe(net, broken, initial, x, y + 1)
    healthy, sick = diagnostic.measure(before), diagnostic.measure(after)
    assert healthy.keys() == sick.keys()
    assert any(not torch.allclose(value.double(), sick[name].double(), rtol=0.01) for name, value in healthy.items())


@every_net
@every_diagnostic
def test_float32_is_within_1e_4_of_float64(diagnostic, make):
    net = Network(make(), example=inputs())
    seen = observe(net, *trained(net, 0), inputs())
    single, double = diagnostic.measure(seen), diagnostic.measure(doubled(seen))
    for name, value in single.items():
        assert value.double().item() == pytest.approx(double[name].double().item(), rel=1e-4, abs=1e-7), name


@every_diagnostic
def test_reads_no_more_than_it_declares(diagnostic):
    assert diagnostic.needs <= set(Observation._fields)
    net = Network(NETS["mlp"](), example=inputs())
    seen = observe(net, *trained(net, 0), inputs())
    given = Observation(seen.params, **{name: getattr(seen, name) for name in diagnostic.needs})
    assert_same(diagnostic.measure(seen), diagnostic.measure(given))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e30, 1e-30])
@pytest.mark.parametrize("num_units", [1, 3])
@every_diagnostic
def test_finite_on_zero_constant_and_one_unit_activations(diagnostic, num_units, value):
    layers = [nn.Linear(m, n, bias=False) for m, n in ((2, num_units), (num_units, num_units), (num_units, 2))]
    x, y = torch.full((8, 2), value / 2), targets()[:8, :2]
    net = Network(nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]), example=x)
    params = {name: torch.ones_like(p) for name, p in net.params().items()}
    seen = observe(net, params, params, x, y)
    if value == 1e30 and diagnostic.cost == "full":  # a second derivative is its square, beyond float32
        seen = doubled(seen)
    for gradients in (seen.gradients, {name: torch.zeros_like(p) for name, p in seen.params.items()}):
        found = diagnostic.measure(seen._replace(gradients=gradients, update=seen.params))
        assert all(number.isfinite() for number in found.values()), found


@every_diagnostic
def test_round_trips_through_json_and_is_frozen(diagnostic):
    config = json.loads(json.dumps(dataclasses.asdict(diagnostic)))
    assert type(diagnostic)(**config) == diagnostic
    assert hash(diagnostic) == hash(type(diagnostic)(**config))
    assert type(diagnostic).__dataclass_params__.frozen


@every_diagnostic
def test_says_where_it_comes_from_and_shows_an_example(diagnostic):
    keys = re.findall(r"@\w+\{([^,\s]+),", files("pliant").joinpath("refs.bib").read_text())
    assert diagnostic.reference in keys
    assert diagnostic.cost in ("economy", "business", "full")
    assert ">>> " in inspect.getdoc(type(diagnostic))


def test_every_diagnostic_is_public():
    assert_public(registered())


def test_the_package_is_scanned(tmp_path, monkeypatch):
    """A new file is all it takes; abstract classes, helpers and imported names are no diagnostics."""
    import pliant.diagnostics

    (tmp_path / "newcomer.py").write_text(
        "from dataclasses import dataclass\n"
        "from pliant.diagnostics.base import Diagnostic\n"
        "from pliant.diagnostics.dead import DeadUnits\n"
        "class Abstract(Diagnostic): pass\n"
        "@dataclass(frozen=True)\n"
        "class Newcomer(Abstract):\n"
        "    def measure(self, seen): return {}\n"
    )
    known = registered()
    monkeypatch.setattr(pliant.diagnostics, "__path__", [*pliant.diagnostics.__path__, str(tmp_path)])
    assert [cls.__name__ for cls in registered() if cls not in known] == ["Newcomer"]
    assert len(known) == len(set(known))
    assert all(issubclass(cls, Diagnostic) for cls in known)


def test_column_names_do_not_clash():
    net = Network(NETS["residual"](), example=inputs())
    seen = observe(net, *trained(net, 0), inputs())
    names = [name for diagnostic in DIAGNOSTICS for name in diagnostic.measure(seen)]
    assert {name for name in names if names.count(name) > 1} == set(), "two diagnostics fill these columns"
