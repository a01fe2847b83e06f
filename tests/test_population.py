"""Members stacked along an axis: the same numbers as one at a time, whatever runs them."""

import copy
import gc
import math
import pickle
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

import pliant.population
from pliant.diagnostics import DeadUnits, Diagnostic, DormantUnits, FeatureRanks, GradientNorm, RelativeUpdate
from pliant.interventions import (
    L2,
    Chain,
    Change,
    Intervention,
    LayerNorm,
    ReDo,
    Scaled,
    ShrinkAndPerturb,
    WeightNormRescale,
)
from pliant.nets import CNN, MLP, Dropout, layer_norm
from pliant.network import Network
from pliant.optim import SAM, SGD, UPGD, Adam, RMSProp
from pliant.population import Member, Population

DIAGNOSTICS = [DeadUnits(), DormantUnits(tau=0.1), FeatureRanks(), GradientNorm(), RelativeUpdate()]


def tiny(norm=None):
    return Network(MLP(4, 3, hidden=(6, 5), norm=norm))


def images():
    return Network(CNN((2, 6, 6), 3, channels=(3, 4), hidden=(5,)))


def with_dropout():
    return Network(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Dropout(0.5), nn.Linear(6, 3)))


def large_images():
    return Network(CNN((2, 32, 32), 3, channels=(64, 64), hidden=(5,)))


class Branching(nn.Module):
    """What it computes depends on the data, so `vmap` cannot run it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(F.relu(x) if float(x.detach().sum()) > 0 else torch.tanh(x))


def batch(members, step, shape=(4,), size=16, dtype=torch.float64):
    """Each member's own batch, the same alone and in a crowd; labels that can be learned."""
    parts = [torch.Generator().manual_seed(1000 * m + step) for m in members]
    x = torch.stack([torch.randn(size, *shape, generator=g, dtype=torch.float64).to(dtype) for g in parts])
    return x, x.flatten(2)[..., :3].argmax(-1)


def train(population, members, steps, state=None, shape=(4,), start=0):
    state = population.init() if state is None else state
    losses = []
    for step in range(start, start + steps):
        losses.append(population.step(state, *batch(members, step, shape, dtype=population.dtype)).clone())
    return state, torch.stack(losses)


def build(network, members, dtype=torch.float64, **settings):
    return Population(network, F.cross_entropy, members, dtype=dtype, **settings)


def part(tree, m):
    return tree_map(lambda t: t[m].clone(), tree)


def equal(a, b):
    (left, first), (right, second) = tree_flatten(a), tree_flatten(b)
    return first == second and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -- alone and in a crowd ----------------------------------------------------------------------------------------------

CROWD = [Member(s, Adam(lr=10 ** (-3 + s / 8)), Chain(L2(10 ** (-4 + s / 4)))) for s in range(8)]
RESCALED = [Member(s, RMSProp(lr=1e-3 * (1 + s), centered=True), Chain(WeightNormRescale())) for s in range(3)]
NETS = {
    "MLP": (tiny, (4,), CROWD),
    "layer norm": (lambda: tiny(layer_norm), (4,), CROWD),
    "dropout": (with_dropout, (4,), CROWD),
    "two with dropout": (with_dropout, (4,), CROWD[:2]),
    "two that are rescaled": (tiny, (4,), RESCALED[:2]),
    "CNN": (images, (2, 6, 6), CROWD[:3]),
    "after each step": (tiny, (4,), RESCALED),
    "same optimizer": (tiny, (4,), [Member(s, Adam(lr=1e-2, eps_root=1e-4)) for s in range(3)]),
    "momentum": (tiny, (4,), [Member(s, SGD(lr=0.05 * (1 + s), momentum=0.9)) for s in range(3)]),
    "UPGD": (tiny, (4,), [Member(s, UPGD(lr=0.05, sigma=0.01)) for s in range(3)]),
    "several UPGD": (with_dropout, (4,), [Member(s, UPGD(lr=0.05, sigma=0.02 * s, beta=0.9)) for s in range(3)]),
    "SAM": (with_dropout, (4,), [Member(s, SAM(Adam(lr=1e-2), rho=0.1), Chain(L2(1e-3))) for s in range(3)]),
    "several SAM": (tiny, (4,), [Member(s, SAM(SGD(lr=0.1, momentum=0.5), rho=0.1 * s)) for s in range(3)]),
    "SAM around UPGD": (tiny, (4,), [Member(s, SAM(UPGD(lr=0.05), rho=0.1)) for s in range(3)]),
}


@pytest.mark.parametrize(("network", "shape", "members"), NETS.values(), ids=NETS)
def test_a_member_alone_equals_itself_in_a_crowd(network, shape, members):
    network = network()
    together = build(network, members)
    crowd, losses = train(together, range(len(members)), 200, shape=shape)
    assert together.mode == ("vmap" if len(members) > 2 else "loop")
    for m in (0, len(members) - 1):
        alone = build(network, [members[m]])
        state, alone_losses = train(alone, [m], 200, shape=shape)
        assert alone.mode == "single"
        close(part(crowd.params, m), part(state.params, 0))
        close(losses[:, m], alone_losses[:, 0])
    assert losses[-1].mean() < losses[0].mean()


def test_a_single_member_equals_plain_pytorch():
    network = tiny()
    state, losses = train(build(network, [Member(3, Adam(lr=1e-2))]), [0], 50)
    module = copy.deepcopy(network.module).double()
    module.load_state_dict(network.fresh(3))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for step in range(50):
        x, y = batch([0], step)
        loss = F.cross_entropy(module(x[0]), y[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        close(losses[step, 0], loss.detach(), 1e-12)
    for name, p in module.named_parameters():
        close(state.params[name][0], p.detach(), 1e-12)


@pytest.mark.parametrize(("network", "shape"), [(tiny, (4,)), (images, (2, 6, 6))], ids=["MLP", "CNN"])
def test_float32_gradients_agree_to_rounding(network, shape):
    network, members = network(), [Member(s, SGD(lr=0.1), Chain(L2(1e-3))) for s in range(5)]
    together = build(network, members, torch.float32)
    grads = together.gradients(together.init(), *batch(range(5), 0, shape, dtype=torch.float32))
    for m in range(5):
        alone = build(network, [members[m]], torch.float32)
        expected = alone.gradients(alone.init(), *batch([m], 0, shape, dtype=torch.float32))
        for name, g in expected.items():
            assert (grads[name][m] - g[0]).norm() <= 1e-5 * g.norm()


def test_gradients_are_those_of_loss_and_penalties():
    network, chain = tiny(), Chain(L2(0.1))
    population = build(network, [Member(s, SGD(lr=0.1), chain) for s in range(3)])
    state, (x, y) = population.init(), batch(range(3), 0)
    grads = population.gradients(state, x, y)
    for m in range(3):
        leaves = {name: p[m].clone().requires_grad_() for name, p in state.params.items()}
        loss = F.cross_entropy(network(leaves, x[m]), y[m])
        total = loss + 0.1 * sum(p.square().sum() for p in leaves.values())
        expected = torch.autograd.grad(total, list(leaves.values()))
        close(list(part(grads, m).values()), list(expected), 1e-13)
        close(
            population.step(copy.deepcopy(state), x, y)[m], loss.detach(), 1e-13
        )  # without penalties, before the step


@dataclass(frozen=True)
class Distance(Intervention):
    """A penalty without a closed form, with a state, and a step that does something only if asked to."""

    strength: float
    shrink: bool = False

    def init(self, network, params):
        return {name: p.clone() for name, p in params.items()}

    def penalty(self, network, params, state, seen):
        return self.strength * sum((p - state[name]).square().sum() for name, p in params.items())

    def after_step(self, network, params, moments, state, seen):
        return Change({n: 0.9 * p for n, p in params.items()}) if self.shrink else None


@pytest.mark.parametrize("size", [1, 2, 3], ids=["single", "loop", "vmap"])
def test_what_is_beside_the_losses_is_of_the_forward_pass_of_the_step(size):
    chain = Chain(ReDo(tau=0.1, every=1))  # which looks at the same pass
    members = [Member(seed, SGD(0.1), chain) for seed in range(size)]
    network = Network(MLP(4, 2, (8,)), example=torch.randn(3, 4))
    each = lambda output, y: (output - y).square().mean(-1)  # noqa: E731
    plain = Population(network, F.mse_loss, members, dtype=torch.float64)
    told = Population(network, F.mse_loss, members, dtype=torch.float64, beside=each)
    state, same = plain.init(), told.init()
    x, y = torch.randn(size, 5, 4, dtype=torch.float64), torch.randn(size, 5, 2, dtype=torch.float64)
    for _ in range(2):
        expected = each(told.outputs(same.params, x), y)
        losses, beside = told.advance(same, x, y)
        torch.testing.assert_close(beside, expected)
        assert torch.equal(plain.advance(state, x, y)[0], losses)
    assert all(torch.equal(p, same.params[name]) for name, p in state.params.items())
    assert plain.advance(state, x, y)[1] is None


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_penalties_through_autograd_and_steps_that_change_nothing(size, shrink):
    network = tiny()
    members = [Member(s, SGD(lr=0.1), Chain(Distance(0.1 * (1 + s), shrink))) for s in range(size)]
    state, _ = train(build(network, members), range(size), 3)
    for m in range(size):
        start = {name: p.double() for name, p in network.fresh(m).items()}
        params = {name: p.clone() for name, p in start.items()}
        for step in range(3):
            x, y = batch([m], step)
            leaves = {name: p.requires_grad_() for name, p in params.items()}
            distance = sum((p - start[name]).square().sum() for name, p in leaves.items())
            total = F.cross_entropy(network(leaves, x[0]), y[0]) + 0.1 * (1 + m) * distance
            grads = torch.autograd.grad(total, list(leaves.values()))
            factor = 0.9 if shrink else 1.0
            params = {n: factor * (p.detach() - 0.1 * g) for (n, p), g in zip(leaves.items(), grads, strict=True)}
        close(part(state.params, m), params, 1e-12)


@pytest.mark.parametrize("first", [0.0, 0.9])
def test_members_may_differ_in_any_number_of_the_optimizer(first):
    network = tiny()
    members = [Member(m, SGD(lr=0.1, momentum=momentum)) for m, momentum in enumerate((first, 0.9 - first, 0.5))]
    state, _ = train(build(network, members), range(3), 5)
    for m in range(3):
        alone, _ = train(build(network, [members[m]]), [m], 5)
        close(part(state.params, m), part(alone.params, 0))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("network", [tiny, with_dropout], ids=["MLP", "dropout"])
@pytest.mark.parametrize("base", [SGD(lr=0.1), Adam(lr=1e-2, eps_root=1e-4), UPGD(lr=0.1)], ids=["SGD", "Adam", "UPGD"])
def test_sam_that_goes_nowhere_is_its_base(base, network, size):
    """To the last bit: the second gradient is of the same batch and the same dropout."""
    plain, losses = train(build(network(), [Member(s, base, Chain(L2(1e-3))) for s in range(size)]), range(size), 10)
    members = [Member(s, SAM(base, rho=0.0), Chain(L2(1e-3))) for s in range(size)]
    state, same = train(build(network(), members), range(size), 10)
    assert equal(state.params, plain.params)
    assert equal(state.moments, plain.moments)
    assert torch.equal(losses, same)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("rhos", [(0.1, 0.1, 0.1), (0.1, 0.2, 0.3)], ids=["same", "different"])
def test_a_second_gradient_that_fails_leaves_the_parameters_as_they_were(size, rhos):
    calls = []

    def loss(output, target):
        calls.append(output)
        if len(calls) == 4:
            raise ArithmeticError
        return F.cross_entropy(output, target)

    members = [Member(s, SAM(Adam(lr=1e-2), rhos[s])) for s in range(size)]
    population = Population(tiny(), loss, members, dtype=torch.float64)
    state, _ = train(population, range(size), 1)
    before = copy.deepcopy(state)
    with pytest.raises(ArithmeticError):
        train(population, range(size), 1, state, start=1)
    assert equal((state.params, state.moments), (before.params, before.moments))
    assert state.step == before.step


def test_noise_is_the_members_own():
    """A function of its seed and the step: whoever else is there, and whatever else is drawn."""
    population = build(tiny(), [Member(s, UPGD(lr=1.0, sigma=1.0)) for s in (3, 3, 4)])
    state = population.init()
    state.params = tree_map(lambda p: torch.zeros_like(p), state.params)
    x, y = batch([0, 0, 0], 0)
    before, start = torch.get_rng_state(), copy.deepcopy(state.params)
    population.step(state, x, y)
    assert torch.equal(before, torch.get_rng_state())
    assert equal(part(state.params, 0), part(state.params, 1))
    moved = {2: torch.cat([(p[2] - p[0]).flatten() for p in state.params.values()])}
    first = copy.deepcopy(state.params)
    for step in (0, 1):
        state.step, state.params = step, copy.deepcopy(start)
        state.moments = population.init().moments
        population.step(state, x, y)
        moved[step] = torch.cat([(p - first[name]).flatten() for name, p in state.params.items()])
    assert (moved[2].abs() > 1e-3).float().mean() > 0.9
    assert (moved[0] == 0).all()
    assert (moved[1].abs() > 1e-3).float().mean() > 0.9


def test_start():
    network = tiny()
    population = build(network, [Member(s, Adam()) for s in (5, 6, 7)])
    state = population.init()
    for m, seed in enumerate((5, 6, 7)):
        assert equal(part(state.params, m), {name: p.double() for name, p in network.fresh(seed).items()})
    assert equal(state.params, state.initial)
    assert (state.step, state.diverged_at, len(population)) == (0, [-1, -1, -1], 3)
    before = copy.deepcopy(state.initial)
    _, losses = train(population, range(3), 3, state)
    assert equal(state.initial, before)
    assert not equal(state.params, before)
    assert state.step == 3
    assert losses[0, 0] != losses[0, 1]  # not one run twice


def test_two_seeds_differ_on_the_same_data():
    population = build(tiny(), [Member(s, Adam()) for s in range(3)])
    x, y = batch([0, 0, 0], 0)
    losses = population.step(population.init(), x, y)
    assert losses[0] != losses[1]


def test_memory_layout_of_the_inputs_does_not_matter():
    """Channels-last images have channels-last gradients."""
    population = build(images(), [Member(0, Adam(lr=1e-2))])
    state, other = population.init(), population.init()
    for step in range(3):
        x, y = batch([0], step, (2, 6, 6))
        population.step(state, x, y)
        population.step(other, x[0].contiguous(memory_format=torch.channels_last)[None], y)
    close(state.params, other.params)


def test_batch_normalisation_with_running_statistics_in_float64():
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    module(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    network = Network(module.eval())
    members = [Member(s, SGD(lr=0.1)) for s in range(3)]
    state, _ = train(build(network, members), range(3), 3)
    alone, _ = train(build(network, members[:1]), [0], 3)
    close(part(state.params, 0), part(alone.params, 0))
    assert equal(dict(network.module.named_buffers()), dict(module.named_buffers()))


# -- how it runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def compiler_warnings():
    """A compiler's own warnings are none of ours; what pliant warns of still fails the test."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="torch.compile failed|vmap cannot run")
        yield


@pytest.mark.parametrize("rho", [None, 0.1], ids=["Adam", "SAM"])
@pytest.mark.usefixtures("compiler_warnings")
def test_compiled_equals_eager(rho):
    network = Network(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    optimizers = [Adam(lr=1e-2 * (1 + s)) for s in range(3)]
    optimizers = optimizers if rho is None else [SAM(optimizer, rho) for optimizer in optimizers]
    members = [Member(s, optimizer, Chain(L2(1e-3 * s))) for s, optimizer in enumerate(optimizers)]
    compiled = build(network, members, compile=True)
    state, losses = train(compiled, range(3), 20)
    assert compiled.mode == "compiled"
    assert compiled._gradients._chosen != compiled._gradients._stacked
    eager_state, eager_losses = train(build(network, members), range(3), 20)
    close(state.params, eager_state.params)
    close(losses, eager_losses)
    x, y = batch(range(3), 0)
    close(compiled.gradients(state, x, y), build(network, members).gradients(eager_state, x, y))
    assert compiled.mode == "compiled"


def fails_at_once(function, **settings):
    raise RuntimeError("no compiler\nlong story")


def fails_when_called(function, **settings):
    def call(*args):
        raise KeyError("buf7")

    return call


@pytest.mark.parametrize(("broken", "reason"), [(fails_at_once, "no compiler"), (fails_when_called, "'buf7'")])
def test_a_failing_compiler_is_survived_with_a_warning(monkeypatch, broken, reason):
    monkeypatch.setattr(torch, "compile", broken)
    members = [Member(s, Adam(lr=1e-2)) for s in range(3)]
    population = build(tiny(), members, compile=True)
    with pytest.warns(UserWarning, match=f"torch.compile failed, the population runs eagerly: {reason}") as caught:
        state, _ = train(population, range(3), 3)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "\n" not in str(caught[0].message)
    assert population.mode == "vmap"
    assert equal(state.params, train(build(tiny(), members), range(3), 3)[0].params)


def test_a_compiler_that_takes_no_path_with_a_space_is_said_to_be_of_torch(monkeypatch):
    monkeypatch.setattr(torch, "compile", fails_at_once)
    monkeypatch.setattr(torch, "__file__", "/home/a user/torch/__init__.py")
    with pytest.warns(UserWarning, match=r"no path with a space, as is that of /home/a user/torch.*; install torch"):
        train(build(tiny(), [Member(s, Adam(lr=1e-2)) for s in range(2)], compile=True), range(2), 1)


def test_one_network_is_never_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", fails_at_once)
    population = build(tiny(), [Member(0, Adam())], compile=True)
    train(population, [0], 1)
    assert population.mode == "single"


@pytest.mark.parametrize("optimizer", [Adam, lambda lr: SAM(Adam(lr), rho=0.1)], ids=["Adam", "SAM"])
def test_what_has_no_vmap_rule_runs_as_a_loop_with_a_warning(optimizer):
    members = [Member(s, optimizer(1e-2 * (1 + s)), Chain(L2(1e-3))) for s in range(3)]
    network = Network(Branching())
    population = build(network, members)
    with pytest.warns(UserWarning, match="vmap cannot run this network, its members run in a loop") as caught:
        state, losses = train(population, range(3), 20)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert population.mode == "loop"
    for m in range(3):
        alone, alone_losses = train(build(network, [members[m]]), [m], 20)
        close(part(state.params, m), part(alone.params, 0), 1e-13)
        close(losses[:, m], alone_losses[:, 0], 1e-13)
    x, _ = batch(range(3), 0)
    assert population.outputs(state.params, x).shape == (3, 16, 3)
    assert torch.equal(population.outputs(state.params, x)[1], network(part(state.params, 1), x[1]))


@dataclass(frozen=True)
class Stubborn(Intervention):
    """Changes parameters in place, then does what has no rule for `vmap`."""

    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "weights"
    half: Literal["penalty", "step"]

    def penalty(self, network, params, state, seen):
        return 0.05 * sum(params[name].square().sum() for name in network.names)

    def penalty_gradient(self, network, params, state, seen):
        first, *others = network.names
        found = {name: Scaled(0.1, params[name]) for name in others}
        return found | {
            first: Scaled(0.1 if self.half == "step" else 0.1 + 0 * params[first].sum().item(), params[first])
        }

    def after_step(self, network, params, moments, state, seen):
        new = {name: params[name].mul_(0.9) for name in network.names}
        if self.half == "step":
            new[network.names[0]].mul_(1 + 0 * new[network.names[0]].sum().item())
        return Change(params=new)


@pytest.mark.parametrize(
    ("network", "shape", "size", "mode"),
    [
        (tiny, (4,), 2, "loop"),
        (tiny, (4,), 3, "vmap"),
        (with_dropout, (4,), 2, "loop"),
        (images, (2, 6, 6), 3, "vmap"),
        (large_images, (2, 32, 32), 3, "loop"),
    ],
)
def test_members_run_apart_where_a_cpu_is_faster_so(network, shape, size, mode):
    """Which changes no gradient: before the first step, they are those under `vmap`."""
    population = build(network(), [Member(s, Adam(), Chain(L2(0.1))) for s in range(size)])
    state, (x, y) = population.init(), batch(range(size), 0, shape)
    stacked = population.gradients(state, x, y)
    population.step(copy.deepcopy(state), x, y)
    assert population.mode == mode
    close(population.gradients(state, x, y), stacked, 1e-12)


@pytest.mark.parametrize("half", ["penalty", "step"])
@pytest.mark.filterwarnings("ignore:vmap cannot run this network")
def test_what_fails_half_way_under_vmap_is_done_once(half):
    members = [Member(s, SGD(lr=0.01), Chain(Stubborn(half))) for s in range(3)]
    population = build(tiny(), members)
    state, _ = train(population, range(3), 5)
    assert population.mode == "loop"
    for m in range(3):
        close(part(state.params, m), part(train(build(tiny(), [members[m]]), [m], 5)[0].params, 0), 1e-13)


@pytest.mark.parametrize("what", ["outputs", "trace", "measure", "gradients"])
@pytest.mark.filterwarnings("ignore:vmap cannot run this network")
def test_the_loop_serves_measurements_before_the_first_step(what):
    one_branch = Branching()
    nn.init.constant_(one_branch.a.bias, 100.0)
    network = Network(lambda: copy.deepcopy(one_branch))
    population = build(network, [Member(s, SGD(lr=0.1)) for s in range(3)])
    state, (x, y) = population.init(), batch(range(3), 0)
    found = {
        "outputs": lambda: population.outputs(state.params, x),
        "trace": lambda: population.trace(state, x).output,
        "measure": lambda: population.measure(DIAGNOSTICS[:3], state, x, y),
        "gradients": lambda: population.gradients(state, x, y),
    }[what]()
    assert all(len(t) == 3 for t in tree_flatten(found)[0])


def test_a_mistake_is_raised_plainly():
    """The loop is for what vmap cannot run, not for what is wrong."""
    population = build(tiny(), [Member(s, Adam()) for s in range(3)])
    x, y = batch(range(3), 0)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        population.step(population.init(), x[..., :3], y)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("what", ["step", "gradients", "outputs"])
def test_refuses_batches_without_a_member_axis(size, what):
    """A population of one must not take the first example for its batch."""
    network = Network(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    population = Population(network, F.mse_loss, [Member(s, Adam()) for s in range(size)])
    x, y = torch.ones(8, 4), torch.ones(8, 3)
    with pytest.raises(ValueError, match="with a member axis of length"):
        getattr(population, what)(population.init(), *((x,) if what == "outputs" else (x, y)))


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_is_a_function_of_seed_and_step():
    network = with_dropout()
    population = build(network, [Member(s, SGD(lr=0.0)) for s in (0, 0, 1)])
    state = population.init()
    state.params = tree_map(lambda p: p[:1].repeat(3, *[1] * (p.ndim - 1)), state.params)  # the same network thrice
    x, y = batch([0, 0, 0], 0)
    before = torch.get_rng_state()
    first, second = population.step(state, x, y), population.step(state, x, y)
    assert torch.equal(before, torch.get_rng_state())
    assert first[0] == first[1]
    assert first[0] != first[2]
    assert first[0] != second[0]
    state.step = 0
    assert torch.equal(population.step(state, x, y), first)
    found = population.outputs(state.params, x)
    assert torch.equal(found[0], found[2])  # off when looked at


def test_dropout_alone_after_a_measurement():
    """What is bound to the tensors forgets the last key."""
    population = build(with_dropout(), [Member(0, SGD(lr=0.0))])
    state, (x, y) = population.init(), batch([0], 0)
    quiet = population.gradients(state, x, y)
    noisy = population.step(state, x, y)
    assert equal(population.gradients(state, x, y), quiet)
    clear = F.cross_entropy(population.network(part(state.params, 0), x[0]), y[0])
    close(F.cross_entropy(population.outputs(state.params, x)[0], y[0]), clear)
    assert noisy[0] != clear


class DrawsItself(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(F.dropout(F.relu(self.a(x)), 0.5))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_refuses_draws_from_the_global_stream(size):
    population = build(Network(DrawsItself()), [Member(s, Adam()) for s in range(size)])
    with pytest.raises(ValueError, match=r"draws from the global random stream.*write pliant.nets.Dropout\(p\)"):
        train(population, range(size), 1)


class DrawsLater(nn.Module):
    """Draws from its third call on; with `decides`, `vmap` has no rule for it."""

    def __init__(self, decides, after):
        super().__init__()
        self.a, self.b, self.decides, self.after, self.calls = nn.Linear(4, 6), nn.Linear(6, 3), decides, after, 0

    def forward(self, x):
        self.calls += 1
        x = F.relu(self.a(x))
        if self.decides and x.sum().item() < 0:
            return self.b(-x)
        return self.b(F.dropout(x, 0.5) if self.calls > self.after else x)


@pytest.mark.parametrize(("size", "decides"), [(2, False), (3, True)], ids=["two members", "no rule"])
@pytest.mark.parametrize("after", [0, 4])
@pytest.mark.filterwarnings("ignore:vmap cannot run this network")
def test_a_loop_refuses_draws_as_vmap_does(size, decides, after):
    """At the first step, and later."""
    population = build(Network(DrawsLater(decides, after)), [Member(s, SGD(lr=0.1)) for s in range(size)])
    with pytest.raises(ValueError, match=r"draws from the global random stream.*write pliant.nets.Dropout\(p\)"):
        train(population, range(size), 9)


@pytest.mark.parametrize("size", [1, 3])
def test_outputs_that_draw_are_refused(size):
    population = build(Network(DrawsItself()), [Member(s, SGD(lr=0.1)) for s in range(size)])
    state, (x, y) = population.init(), batch(range(size), 0)
    for ask in (population.outputs, lambda params, x: population.trace(state, x)):
        with pytest.raises(ValueError, match="draws from the global random stream"):
            ask(state.params, x)
    with pytest.raises(ValueError, match="draws from the global random stream"):
        population.gradients(state, x, y)


# -- divergence --------------------------------------------------------------------------------------------------------


OPTIMIZERS = {"SGD": SGD, "Adam": Adam, "UPGD": UPGD, "SAM": lambda lr: SAM(Adam(lr), rho=0.1)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_diverging_member_is_frozen_and_the_others_do_not_notice(optimizer):
    """Inputs that overflow reach member 1 at step 5."""
    network, chain = tiny(), Chain(WeightNormRescale(), ShrinkAndPerturb(0.5, 0.1))
    members = [Member(s, optimizer(lr=0.01 * (1 + s)), chain) for s in range(3)]
    sick, healthy = build(network, members), build(network, members)
    state, other = sick.init(), healthy.init()
    for step in range(12):
        x, y = batch(range(3), step)
        if step == 5:
            at = part(state.params, 1)
        if step == 8:
            sick.fire(state, "task_switch")
            healthy.fire(other, "task_switch")
        spoiled = x.clone()
        spoiled[1] = math.inf if step >= 5 else x[1]
        losses = sick.step(state, spoiled, y)
        healthy.step(other, x, y)
        assert losses[[0, 2]].isfinite().all()
        for m in (0, 2):
            assert equal(part(state.params, m), part(other.params, m))
            assert equal(part(state.interventions, m), part(other.interventions, m))
    assert state.diverged_at == [-1, 5, -1]
    assert other.diverged_at == [-1, -1, -1]
    assert equal(part(state.params, 1), at)
    assert all(p.isfinite().all() for p in state.params.values())


def test_a_frozen_member_stays_frozen_when_its_loss_is_finite_again():
    population = build(tiny(), [Member(s, Adam(lr=1e-2)) for s in range(3)])
    state, (x, y) = population.init(), batch(range(3), 0)
    spoiled = x.clone()
    spoiled[0] = math.nan
    population.step(state, x, y)
    population.step(state, spoiled, y)
    at = part(state.params, 0)
    train(population, range(3), 3, state)
    assert state.diverged_at == [1, -1, -1]
    assert equal(part(state.params, 0), at)


def test_a_diverging_member_alone():
    population = build(tiny(), [Member(0, Adam(lr=1e-2))])
    state, _ = train(population, [0], 2)
    at, (x, y) = part(state.params, 0), batch([0], 2)
    for _ in range(3):
        population.step(state, x * math.nan, y)
    assert state.diverged_at == [2]
    assert equal(part(state.params, 0), at)


def test_a_learning_rate_that_explodes():
    population = build(tiny(), [Member(0, SGD(lr=0.1)), Member(1, SGD(lr=1e200)), Member(2, SGD(lr=0.1))])
    state, losses = train(population, range(3), 10)
    assert state.diverged_at[0] == -1
    assert losses[state.diverged_at[1] :, 1].isfinite().sum() == 0
    assert losses[: state.diverged_at[1], 1].isfinite().all()
    assert losses[:, 0].isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_gradient_that_overflows_under_a_finite_loss_shows_in_the_next_step(size):
    """The square root of zero has no slope: the member is marked a step later, and then stays as it is."""

    def loss(output, target):
        return (output - output.detach()).square().sum().sqrt()

    population = Population(tiny(), loss, [Member(s, SGD(lr=0.1)) for s in range(size)])
    state, (x, y) = population.init(), batch(range(size), 0, dtype=torch.float32)
    population.step(state, x, y)
    assert state.diverged_at == [-1] * size
    kept = {name: p.clone() for name, p in state.params.items()}
    population.step(state, x, y)
    assert state.diverged_at == [1] * size
    for name, p in state.params.items():
        torch.testing.assert_close(p, kept[name], rtol=0, atol=0, equal_nan=True)


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken(Diagnostic):
    needs: ClassVar[frozenset[str]] = frozenset({"trace", "gradients"})

    def measure(self, seen):
        raise ArithmeticError("broken")


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("network", [tiny, with_dropout], ids=["MLP", "dropout"])
def test_measuring_leaves_no_trace(network, size):
    members = [Member(s, Adam(lr=1e-2), Chain(L2(1e-3), WeightNormRescale())) for s in range(size)]
    watched, blind = build(network(), members), build(network(), members)
    state, other = watched.init(), blind.init()
    before = torch.get_rng_state()
    for step in range(5):
        x, y = batch(range(size), step)
        watched.measure(DIAGNOSTICS, state, x, y, update=state.params)
        watched.outputs(state.params, x)
        watched.trace(state, x)
        watched.gradients(state, x, y)
        with pytest.raises(ArithmeticError, match="broken"):
            watched.measure([Broken()], state, x, y)
        assert torch.equal(watched.step(state, x, y), blind.step(other, x, y))
        assert equal(state.params, other.params)
        assert equal(state.moments, other.moments)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.network.module.modules())


@pytest.mark.parametrize("network", [tiny, images], ids=["MLP", "CNN"])
def test_measurements_of_a_population_equal_a_loop(network):
    shape = (4,) if network is tiny else (2, 6, 6)
    members = [Member(s, Adam(lr=1e-2 * (1 + s)), Chain(L2(1e-3))) for s in range(3)]
    together = build(network(), members)
    state, _ = train(together, range(3), 3, shape=shape)
    update = {name: p - state.initial[name] for name, p in state.params.items()}
    x, y = batch(range(3), 9, shape)
    found = together.measure(DIAGNOSTICS, state, x, y, update)
    for m in range(3):
        alone = build(network(), [members[m]])
        one, _ = train(alone, [m], 3, shape=shape)
        change = {name: p - one.initial[name] for name, p in one.params.items()}
        expected = alone.measure(DIAGNOSTICS, one, x[m : m + 1], y[m : m + 1], change)
        assert list(expected) == list(found)
        for name, value in expected.items():
            torch.testing.assert_close(found[name][m], value[0], rtol=1e-8, atol=1e-8, equal_nan=True, msg=name)


def test_measure_asks_for_the_update_where_it_is_needed():
    population = build(tiny(), [Member(0, Adam())])
    with pytest.raises(ValueError, match="as update=, got None"):
        population.measure([RelativeUpdate()], population.init(), *batch([0], 0))


# -- wrong members -----------------------------------------------------------------------------------------------------

WRONG = {
    "none": ([], "at least one member, got none"),
    "optimizers": ([Member(0, Adam()), Member(1, SGD(lr=0.1))], "Adam with .* and SGD with"),
    "optimizers in SAM": ([Member(0, SAM(SGD(lr=0.1), 0.1)), Member(1, SAM(Adam(), 0.1))], "in SAM, got Adam and SGD"),
    "interventions": ([Member(0, Adam(), Chain(L2(0.1))), Member(1, Adam())], r"Adam with \(L2\)"),
    "order": (
        [Member(0, Adam(), Chain(L2(0.1), WeightNormRescale())), Member(1, Adam(), Chain(WeightNormRescale(), L2(1)))],
        "in numbers",
    ),
    "words": (
        [Member(s, Adam(), Chain(ShrinkAndPerturb(0.5, 0.1, event=event))) for s, event in enumerate("ab")],
        "differ in numbers only, got event='a'",
    ),
    "switches": (
        [Member(s, Adam(), Chain(L2(0.1, normalisers=bool(s)))) for s in range(3)],
        "differ in numbers only, got normalisers=False",
    ),
    "what was built": (
        [Member(s, Adam(), Chain(LayerNorm(eps=10 ** -(s + 3)))) for s in range(3)],
        "eps",  # one module serves all, so this difference would have no effect
    ),
}


@pytest.mark.parametrize(("members", "message"), WRONG.values(), ids=WRONG)
def test_refuses_members_that_cannot_share_one_population(members, message):
    with pytest.raises(ValueError, match=message):
        build(tiny(), members)


class Dying(nn.Module):
    """All hidden units are off where the first input is positive."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b((self.a(x) - 100.0 * (x[:, :1] > 0)).relu())


@pytest.mark.parametrize("size", [1, 3])
def test_what_dead_units_leave_in_the_optimizer_becomes_nothing(monkeypatch, size):
    """Adam's mean gradient of a dead unit decays to some 1e-45 and stays: rounding undoes the factor of 0.9."""

    def run():
        population = build(Network(Dying()), [Member(s, Adam(lr=1e-2)) for s in range(size)], torch.float32)
        state = population.init()
        for step in range(1100):
            x, y = batch(range(size), step % 7, dtype=torch.float32)
            x[:, :, 0] = -1.0 if step < 3 else 1.0
            population.step(state, x, y)
        return state, state.moments["exp_avg"]["a.weight"].abs().max()

    tiny = torch.tensor(1e-45)
    assert tiny * 0.9 == tiny > 0
    state, left = run()
    assert left == 0
    assert tiny * 0.9 == tiny > 0  # the caller's numbers are as they were
    monkeypatch.setattr(pliant.population, "flushed", nullcontext)
    slow, left = run()
    assert 0 < left < 1e-44
    assert equal(state.params, slow.params)


def test_steps_leave_the_callers_choice_about_tiny_numbers():
    population = build(tiny(), [Member(0, Adam())])
    state = population.init()
    torch.set_flush_denormal(True)
    try:
        population.step(state, *batch([0], 0))
        assert torch.tensor(1e-40) * 1 == 0
    finally:
        torch.set_flush_denormal(False)
    with pytest.raises(ValueError, match="member"):
        population.step(state, torch.ones(2, 16, 4), torch.zeros(2, 16))
    assert torch.tensor(1e-40) * 1 > 0


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(size, optimizer):
    chain = Chain(L2(1e-3), WeightNormRescale(), ShrinkAndPerturb(0.9, 0.1, moments="clear"))
    members = [Member(s, optimizer(lr=1e-2), chain) for s in range(size)]
    whole, _ = train(build(with_dropout(), members), range(size), 10)
    half, _ = train(build(with_dropout(), members), range(size), 5)
    later = build(with_dropout(), members)
    resumed, _ = train(later, range(size), 5, pickle.loads(pickle.dumps(half)), start=5)
    for a, b in ((whole.params, resumed.params), (whole.moments, resumed.moments)):
        assert equal(a, b)
    assert (resumed.step, resumed.diverged_at) == (whole.step, whole.diverged_at)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("how", ["the dict", "a tensor", "in place"])
def test_parameters_put_into_a_state_are_the_ones_trained(size, how):
    """A checkpoint may be loaded into a state after steps were taken."""
    population = build(tiny(), [Member(s, SGD(lr=0.1)) for s in range(size)])
    state, _ = train(population, range(size), 2)
    other = {name: p + 0.5 for name, p in state.params.items()}
    expected = {name: p.clone() for name, p in other.items()}
    if how == "the dict":
        state.params = other
    elif how == "a tensor":
        state.params.update(other)
    else:
        for name, p in other.items():
            state.params[name].copy_(p)
    x, y = batch(range(size), 7)
    losses = population.step(state, x, y)
    for m in range(size):
        close(losses[m], F.cross_entropy(population.network(part(expected, m), x[m]), y[m]))


def test_two_states_of_one_population_do_not_mix():
    population = build(tiny(), [Member(0, SGD(lr=0.1))])
    first, second = population.init(), population.init()
    for step in range(4):
        x, y = batch([0], step)
        population.step(first, x, y)
        if step < 2:
            population.step(second, x, y)
    expected, _ = train(population, [0], 2)
    assert equal(second.params, expected.params)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 3])
def test_steps_do_not_pile_up_memory(size, optimizer):
    members = [Member(s, optimizer(lr=1e-2 * (1 + s)), Chain(L2(1e-3), WeightNormRescale())) for s in range(size)]
    population = build(with_dropout(), members)
    state, _ = train(population, range(size), 3)

    def numbers():
        gc.collect()
        return sum(o.numel() for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter))

    before, places = numbers(), [p.data_ptr() for p in state.params.values()]
    x, y = batch(range(size), 3)
    for _ in range(20):
        population.step(state, x, y)
    del x, y
    assert numbers() <= before
    assert [p.data_ptr() for p in state.params.values()] == places
    assert not any(p.requires_grad for p in state.params.values())


# -- events ------------------------------------------------------------------------------------------------------------


def test_an_event_that_nobody_knows_changes_nothing():
    population = build(tiny(), [Member(s, Adam(), Chain(ShrinkAndPerturb(0.5, 0.5, event="a"))) for s in range(3)])
    state, _ = train(population, range(3), 2)
    before = copy.deepcopy((state.params, state.moments, state.interventions))
    population.fire(state, "b")
    assert equal((state.params, state.moments, state.interventions), before)
    population.fire(state, "a")
    assert not equal(state.params, before[0])


def test_events_draw_from_the_members_seed_and_the_step():
    network = tiny()
    population = build(network, [Member(s, Adam(), Chain(ShrinkAndPerturb(0.0, 1.0))) for s in (3, 3, 4)])
    state = population.init()
    population.fire(state, "task_switch")
    first = copy.deepcopy(state.params)
    assert equal(part(first, 0), part(first, 1))
    assert not equal(part(first, 0), part(first, 2))
    population.fire(state, "task_switch")
    assert equal(state.params, first)
    state.step = 1
    population.fire(state, "task_switch")
    assert not equal(part(state.params, 0), part(first, 0))
