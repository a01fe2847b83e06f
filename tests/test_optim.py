"""Optimizers against torch.optim and against naive transcriptions; one tensor, many, a stack, and in a user's loop."""

import copy
import dataclasses
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pliant.interventions import L2, Chain, Draw
from pliant.network import Network
from pliant.optim import SAM, SGD, UPGD, Adam, Clipped, Muon, RMSProp, Shampoo, TorchOptimizer
from pliant.optim.base import noise_generator
from pliant.population import Member, Population
from tests.reference import optimizers as naive

SHAPES = {"weight": (3, 4), "bias": (4,), "scalar": ()}
STEPS = 100

TORCH = {
    "SGD": (SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (SGD(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "Nesterov": (
        SGD(lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "Adam": (Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    "Adam of P1": (
        Adam(lr=0.01, betas=(0.8, 0.9), eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.9), eps=1e-3),
    ),
    "Adam without memory": (Adam(lr=0.01, betas=(0, 0)), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.0, 0.0))),
    "RMSProp": (RMSProp(lr=0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "RMSProp centered": (
        RMSProp(lr=0.01, alpha=0.95, eps=1e-5, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.95, eps=1e-5, centered=True),
    ),
    "RMSProp with momentum": (
        RMSProp(lr=0.01, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    ),
    "RMSProp with all": (
        RMSProp(lr=0.01, centered=True, momentum=0.5),
        lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    ),
}
EVERY = {name: ours for name, (ours, _) in TORCH.items()} | {
    "Adam with eps_root": Adam(lr=0.01, betas=(0.9, 0.9), eps_root=1e-3),
    "RMSProp with eps_root": RMSProp(lr=0.01, alpha=0.95, eps=0.0, eps_root=1e-3, centered=True),
    "UPGD": UPGD(lr=0.1, beta=0.9, sigma=0.0),
    "SAM": SAM(Adam(lr=0.01), rho=0.05),
    "Shampoo": Shampoo(lr=0.01, every=2),
    "clipped": Clipped(Adam(lr=0.01), norm=0.5),
}
every = pytest.mark.parametrize("optimizer", EVERY.values(), ids=EVERY)


def start(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def gradients(step, dtype=torch.float64):
    """Noisy gradients whose size changes, with exact zeros."""
    generator = torch.Generator().manual_seed(100 + step)
    scale = 10.0 ** (step % 5 - 3)
    found = {name: scale * torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}
    found["weight"][0] = 0
    return found


def run(optimizer, steps=STEPS, dtype=torch.float64):
    params = start(dtype)
    moments = optimizer.init(params)
    for step in range(steps):
        optimizer.update(params, gradients(step, dtype), moments)
    return params, moments


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize(("ours", "theirs"), TORCH.values(), ids=TORCH)
def test_equals_torch_optim(ours, theirs, dtype, tolerance):
    params = start(dtype)
    optimizer = theirs(list(params.values()))
    for step in range(STEPS):
        for p, g in zip(params.values(), gradients(step, dtype).values(), strict=True):
            p.grad = g
        optimizer.step()
    found, moments = run(ours, dtype=dtype)
    for name, p in params.items():
        torch.testing.assert_close(found[name], p, rtol=tolerance, atol=tolerance)
        for kind, value in optimizer.state[p].items():
            ours_value = moments[kind]["" if kind == "step" else name] if kind in moments else None
            if ours_value is not None:
                torch.testing.assert_close(ours_value, value, rtol=10 * tolerance, atol=tolerance)
    assert set(moments) <= set(optimizer.state[params["weight"]])


@pytest.mark.parametrize("name", ["momentum", "Adam", "RMSProp with all"])
def test_equals_torch_optim_on_complex_parameters(name):
    ours, theirs = TORCH[name]
    start, generator = torch.randn(3, 4, dtype=torch.complex128), torch.Generator().manual_seed(0)
    p, params = start.clone(), {"w": start.clone()}
    optimizer, moments = theirs([p]), ours.init(params)
    for _ in range(10):
        turned = torch.randn(4, 3, dtype=p.dtype, generator=generator).mH  # a view, as autograd returns them
        p.grad = turned.resolve_conj()
        ours.update(params, {"w": turned}, moments)
        optimizer.step()
    torch.testing.assert_close(params["w"], p, rtol=1e-13, atol=1e-13)


MUON = {
    "as torch has it": (Muon(lr=0.02), {"lr": 0.02}),
    "plain momentum": (
        Muon(lr=0.02, weight_decay=0.0, momentum=0.9, nesterov=False),
        {"lr": 0.02, "weight_decay": 0.0, "momentum": 0.9, "nesterov": False},
    ),
    "as large as AdamW's": (
        Muon(lr=0.02, adjust="match_rms_adamw", iterations=3, coefficients=(3.0, -3.5, 1.5)),
        {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "ns_coefficients": (3.0, -3.5, 1.5)},
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("ours", "theirs"), MUON.values(), ids=MUON)
def test_muon_equals_that_of_torch(ours, theirs, dtype):
    drawn = torch.Generator().manual_seed(0)
    params = {f"{r}x{c}": torch.randn(r, c, generator=drawn, dtype=dtype) for r, c in ((3, 7), (7, 3), (4, 4))}
    copies = {name: p.clone() for name, p in params.items()}
    optimizer, moments = torch.optim.Muon(copies.values(), **theirs), ours.init(params)
    for _ in range(STEPS):
        grads = {name: torch.randn(p.shape, generator=drawn, dtype=dtype) for name, p in params.items()}
        for name, p in copies.items():
            p.grad = grads[name].clone()
        optimizer.step()
        ours.update(params, grads, moments)
    for name, p in copies.items():
        assert torch.equal(params[name], p)
        assert torch.equal(moments["momentum_buffer"][name], optimizer.state[p]["momentum_buffer"])


def test_muon_takes_matrices_alone():
    optimizer = Muon(lr=0.1)
    params = {"bias": torch.ones(3)}
    with pytest.raises(ValueError, match=r"expected matrices, got bias of shape \(3,\): Muon takes no other"):
        optimizer.update(params, {"bias": torch.ones(3)}, optimizer.init(params))
    with pytest.raises(ValueError, match=r"expected adjust of Muon to be 'original' or 'match_rms_adamw', got 'adamw'"):
        Muon(lr=0.1, adjust="adamw")


def test_a_member_with_muon_is_one_network():
    """The leading axis of a population is no axis of its matrices."""
    net, x = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)), torch.randn(8, 3)
    network, y = Network(net), torch.randn(8, 2)
    for count in (1, 2):
        population = Population(network, F.mse_loss, [Member(seed, Muon(lr=0.1)) for seed in range(count)])
        state = population.init()
        alone = copy.deepcopy(net)
        with torch.no_grad():
            for name, p in alone.named_parameters():
                p.copy_(state.params[name][0])
        optimizer = torch.optim.Muon(alone.parameters(), lr=0.1)
        for _ in range(3):
            population.step(state, x.expand(count, -1, -1), y.expand(count, -1, -1))
            optimizer.zero_grad()
            F.mse_loss(alone(x), y).backward()
            optimizer.step()
        for name, p in alone.named_parameters():
            torch.testing.assert_close(state.params[name][0], p.detach(), rtol=1e-2, atol=1e-3)  # in bfloat16


def naive_adam(w, grads, lr, b1, b2, eps, eps_root):
    """P1 eq. 6, one number at a time: u_t = lr m_hat / (sqrt(v_hat + eps_root) + eps)."""
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w -= lr * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t) + eps_root) + eps)
    return w


def naive_rmsprop(w, grads, lr, alpha, eps, eps_root, centered, momentum):
    v = mean = b = 0.0
    for g in grads:
        v = alpha * v + (1 - alpha) * g * g
        mean = alpha * mean + (1 - alpha) * g
        b = momentum * b + g / (math.sqrt(v - (mean**2 if centered else 0) + eps_root) + eps)
        w -= lr * b
    return w


def check_against(naive, optimizer):
    params, _ = run(optimizer)
    history = [gradients(step) for step in range(STEPS)]
    for name, p in params.items():
        for i, found in enumerate(p.flatten().tolist()):
            grads = [g[name].flatten()[i].item() for g in history]
            assert found == pytest.approx(naive(start()[name].flatten()[i].item(), grads), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-2])
@pytest.mark.parametrize("betas", [(0.9, 0.9), (0.9, 0.999), (0.0, 0.0)])
def test_adam_with_eps_root_equals_the_naive_transcription(betas, eps):
    optimizer = Adam(lr=0.01, betas=betas, eps=eps, eps_root=1e-3)
    check_against(lambda w, grads: naive_adam(w, grads, 0.01, *betas, eps, 1e-3), optimizer)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_with_eps_root_equals_the_naive_transcription(centered, momentum):
    optimizer = RMSProp(lr=0.01, alpha=0.95, eps=1e-3, eps_root=1e-2, centered=centered, momentum=momentum)
    check_against(lambda w, grads: naive_rmsprop(w, grads, 0.01, 0.95, 1e-3, 1e-2, centered, momentum), optimizer)


@pytest.mark.parametrize("norm", [0.05, 1.0, 1e6])
def test_clipped_gradients_have_the_length_of_a_whole_network_at_most(norm):
    params, moments = start(), RMSProp(lr=0.01).init(start())
    for step in range(10):
        grads = gradients(step)
        length = math.sqrt(sum((g**2).sum().item() for g in grads.values()))
        RMSProp(lr=0.01).update(params, {k: g * min(1.0, norm / length) for k, g in grads.items()}, moments)
    found, clipped = start(), Clipped(RMSProp(lr=0.01), norm=norm)
    moments = clipped.init(found)
    for step in range(10):
        clipped.update(found, gradients(step), moments)
    for name, p in params.items():
        torch.testing.assert_close(found[name], p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("base", "norm"), [(Adam(), 0.0), (Adam(), math.nan), (0.1, 1.0)])
def test_clipping_that_makes_no_sense_is_refused(base, norm):
    with pytest.raises(ValueError, match=r"expected (norm|base) of Clipped to be"):
        Clipped(base, norm)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_the_rmsprop_of_dqn_zoo_has_its_epsilon_in_the_root(size):
    """g / sqrt(v - m^2 + eps), moments from zero, no correction of their bias, in float64."""
    zoo = RMSProp(2.5e-4, alpha=0.95, eps=0.0, eps_root=0.01 / 32**2, centered=True)
    grads = [size * math.sin(1.7 * step) for step in range(50)]
    w, m, v = 0.3, 0.0, 0.0
    for g in grads:
        m, v = m + 0.05 * (g - m), v + 0.05 * (g * g - v)
        w -= 2.5e-4 * g / math.sqrt(v - m * m + 9.765625e-6)

    def end(optimizer):
        params = {"w": torch.tensor([0.3], dtype=torch.float64)}
        moments = optimizer.init(params)
        for g in grads:
            optimizer.update(params, {"w": torch.tensor([g], dtype=torch.float64)}, moments)
        return params["w"].item()

    assert end(zoo) == pytest.approx(w, rel=1e-13)
    moved, outside = abs(w - 0.3), abs(end(dataclasses.replace(zoo, eps=9.765625e-6, eps_root=0.0)) - 0.3)
    assert outside / moved == pytest.approx(1.0, abs=0.01) if size == 1.0 else outside > 3 * moved


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    grads=st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=1, max_size=8),
    lr=st.floats(0, 1),
    betas=st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)),
    eps=st.floats(1e-10, 1),
    eps_root=st.sampled_from([0.0, 1e-8, 1e-3, 1.0]),
)
def test_adam_equals_the_naive_transcription_for_any_settings(grads, lr, betas, eps, eps_root):
    optimizer, params = Adam(lr, betas, eps, eps_root), {"w": torch.ones(1, dtype=torch.float64)}
    moments = optimizer.init(params)
    for g in grads:
        optimizer.update(params, {"w": torch.tensor([g], dtype=torch.float64)}, moments)
    assert params["w"].item() == pytest.approx(naive_adam(1.0, grads, lr, *betas, eps, eps_root), rel=1e-6, abs=1e-9)


def test_a_vanishing_eps_root_is_none():
    """The two code paths meet."""
    with_root, _ = run(Adam(lr=0.01, eps_root=1e-200))
    without, _ = run(Adam(lr=0.01))
    for name, p in without.items():
        torch.testing.assert_close(with_root[name], p, rtol=1e-12, atol=1e-12)


def test_eps_is_not_eps_root():
    """After one step with a gradient of 1e-4: 1e-4 / (1e-4 + 1e-3) against 1e-4 / sqrt(1e-8 + 1e-3)."""
    moved = {}
    for name in ("eps", "eps_root"):
        params = {"w": torch.zeros(1, dtype=torch.float64)}
        optimizer = Adam(lr=1.0, **{"eps": 0.0, name: 1e-3})
        optimizer.update(params, {"w": torch.full((1,), 1e-4, dtype=torch.float64)}, optimizer.init(params))
        moved[name] = -params["w"].item()
    assert moved["eps"] == pytest.approx(1 / 11)
    assert moved["eps_root"] == pytest.approx(1e-4 / math.sqrt(1e-8 + 1e-3))
    assert moved["eps"] > 20 * moved["eps_root"]


@every
def test_writes_into_the_buffers_handed_over(optimizer):
    params = start()
    moments = optimizer.init(params)
    tensors = [*params.values(), *(m for group in moments.values() for m in group.values())]
    places = [t.data_ptr() for t in tensors]
    for step in range(3):
        optimizer.update(params, gradients(step), moments)
    assert [t.data_ptr() for t in tensors] == places
    assert all((params[name] != start()[name]).any() for name in params)


@every
def test_moments_have_one_structure_from_init_on(optimizer):
    def structure(moments):
        return {kind: {n: (m.shape, m.dtype) for n, m in group.items()} for kind, group in moments.items()}

    params = start()
    moments = optimizer.init(params)
    assert all((m == 0).all() for group in moments.values() for m in group.values())
    assert all(list(group) == list(params) for kind, group in moments.items() if kind != "step")
    before = structure(moments)
    optimizer.update(params, gradients(0), moments)
    assert structure(moments) == before


@every
def test_a_stack_equals_its_parts_where_it_says_so(optimizer):
    """Elementwise: a population's tensors go through the same code, to the last bit."""
    stacked = {name: torch.stack([p, 2 * p, -p]) for name, p in start().items()}
    parts = [{name: p[m].clone() for name, p in stacked.items()} for m in range(3)]
    together, alone = optimizer.init(stacked), [optimizer.init(part) for part in parts]
    for step in range(10):
        grads = {name: torch.stack([g, g.square(), -3 * g]) for name, g in gradients(step).items()}
        for m in range(3):
            optimizer.update(parts[m], {name: g[m].clone() for name, g in grads.items()}, alone[m])
        optimizer.update(stacked, grads, together)
    equal = [torch.equal(stacked[name][m], parts[m][name]) for name in stacked for m in range(3)]
    assert all(equal) if optimizer.elementwise else not any(equal)


@every
def test_views_are_updated_in_place(optimizer):
    """One member's part of a population is a view."""
    stacked = {name: torch.stack([p, p]) for name, p in start().items()}
    part = {name: p[1] for name, p in stacked.items()}
    optimizer.update(part, gradients(0), optimizer.init(part))
    alone, _ = run(optimizer, steps=1)
    for name, p in stacked.items():
        assert torch.equal(p[0], start()[name])
        assert torch.equal(p[1], alone[name])


@every
def test_gradients_may_share_memory(optimizer):
    """Autograd hands out one tensor for both terms of W + W'."""
    params = {"a": torch.zeros(3, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}
    expected, shared = {n: p.clone() for n, p in params.items()}, {n: p.clone() for n, p in params.items()}
    first, second = optimizer.init(expected), optimizer.init(shared)
    for step in range(3):
        g = torch.tensor(float(step + 1), dtype=torch.float64).expand(3)
        optimizer.update(expected, {"a": g.clone(), "b": g.clone()}, first)
        one = g.clone()
        optimizer.update(shared, {"a": one, "b": one}, second)
    assert torch.equal(shared["a"], expected["a"])
    assert torch.equal(shared["b"], expected["b"])


LAYOUTS = {
    "transposed": lambda g: g.t().contiguous().t(),
    "expanded": lambda g: g[:1].clone().expand(3, 4),
    "a slice": lambda g: torch.stack([g, g], -1)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@every
def test_gradients_may_have_any_memory_layout(optimizer, layout):
    """Autograd promises none: a convolution of channels-last images has channels-last gradients."""
    params, expected = {"w": torch.ones(3, 4)}, {"w": torch.ones(3, 4)}
    first, second = optimizer.init(params), optimizer.init(expected)
    for step in range(2):
        g = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        optimizer.update(params, {"w": layout(g)}, first)
        optimizer.update(expected, {"w": layout(g).clone(memory_format=torch.contiguous_format)}, second)
    torch.testing.assert_close(params["w"], expected["w"], rtol=0, atol=1e-6)


@every
def test_gradients_are_found_by_name(optimizer):
    params = {"b": torch.zeros(3), "a": torch.zeros(3)}
    optimizer.update(params, {"a": torch.ones(3), "b": -torch.ones(3)}, optimizer.init(params))
    assert (params["a"] < 0).all()
    assert (params["b"] > 0).all()


@every
def test_dtype_is_kept(optimizer):
    for dtype in (torch.float32, torch.float64):
        params, moments = run(optimizer, steps=2, dtype=dtype)
        assert {p.dtype for p in params.values()} == {dtype}
        assert {m.dtype for kind, group in moments.items() for m in group.values() if kind != "step"} <= {dtype}


BAD = [-1.0, -1e-12, math.nan, math.inf, -math.inf, None, "0.1"]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("kind", [SGD, Adam, RMSProp, UPGD])
def test_refuses_numbers_that_are_none_and_names_them(kind, value):
    for field in dataclasses.fields(kind):
        if field.name in ("betas", "nesterov", "centered"):
            continue
        arguments = {"lr": 0.1, field.name: value}
        with pytest.raises(ValueError, match=f"expected {field.name} of {kind.__name__} to be at least 0, got"):
            kind(**arguments)


@pytest.mark.parametrize("betas", [(0.9, 1.0), (0.9,), (0.9, 0.9, 0.9), (-0.1, 0.9), (math.nan, 0.9)])
def test_refuses_betas(betas):
    with pytest.raises(ValueError, match="expected betas of Adam"):
        Adam(betas=betas)


def test_refuses_nesterov_without_momentum():
    """As torch.optim does: the setting would have no effect."""
    with pytest.raises(ValueError, match="nesterov"):
        SGD(lr=0.1, nesterov=True)


@every
def test_is_a_frozen_dataclass(optimizer):
    assert eval(repr(optimizer)) == optimizer
    assert hash(dataclasses.replace(optimizer)) == hash(optimizer)
    settings = {f.name: getattr(optimizer, f.name) for f in dataclasses.fields(optimizer) if f.init}
    assert type(optimizer)(**settings) == optimizer
    assert optimizer.with_lr(0.5).lr == 0.5
    assert optimizer.with_lr(0.5) != optimizer
    assert optimizer.with_lr(0.5).with_lr(optimizer.lr) == optimizer
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.lr = 1.0
    with pytest.raises(ValueError, match="expected lr"):
        optimizer.with_lr(-1.0)


# -- Shampoo -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [
    {}, {"every": 1}, {"largest": 3}, {"largest": 2, "betas": (0.0, 0.5)}, {"eps": 1e-2},
])  # fmt: skip
def test_shampoo_equals_its_naive_transcription(settings):
    shapes = {"weight": (3, 4), "bias": (4,), "scalar": (), "kernel": (2, 3, 2, 2)}
    generator = torch.Generator().manual_seed(1)
    start = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}

    def gradient(params, step):
        noise = torch.Generator().manual_seed(step)
        return {n: p + torch.randn(p.shape, generator=noise, dtype=torch.float64) for n, p in params.items()}

    optimizer = Shampoo(lr=0.1, **{"eps": 1e-4, "every": 3, **settings})
    params = {name: p.clone() for name, p in start.items()}
    moments = optimizer.init(params)
    for step in range(12):
        optimizer.update(params, gradient(params, step), moments)
    rest = optimizer.eps, optimizer.every, optimizer.largest
    expected = naive.shampoo(start, gradient, 12, 0.1, *optimizer.betas, *rest)
    for name, p in params.items():
        torch.testing.assert_close(p, expected[name], rtol=1e-8, atol=1e-10)


def test_shampoo_does_not_feel_the_scale_of_the_loss():
    ends = []
    for scale in (1.0, 1e-3):
        params = start()
        optimizer = Shampoo(lr=0.1, every=1)
        moments = optimizer.init(params)
        for step in range(5):
            optimizer.update(params, {name: scale * g for name, g in gradients(step).items()}, moments)
        ends.append(params)
    for name in SHAPES:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-6, atol=1e-8)


def test_shampoo_stands_still_where_gradients_are_zero():
    params = start()
    optimizer = Shampoo()
    optimizer.update(params, {name: torch.zeros_like(p) for name, p in params.items()}, optimizer.init(params))
    assert all(torch.equal(p, start()[name]) for name, p in params.items())


def test_shampoo_of_a_network_that_diverged_raises_nothing():
    params = start()
    optimizer = Shampoo()
    broken = {name: torch.full_like(p, math.nan) for name, p in params.items()}
    optimizer.update(params, broken, optimizer.init(params))
    assert all(p.isnan().all() for p in params.values())


@pytest.mark.parametrize("setting", [{"betas": (0.9, 1.0)}, {"betas": (0.9,)}, {"every": 0}, {"largest": 0}])
def test_shampoo_refuses_settings(setting):
    with pytest.raises(ValueError, match=f"expected {next(iter(setting))} of Shampoo"):
        Shampoo(**setting)


@pytest.mark.parametrize("optimizer", [Shampoo(lr=0.05, every=3), UPGD(lr=0.1, sigma=0.0)], ids=["Shampoo", "UPGD"])
@pytest.mark.parametrize("seeds", [[0], [0, 5, 7]], ids=["alone", "three"])
def test_members_whose_numbers_depend_on_each_other_learn_as_if_alone(optimizer, seeds):
    """What is not elementwise sees one network's tensors, never the stack."""
    members = [Member(seed, optimizer) for seed in seeds]
    population = Population(Network(tiny()), F.cross_entropy, members, dtype=torch.float64)
    state = population.init()
    begun = [{name: p[m].clone() for name, p in state.params.items()} for m in range(len(seeds))]
    for step in range(8):
        x, y = batch(step)
        population.step(state, x.expand(len(seeds), *x.shape), y.expand(len(seeds), *y.shape))
    for m, params in enumerate(begun):
        moments = optimizer.init(params)
        for step in range(8):
            optimizer.update(params, gradient_with(0.0)(params, step), moments)
        for name, p in params.items():
            torch.testing.assert_close(state.params[name][m], p, rtol=1e-8, atol=1e-10)


# -- UPGD and SAM ------------------------------------------------------------------------------------------------------


def tiny():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def batch(step, dtype=torch.float64):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x.to(dtype), x[:, :3].argmax(-1)


def loss_of(params, step, decay=0.0):
    """What `tiny` learns, by its formula."""
    x, y = batch(step)
    logits = (x @ params["0.weight"].T + params["0.bias"]).clamp(min=0) @ params["2.weight"].T + params["2.bias"]
    return F.cross_entropy(logits, y) + decay * sum(p.square().sum() for p in params.values())


def gradient_with(decay):
    def gradient(params, step):
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        return dict(zip(leaves, torch.autograd.grad(loss_of(leaves, step, decay), list(leaves.values())), strict=True))

    return gradient


def in_population(optimizer, seed=3, steps=20, chain=None):
    """Trained as the only member; the parameters."""
    member = Member(seed, optimizer, chain or Chain())
    population = Population(Network(tiny), F.cross_entropy, [member], dtype=torch.float64)
    state = population.init()
    for step in range(steps):
        x, y = batch(step)
        population.step(state, x[None], y[None])
    return {name: p[0] for name, p in state.params.items()}


def loop(model, optimizer, start, steps, on_step=None, decay=0.0, dtype=torch.float64):
    """A user's own loop."""
    for step in range(start, start + steps):
        x, y = batch(step, dtype)

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) + decay * sum(p.square().sum() for p in model.parameters())
            loss.backward()
            return loss

        optimizer.step(closure)
        if on_step is not None:
            on_step()


def model_of(seed=3):
    model = tiny().double()
    model.load_state_dict(Network(tiny).fresh(seed))
    return model


def in_own_loop(optimizer, seed=3, steps=20, decay=0.0):
    model = model_of(seed)
    loop(model, TorchOptimizer(model, optimizer, seed=seed), 0, steps, decay=decay)
    return parameters(model)


def parameters(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(dict(a), dict(b), rtol=tolerance, atol=tolerance)


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("run", [in_population, in_own_loop])
@pytest.mark.parametrize("published", [False, True])
def test_upgd_equals_the_naive_transcription(published, run, beta, sigma):
    start = {name: p.double() for name, p in Network(tiny).fresh(3).items()}

    def noise(step):
        generator = noise_generator(3, step)
        return {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in start.items()}

    found = run(UPGD(lr=0.1, weight_decay=0.01, beta=beta, sigma=sigma, published=published))
    close(found, naive.upgd(start, gradient_with(0.0), noise, 20, 0.1, 0.01, beta, sigma, published))
    assert loss_of(found, 0) < loss_of(start, 0)


def test_upgd_as_published_is_another_optimizer_while_its_average_is_young():
    ours, published = (in_own_loop(UPGD(lr=0.1, sigma=0.0, published=flag)) for flag in (False, True))
    assert max((ours[name] - published[name]).abs().max() for name in ours) > 1e-3
    alike = (in_own_loop(UPGD(lr=0.1, beta=0.0, sigma=0.0, published=flag)) for flag in (False, True))
    close(*alike)


SAM_BASES = {
    "SGD": (SGD(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "Adam": (Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
}


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize(("base", "theirs"), SAM_BASES.values(), ids=SAM_BASES)
def test_sam_equals_the_naive_transcription(base, theirs, decay):
    start = {name: p.double() for name, p in Network(tiny).fresh(3).items()}
    expected = naive.sam(start, gradient_with(decay), theirs, 20, rho=0.1)
    close(in_population(SAM(base, rho=0.1), chain=Chain(L2(decay))), expected)
    close(in_own_loop(SAM(base, rho=0.1), decay=decay), expected)
    assert not equal(in_population(base, chain=Chain(L2(decay))), expected)


@pytest.mark.parametrize("run", [in_population, in_own_loop])
@pytest.mark.parametrize("base", [base for base, _ in SAM_BASES.values()] + [UPGD(lr=0.1)], ids=[*SAM_BASES, "UPGD"])
def test_sam_with_a_vanishing_radius_is_its_base(base, run):
    assert equal(run(SAM(base, rho=0.0)), run(base))
    close(run(SAM(base, rho=1e-9)), run(base), 1e-6)


def test_sam_goes_up_by_rho():
    params, grads = start(), gradients(0)
    before = copy.deepcopy((params, grads))
    there = SAM(SGD(lr=0.1), rho=0.3).ascent(params, grads)
    assert (equal(params, before[0]), equal(grads, before[1])) == (True, True)
    moved = torch.cat([(there[name] - p).flatten() for name, p in params.items()])
    assert moved.norm().item() == pytest.approx(0.3)
    direction = torch.cat([g.flatten() for g in grads.values()])
    assert torch.dot(moved, direction).item() == pytest.approx(0.3 * direction.norm().item())
    nowhere = {name: torch.zeros_like(g) for name, g in grads.items()}
    assert equal(SAM(SGD(lr=0.1), rho=0.3).ascent(params, nowhere), params)


def test_sam_finds_the_flatter_minimum():
    """On the ridge between a sharp and a flat valley, only the gradient of the neighbourhood tells them apart."""

    def slope(w):  # of a loss with a flat minimum at -1 and one ten times as sharp at 0.05
        w = w.detach().requires_grad_()
        return torch.autograd.grad(torch.minimum((w + 1) ** 2, 10 * (w - 0.05) ** 2), w)[0]

    ends = {}
    for rho in (0.0, 0.5):
        w, optimizer = {"w": torch.tensor(-0.1)}, SAM(SGD(lr=0.01), rho=rho)
        for _ in range(500):
            there = optimizer.ascent(w, {"w": slope(w["w"])})
            optimizer.update(w, {"w": slope(there["w"])}, {})
        ends[rho] = w["w"].item()
    assert ends[0.0] == pytest.approx(0.05, abs=0.01)
    assert abs(ends[0.5] + 1) < 0.6


def test_upgd_without_utility_is_sgd():
    """The factor 2 is there for it: of no use are all weights that are 0, or whose gradient always was."""
    params = {"w": torch.zeros(5, dtype=torch.float64)}
    optimizer = UPGD(lr=0.1, weight_decay=0.0, sigma=0.0)
    optimizer.update(params, {"w": torch.arange(5.0, dtype=torch.float64)}, optimizer.init(params))
    close(params, {"w": -0.1 * torch.arange(5.0, dtype=torch.float64)}, 1e-15)


def test_upgd_spares_the_useful_and_moves_the_harmful():
    """Utilities 2, 1, 0 and -2 by the largest one; the gradient of each is -1 but where the weight is."""
    params = {"w": torch.tensor([2.0, 1.0, 0.0]), "v": torch.tensor([-2.0])}
    before = copy.deepcopy(params)
    optimizer = UPGD(lr=1.0, weight_decay=0.0, sigma=0.0)
    optimizer.update(params, {name: -torch.ones_like(p) for name, p in params.items()}, optimizer.init(params))
    expected = [2 * (1 - naive.sigmoid(u)) for u in (1.0, 0.5, 0.0, -1.0)]
    moved = torch.cat([params[name] - before[name] for name in ("w", "v")])
    assert moved.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("weights", "shares"), [((2.0, 0.0), (2.0, 1.0)), ((2.0, 1.0), (0.2384, 0.5379))])
def test_upgd_where_nothing_is_of_use(weights, shares):
    """Largest utility 0: the limit of a vanishing one. Below 0: the formula as published, which spares the harmful."""
    params = {"w": torch.tensor(weights)}
    optimizer = UPGD(lr=1.0, weight_decay=0.0, sigma=0.0)
    optimizer.update(params, {"w": torch.ones(2)}, optimizer.init(params))
    assert (torch.tensor(weights) - params["w"]).tolist() == pytest.approx(shares, abs=1e-4)


def test_upgd_decays_weights():
    params = {"w": torch.full((3,), 2.0)}
    optimizer = UPGD(lr=0.5, weight_decay=0.1, sigma=0.0)
    optimizer.update(params, {"w": torch.zeros(3)}, optimizer.init(params))
    assert params["w"].tolist() == pytest.approx([1.9] * 3)


@settings(max_examples=30)
@given(numbers=st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=6))
def test_upgd_without_noise_is_deterministic_and_its_steps_are_bounded(numbers):
    """At most twice the gradient, in the direction of descent."""
    w, g = (torch.tensor(column, dtype=torch.float64) for column in zip(*numbers, strict=True))
    optimizer, ends = UPGD(lr=0.1, weight_decay=0.0, sigma=0.0), []
    for _ in range(2):
        params = {"w": w.clone()}
        optimizer.update(params, {"w": g.clone()}, optimizer.init(params), torch.Generator())
        ends.append(params["w"])
    assert torch.equal(*ends)
    share = (w - ends[0]) / (0.1 * g)
    assert ((g == 0) | ((share > -1e-6) & (share < 2 + 1e-6)) | (g.abs() < 1e-6)).all()


def noise_of(generator, sigma=0.5, size=20_000):
    params = {"w": torch.zeros(size)}
    optimizer = UPGD(lr=1.0, weight_decay=0.0, sigma=sigma)
    optimizer.update(params, {"w": torch.zeros(size)}, optimizer.init(params), generator)
    return params["w"]


def test_noise_is_normal_and_a_function_of_seed_and_step():
    before = torch.get_rng_state()
    found = noise_of(noise_generator(1, 10))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.mean().item() == pytest.approx(0, abs=0.02)
    assert found.std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(noise_of(noise_generator(1, 10)), found)
    others = [noise_generator(2, 10), noise_generator(1, 11), noise_generator(10, 1), Draw(1, 10).generator()]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([noise_of(other), found]))[0, 1]) < 0.03


def test_upgd_never_takes_the_global_stream():
    params = start()
    optimizer = UPGD(lr=0.1)
    with pytest.raises(ValueError, match="expected a generator for the noise of UPGD, got None"):
        optimizer.update(params, gradients(0), optimizer.init(params))
    assert equal(params, start())


@pytest.mark.parametrize("rho", BAD)
def test_sam_refuses_a_rho_that_is_no_radius(rho):
    with pytest.raises(ValueError, match="expected rho of SAM to be at least 0, got"):
        SAM(SGD(lr=0.1), rho=rho)


@pytest.mark.parametrize("base", [0.1, None, torch.optim.SGD, SAM(SGD(lr=0.1), rho=0.1)])
def test_sam_refuses_what_makes_no_step(base):
    with pytest.raises(ValueError, match=r"expected base of SAM to be another optimizer, got .*: write SAM\(Adam"):
        SAM(base, rho=0.1)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_refuses_a_beta_that_never_forgets(beta):
    with pytest.raises(ValueError, match=r"expected beta of UPGD to be in \[0, 1\), got"):
        UPGD(beta=beta)


# -- in a user's own loop ----------------------------------------------------------------------------------------------

OWN = {**EVERY, "noisy UPGD": UPGD(lr=0.05), "SAM around UPGD": SAM(UPGD(lr=0.05), rho=0.05)}
every_own = pytest.mark.parametrize("optimizer", OWN.values(), ids=OWN)


@every_own
def test_own_loop_equals_a_population_of_one(optimizer):
    close(in_own_loop(optimizer), in_population(optimizer))


@pytest.mark.parametrize(("ours", "theirs"), TORCH.values(), ids=TORCH)
def test_own_loop_equals_torch_optim(ours, theirs):
    """With a schedule, a layer that has a gradient only now and then, and one that never has."""
    ends = []
    for make in (theirs, lambda p: TorchOptimizer(p, ours)):
        model = model_of()
        model[0].bias.requires_grad_(False)
        optimizer = make(model.parameters())
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5, gamma=0.3)
        for step in range(30):
            x, y = batch(step)
            model[2].requires_grad_(step % 3 != 0)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
        ends.append((parameters(model), optimizer))
    (expected, theirs), (found, ours) = ends
    close(found, expected)
    assert equal({"0.bias": found["0.bias"]}, {"0.bias": parameters(model_of())["0.bias"]})
    for p, other in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert set(ours.state[p]) <= set(theirs.state[other])
        if "step" in ours.state[p]:
            assert torch.equal(ours.state[p]["step"], theirs.state[other]["step"])


@every_own
def test_a_resumed_own_loop_equals_an_uninterrupted_one(optimizer):
    whole = in_own_loop(optimizer)
    first = model_of()
    half = TorchOptimizer(first, optimizer, seed=3)
    loop(first, half, 0, 10)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": half.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = tiny().double()
    later = TorchOptimizer(second, optimizer, seed=8)
    second.load_state_dict(saved["model"])
    later.load_state_dict(saved["optimizer"])
    loop(second, later, 10, 10)
    assert equal(parameters(second), whole)


@every_own
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_goes_on_by_itself(optimizer, copied):
    model = model_of()
    loop(model, half := TorchOptimizer(model, optimizer, seed=3), 0, 10)
    other, later = copied((model, half))
    loop(other, later, 10, 10)
    loop(model, half, 10, 10)
    assert equal(parameters(other), parameters(model))


@every_own
def test_gradients_are_left_as_they_are(optimizer):
    model = model_of()
    own = TorchOptimizer(model, optimizer, seed=0)
    kept = []

    def closure():
        own.zero_grad()
        loss = F.cross_entropy(model(batch(0)[0]), batch(0)[1])
        loss.backward()
        kept[:] = [p.grad.clone() for p in model.parameters()]
        return loss

    for _ in range(2):
        own.step(closure)
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), kept, strict=True))
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("optimizer", [Adam(lr=0.01, eps_root=1e-3), SAM(SGD(lr=0.1, momentum=0.9), rho=0.05)])
def test_groups_have_their_own_learning_rates(optimizer):
    """At 0, one layer stands still; the other goes on as if the rate were everybody's."""
    model = model_of()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    own = TorchOptimizer(groups, optimizer)
    assert [group["lr"] for group in own.param_groups] == [0.0, optimizer.lr]
    loop(model, own, 0, 1)
    alone = in_own_loop(optimizer, steps=1)
    for name, p in parameters(model).items():
        assert torch.equal(p, parameters(model_of())[name] if name.startswith("0") else alone[name])


@pytest.mark.parametrize(("ours", "theirs"), TORCH.values(), ids=TORCH)
def test_parameters_may_have_several_dtypes(ours, theirs):
    ends = []
    for make in (lambda m: theirs(list(m.parameters())), lambda m: TorchOptimizer(m, ours)):
        model = model_of()
        model[2].float()
        optimizer = make(model)
        for step in range(5):
            x, y = batch(step)
            optimizer.zero_grad()
            F.cross_entropy(model[2](model[1](model[0](x)).float()), y).backward()
            optimizer.step()
        ends.append(parameters(model))
    assert [p.dtype for p in ends[1].values()] == 2 * [torch.float64] + 2 * [torch.float32]
    close(*ends, 1e-4)


def test_a_step_without_gradients_does_nothing():
    for optimizer in (Adam(), UPGD(), SAM(SGD(lr=0.1), rho=0.1)):
        model = model_of()
        TorchOptimizer(model, optimizer, seed=0).step(lambda: None)
        assert equal(parameters(model), parameters(model_of()))


@every_own
def test_the_loss_returned_is_that_before_the_step(optimizer):
    model = model_of()
    own = TorchOptimizer(model, optimizer, seed=0)
    x, y = batch(0)

    def closure():
        own.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    expected = F.cross_entropy(model(x), y)
    assert torch.equal(own.step(closure), expected)
    if not optimizer.ascends:
        closure()
        assert own.step() is None


def test_sam_asks_for_a_closure():
    model = model_of()
    own = TorchOptimizer(model, SAM(Adam(), rho=0.05))
    loss_of(dict(model.named_parameters()), 0).backward()
    with pytest.raises(ValueError, match=r"SAM computes the gradient twice: write optimizer.step\(closure\)") as caught:
        own.step()
    assert "\n" not in str(caught.value)
    assert equal(parameters(model), parameters(model_of()))


def test_a_closure_that_raises_leaves_the_parameters_as_they_were():
    model = model_of()
    own, calls = TorchOptimizer(model, SAM(Adam(), rho=0.05)), []

    def closure():
        calls.append(equal(parameters(model), parameters(model_of())))
        if len(calls) == 2:
            raise ArithmeticError
        loss = loss_of(dict(model.named_parameters()), 0)
        loss.backward()
        return loss

    with pytest.raises(ArithmeticError):
        own.step(closure)
    assert calls == [True, False]
    assert equal(parameters(model), parameters(model_of()))


@pytest.mark.parametrize("optimizer", [UPGD(), SAM(UPGD(), rho=0.1)], ids=["UPGD", "SAM"])
def test_asks_for_a_seed_where_something_is_drawn(optimizer):
    with pytest.raises(ValueError, match=r"expected a seed for the noise, got None: write .*seed=0"):
        TorchOptimizer(tiny(), optimizer)
    TorchOptimizer(tiny(), UPGD(sigma=0.0))


def test_seeds_differ():
    ends = [in_own_loop(UPGD(lr=0.1), seed=3)]
    model = model_of(3)
    loop(model, TorchOptimizer(model, UPGD(lr=0.1), seed=4), 0, 20)
    assert not equal(parameters(model), ends[0])


def test_refuses_settings_in_groups_that_nobody_reads():
    groups = [{"params": tiny().parameters(), "weight_decay": 0.1}]
    with pytest.raises(ValueError, match="expected groups with params and lr, got weight_decay"):
        TorchOptimizer(groups, Adam())


def test_refuses_to_part_what_upgd_sees_at_once():
    model = tiny()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.1}]
    with pytest.raises(ValueError, match="expected one parameter group, got a second one: UPGD looks at all"):
        TorchOptimizer(groups, UPGD(), seed=0)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, "Adam", None])
def test_refuses_what_is_no_optimizer_of_ours(optimizer):
    with pytest.raises(ValueError, match=r"expected an optimizer of pliant, got .*: write TorchOptimizer\(model, Adam"):
        TorchOptimizer(tiny(), optimizer)


@pytest.mark.parametrize("schedule", [
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.01, total_steps=20, cycle_momentum=False),
    lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
])  # fmt: skip
def test_schedules(schedule):
    ends = []
    for make in (lambda m: torch.optim.Adam(m.parameters(), lr=0.01), lambda m: TorchOptimizer(m, Adam(lr=0.01))):
        model = model_of()
        optimizer = make(model)
        loop(model, optimizer, 0, 20, on_step=schedule(optimizer).step)
        ends.append(parameters(model))
    close(*ends)
