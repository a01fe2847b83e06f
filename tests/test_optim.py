"""Optimizers against torch.optim and against a naive transcription; one tensor, many, and a stack of them."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.optim import SGD, Adam, RMSProp

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
def test_a_stack_equals_its_parts(optimizer):
    """Elementwise: a population's tensors go through the same code, to the last bit."""
    stacked = {name: torch.stack([p, 2 * p, -p]) for name, p in start().items()}
    parts = [{name: p[m].clone() for name, p in stacked.items()} for m in range(3)]
    together, alone = optimizer.init(stacked), [optimizer.init(part) for part in parts]
    for step in range(10):
        grads = {name: torch.stack([g, g.square(), -3 * g]) for name, g in gradients(step).items()}
        for m in range(3):
            optimizer.update(parts[m], {name: g[m].clone() for name, g in grads.items()}, alone[m])
        optimizer.update(stacked, grads, together)
    for m in range(3):
        assert all(torch.equal(stacked[name][m], parts[m][name]) for name in stacked)


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
@pytest.mark.parametrize("kind", [SGD, Adam, RMSProp])
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
    assert type(optimizer)(**dataclasses.asdict(optimizer)) == optimizer
    assert dataclasses.replace(optimizer, lr=0.5).lr == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.lr = 1.0
    with pytest.raises(ValueError, match="expected lr"):
        dataclasses.replace(optimizer, lr=-1.0)
