"""What holds for every head: shapes, purity, populations, precision, settings, messages."""

import dataclasses
import inspect
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

import pliant.heads
from pliant.cite import entry
from pliant.heads import C51, Categorical, Head, HLGauss, Quantile, Scalar, TwoHot
from pliant.network import Network
from pliant.optim import Adam
from pliant.population import Member, Population
from tests.heads.examples import EXAMPLES, numbers
from tests.listed import assert_examples, assert_public, classes

every_head = pytest.mark.parametrize("head", EXAMPLES.values(), ids=EXAMPLES)


def kinds() -> list[type[Head]]:
    return [kind for kind in classes(pliant.heads) if issubclass(kind, Head) and not inspect.isabstract(kind)]


def pair(head, *shape, dtype=torch.float64):
    """Outputs, and targets from numbers some of which lie outside the support."""
    output = numbers(*shape, head.num_outputs, seed=1, dtype=dtype)
    return output, head.encode(numbers(*shape, seed=2, scale=2.0, dtype=dtype))


def test_every_kind_has_an_example():
    assert_examples(kinds(), EXAMPLES.values(), "tests/heads/examples.py")
    assert_public(kinds())


@every_head
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 4)])
def test_leading_dimensions_are_the_values(head, shape):
    output, target = pair(head, *shape)
    reward = numbers(*shape, seed=3)
    assert head.value(output).shape == head.losses(output, target).shape == head.decode(target).shape == shape
    assert target.shape[:-1] == shape
    assert head.loss(output, target).shape == ()
    assert torch.allclose(head.loss(output, target), head.losses(output, target).mean(), rtol=1e-12)
    for discount in (0.9, torch.tensor(0.9), torch.full(shape, 0.9, dtype=torch.float64)):
        bootstrapped = head.target(reward, discount, output)
        assert bootstrapped.shape[:-1] == shape
        assert head.losses(output, bootstrapped).shape == shape
    one = (0,) * len(shape)
    assert torch.allclose(head.value(output)[one], head.value(output[one]), rtol=1e-12)
    assert torch.allclose(head.losses(output, target)[one], head.losses(output[one], target[one]), rtol=1e-12)
    assert torch.allclose(bootstrapped[one], head.target(reward[one], 0.9, output[one]), rtol=1e-12)


@every_head
def test_flat_outputs_are_split_value_by_value(head):
    flat = numbers(5, 3 * head.num_outputs)
    output = head.split(flat)
    assert output.shape == (5, 3, head.num_outputs)
    assert torch.equal(output[:, 1], flat[:, head.num_outputs : 2 * head.num_outputs])
    assert torch.equal(output, vmap(head.split)(flat))


@every_head
def test_vmap_equals_a_loop(head):
    output, target = pair(head, 4, 3)
    reward, discount = numbers(4, 3, seed=3), numbers(4, 3, seed=4).sigmoid()

    def everything(output, target, reward, discount):
        bootstrapped = head.target(reward, discount, output)
        return head.value(output), head.loss(output, target), bootstrapped, head.loss(output, bootstrapped)

    together = vmap(everything)(output, target, reward, discount)
    for m in range(4):
        alone = everything(output[m], target[m], reward[m], discount[m])
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a[m], b, rtol=1e-12, atol=1e-12)
    single = vmap(everything)(output, target, reward, discount.float())[2]
    assert single.dtype is torch.float64
    assert torch.allclose(single, together[2], rtol=1e-6, atol=1e-6)


@every_head
def test_functional_gradient_equals_autograd_and_targets_have_none(head):
    output, target = pair(head, 3)
    reward = numbers(3, seed=3)
    leaf = output.clone().requires_grad_()
    head.loss(leaf, target).backward()
    assert torch.allclose(grad(head.loss)(output, target), leaf.grad, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(head.loss, (output.clone().requires_grad_(), target))
    assert not head.target(reward, 0.9, output.clone().requires_grad_()).requires_grad
    assert (grad(lambda next_output: head.target(reward, 0.9, next_output).sum())(output) == 0).all()
    frozen = head.target(reward, 0.9, output)
    through = grad(lambda f: head.loss(f, head.target(reward, 0.9, f)))(output)
    assert torch.allclose(through, grad(head.loss)(output, frozen), rtol=1e-12, atol=1e-14)
    per_value = vmap(grad(head.losses))(output, target)
    assert torch.allclose(per_value, 3 * leaf.grad, rtol=1e-10, atol=1e-14)


@every_head
def test_inputs_are_left_alone(head):
    output, target = pair(head, 3)
    reward = numbers(3, seed=3)
    kept = [t.clone() for t in (output, target, reward)]
    state = torch.get_rng_state()
    head.loss(output, target), head.value(output), head.target(reward, 0.9, output), head.encode(reward)
    assert all(torch.equal(a, b) for a, b in zip(kept, (output, target, reward), strict=True))
    assert torch.equal(state, torch.get_rng_state())


@every_head
def test_float32_is_close_to_float64(head):
    output, target = pair(head, 50)
    reward = numbers(50, seed=3)
    low, low_target = output.float(), head.encode(numbers(50, seed=2, scale=2.0).float())
    for exact, rounded in (
        (head.value(output), head.value(low)),
        (target, low_target),
        (head.losses(output, target), head.losses(low, low_target)),
        (head.target(reward, 0.9, output), head.target(reward.float(), 0.9, low)),
    ):
        assert rounded.dtype is torch.float32
        assert exact.dtype is torch.float64
        assert torch.allclose(rounded.double(), exact, rtol=1e-5, atol=1e-5)


@every_head
def test_whole_numbers_are_numbers(head):
    y = torch.tensor([-1, 0, 2])
    assert torch.allclose(head.decode(head.encode(y).double()), head.decode(head.encode(y.double())), atol=1e-6)


@every_head
def test_nan_is_never_silent(head):
    output, target = pair(head, 2)
    nan = torch.tensor([torch.nan, 0.0], dtype=torch.float64)
    broken = output.clone()
    broken[0, 0] = torch.nan
    for losses in (
        head.losses(output, head.encode(nan)),
        head.losses(output, head.target(nan, 0.9, output)),
        head.losses(output, head.target(torch.zeros_like(nan), 0.9, broken)),
        head.losses(broken, target),
        head.value(broken),
    ):
        assert losses.isnan().tolist() == [True, False]


@every_head
def test_huge_numbers_stay_finite(head):
    output = 1e4 * numbers(3, head.num_outputs)
    target = head.encode(torch.tensor([-1e30, 0.0, 1e30], dtype=torch.float64))
    assert head.losses(output, target).isfinite().all()
    assert grad(head.loss)(output, target).isfinite().all()


@every_head
def test_discount_zero_leaves_the_reward(head):
    output = numbers(6, head.num_outputs)
    reward = torch.linspace(-1.5, 2.5, 6, dtype=torch.float64)
    target = head.target(reward, torch.zeros(6, dtype=torch.float64), output)
    expected = head.encode(reward)
    assert torch.allclose(target, expected.expand_as(target), atol=1e-12)


def as_output(head, target):
    """Outputs whose distribution is the target."""
    return target.clamp(min=1e-300).log() if isinstance(head, Categorical) else target.expand(head.num_outputs)


@pytest.mark.parametrize(
    "head",
    [Scalar(), TwoHot(0.0, 12.0, 7), HLGauss(-5.0, 15.0, 40), C51(0.0, 12.0, 25), Quantile(5)],
    ids=lambda head: type(head).__name__,
)
def test_bootstrapping_reaches_the_return(head):
    """One state that pays 1 for ever: 1 / (1 - discount)."""
    output = as_output(head, head.encode(torch.tensor(0.0, dtype=torch.float64)))
    for _ in range(400):
        output = as_output(head, head.target(torch.tensor(1.0, dtype=torch.float64), 0.9, output))
    assert head.value(output).item() == pytest.approx(10.0, abs=1e-4)


@pytest.mark.parametrize("kind", [TwoHot, HLGauss])
def test_smoothing_shortens_the_horizon(kind):
    """The docstring's number: the fixed point is that of a discount of (1 - eta) discount, drawn to the middle."""
    eta, discount, head = 0.05, 0.9, kind(-20.0, 20.0, 80, label_smoothing=0.05)
    output = as_output(head, head.encode(torch.tensor(0.0, dtype=torch.float64)))
    for _ in range(400):
        output = as_output(head, head.target(torch.tensor(1.0, dtype=torch.float64), discount, output))
    assert head.value(output).item() == pytest.approx((1 - eta) / (1 - (1 - eta) * discount), abs=1e-4)  # 6.55, not 10


@pytest.mark.parametrize("name", ["Scalar", "TwoHot", "HLGauss", "C51 narrow", "Quantile few", "Quantile plain"])
def test_scalars_are_fitted_on_one_scale(name):
    """Every head learns the same numbers, and `value` reports them; smoothing is left out, it moves them."""
    head = EXAMPLES[name]
    network = Network(nn.Linear(4, head.num_outputs))
    x, y = torch.eye(4, dtype=torch.float64), torch.tensor([-1.0, 0.0, 0.3, 1.7], dtype=torch.float64)

    def loss(output, y):
        return head.loss(output, head.encode(y))

    population = Population(network, loss, [Member(s, Adam(lr=0.03)) for s in range(3)], dtype=torch.float64)
    state = population.init()
    for _ in range(600):
        population.step(state, x.expand(3, 4, 4), y.expand(3, 4))
    assert population.mode == "vmap"
    error = head.value(population.outputs(state.params, x.expand(3, 4, 4))) - y
    assert error.square().mean() < 0.01


@every_head
def test_everything_stays_on_the_device_of_its_inputs(head):
    """The meta device refuses to meet tensors of another one."""
    output, y = torch.empty(3, head.num_outputs, device="meta"), torch.empty(3, device="meta")
    for discount in (0.9, torch.empty(3, device="meta")):
        target = head.target(y, discount, output)
        for found in (head.losses(output, target), head.losses(output, head.encode(y)), head.value(output)):
            assert found.device.type == "meta"


def test_a_network_with_its_head_under_jacrev():
    head, net = TwoHot(0.0, 1.0, 5), nn.Linear(2, 10)
    params = dict(net.named_parameters())
    jacobian = jacrev(lambda p, x: head.value(head.split(functional_call(net, p, (x,)))))(params, torch.ones(3, 2))
    assert jacobian["weight"].shape == (3, 2, 10, 2)


# -- settings ----------------------------------------------------------------------------------------------------------


@every_head
def test_is_a_frozen_dataclass_that_is_its_own_config(head):
    assert eval(repr(head), vars(pliant.heads)) == head
    assert type(head)(**json.loads(json.dumps(dataclasses.asdict(head)))) == head
    assert hash(replace(head)) == hash(head)
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.num_bins = 3


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_cites_its_source_and_explains_itself(kind):
    assert entry(kind.reference).authors
    assert ">>> " in inspect.getdoc(kind)
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and callable(member):
            assert inspect.getdoc(member), f"{kind.__name__}.{name}"


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("kind", [TwoHot, HLGauss, C51])
@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 0.0), (1.0, 1.0), (NAN, 1.0), (0.0, NAN), (0.0, INF), (-INF, 0.0), ("0", 1.0), (None, 1.0)]
)
def test_refuses_an_empty_or_endless_support(kind, low, high):
    message = f"expected low of {kind.__name__} to be below high, both finite, got low={low!r}, high={high!r}"
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        kind(low, high, 5)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", [TwoHot, HLGauss, C51])
@pytest.mark.parametrize("bad", [1, 0, -3, 5.0, True, None])
def test_refuses_too_few_bins(kind, bad):
    with pytest.raises(ValueError, match=f"expected num_bins of {kind.__name__} to be a whole .* 2, got {bad!r}"):
        kind(0.0, 1.0, bad)


@pytest.mark.parametrize("kind", [TwoHot, HLGauss])
@pytest.mark.parametrize("bad", [-0.1, 1.0, 2.0, NAN, None])
def test_refuses_smoothing_outside_its_range(kind, bad):
    with pytest.raises(ValueError, match=rf"expected label_smoothing of {kind.__name__} to be in \[0, 1\), got"):
        kind(0.0, 1.0, 5, label_smoothing=bad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scalar(clip=0.0), "expected clip of Scalar to be a number above 0, or None, got 0.0"),
        (lambda: Scalar(clip=INF), "expected clip of Scalar to be a number above 0, or None, got inf"),
        (lambda: HLGauss(0.0, 1.0, 5, sigma=0.0), "expected sigma of HLGauss to be a finite number above 0, got 0.0"),
        (lambda: HLGauss(0.0, 1.0, 5, sigma=NAN), "expected sigma of HLGauss to be a finite number above 0, got nan"),
        (lambda: Quantile(0), "expected num_quantiles of Quantile to be a whole number of at least 1, got 0"),
        (lambda: Quantile(kappa=-1.0), "expected kappa of Quantile to be at least 0 and finite, got -1.0"),
        (lambda: Quantile(kappa=INF), "expected kappa of Quantile to be at least 0 and finite, got inf"),
    ],
)
def test_refuses_other_settings_with_one_line(make, message):
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        make()
    assert str(caught.value) == message


def test_supports_have_no_default_where_the_papers_give_none():
    for kind in (TwoHot, HLGauss):
        for given in ({}, {"low": 0.0, "high": 1.0}):
            with pytest.raises(TypeError, match="missing"):
                kind(**given)


# -- shapes that do not fit --------------------------------------------------------------------------------------------


def refused(call):
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@every_head
def test_refuses_outputs_of_another_size(head):
    n, name = head.num_outputs, type(head).__name__
    target = head.encode(torch.zeros(3))
    expected = f"expected outputs of shape (..., {n}) for {name}, got (3, {n + 1}): write head.split(output)"
    wrong = torch.zeros(3, n + 1)
    assert refused(lambda: head.losses(wrong, target)) == expected
    assert refused(lambda: head.value(wrong)) == expected
    assert refused(lambda: head.target(torch.zeros(3), 0.9, wrong)) == expected
    assert "got ()" in refused(lambda: head.value(torch.tensor(0.0)))


@every_head
def test_refuses_targets_of_another_shape(head):
    output = torch.zeros(3, head.num_outputs)
    message = refused(lambda: head.losses(output, torch.zeros(3)))
    assert "got (3,): write head.encode(y), or head.target(reward, discount, next_output)" in message
    assert "expected a target of shape (3, " in message
    assert "expected a target" in refused(lambda: head.losses(output, head.encode(torch.zeros(4))))
    assert "expected a target" in refused(lambda: head.losses(output, head.encode(torch.zeros(1))))
    assert "expected a target" in refused(lambda: head.losses(output, head.encode(torch.zeros(3, 1))))
    assert "expected a target" in refused(lambda: head.losses(output, torch.tensor(0.0)))
    assert "expected a target" in refused(lambda: head.losses(output, torch.zeros(3, 0)))


@every_head
def test_refuses_rewards_and_discounts_of_another_shape(head):
    output = torch.zeros(3, head.num_outputs)
    message = "expected reward of shape (3,) for these next outputs, got (4,): pick one action's outputs"
    assert refused(lambda: head.target(torch.zeros(4), 0.9, output)) == message
    assert "expected reward of shape (3, 2)" in refused(
        lambda: head.target(torch.zeros(3), 0.9, torch.zeros(3, 2, head.num_outputs))
    )
    assert "got (3, 1)" in refused(lambda: head.target(torch.zeros(3, 1), 0.9, output))
    assert "expected discount of shape (3,)" in refused(lambda: head.target(torch.zeros(3), torch.ones(1), output))


@every_head
def test_refuses_flat_outputs_that_do_not_divide(head):
    n = head.num_outputs
    expected = f"expected outputs of shape (..., values * {n}) for {type(head).__name__}, got (2, {3 * n + 1})"
    if n > 1:
        assert refused(lambda: head.split(torch.zeros(2, 3 * n + 1))).startswith(expected)
    assert "got (2, 0)" in refused(lambda: head.split(torch.zeros(2, 0)))
    assert "got ()" in refused(lambda: head.split(torch.tensor(1.0)))
