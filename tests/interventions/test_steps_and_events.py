"""What the contracts do not say of methods that act after a step or at an event: which layers, how far, how often."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from pliant.interventions import (
    AdamRel,
    Chain,
    Draw,
    HareAndTortoise,
    NormalizeAndProject,
    Only,
    OptimizerReset,
    Reset,
    Scheduled,
    Seen,
    ShrinkAndPerturb,
    SoftShrinkAndPerturb,
    WeightClipping,
    WeightNormRescale,
)
from pliant.interventions.contrib import FIRE, SelectiveReinit
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.population import Member, Population
from tests.interventions.nets import NETS, Convolutional, Perceptron

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
SEEN = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)


def population(*chain, optimizer=None, seed=0, module=Perceptron):
    chain = Chain(*chain)
    network = Network(chain.build(module(), X), example=X)
    return Population(network, F.cross_entropy, [Member(seed, optimizer or Adam(0.01), chain)])


def train(population, state, steps):
    for _ in range(steps):
        population.step(state, X[None], Y[None])
    return state


def perceptron():
    return Network(Perceptron(), example=X)


# -- the output layer --------------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.policy, self.unused = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 1)
        self.value = nn.Parameter(torch.ones(1, 3))

    def forward(self, x):
        h = F.relu_(self.trunk(x))
        self.unused(h)
        return {"policy": self.policy(h.detach()), "value": F.linear(h, self.value).squeeze(1)}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_the_head_is_the_layer_that_gives_the_output(net):
    network = Network(net.module(), example=torch.ones(2, *net.shape))
    assert network.head == ("output.weight", "output.bias")
    assert network.only("*.weight").head == ("output.weight",)
    assert network.only(f"{net.hidden[0]}.*").head == ()


def test_there_may_be_several_heads():
    assert set(Network(TwoHeads(), example=X).head) == {"policy.weight", "policy.bias", "value"}


def test_the_head_may_be_parametrised_frozen_or_a_convolution():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(3, 1)))
    names = {"2.bias", "2.parametrizations.weight.original0", "2.parametrizations.weight.original1"}
    assert set(Network(module.requires_grad_(False), example=X).head) == names
    module = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Conv1d(2, 1, 2), nn.Tanh())
    assert Network(module, example=X[:, None]).head == ("2.weight", "2.bias")


def test_finding_the_head_leaves_no_trace():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 1))
    network = Network(module, example=X)
    before, stream = copy.deepcopy(network.module.state_dict()), torch.get_rng_state()
    assert network.head == ("2.weight", "2.bias")
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(p, before[name]) for name, p in network.module.state_dict().items())
    assert all(p.grad is None for p in network.module.parameters())


def test_no_head_without_inputs_or_layers():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(X.shape[-1]))

        def forward(self, x):
            return x * self.w

    with pytest.raises(ValueError, match=r"expected a batch of inputs .* Network\(module, example=x\)"):
        _ = Network(Perceptron()).head
    with pytest.raises(ValueError, match="no linear map was seen in Scale"):
        _ = Network(Scale(), example=X).head


# -- resets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "touched"),
    [
        (Reset("last"), {"output.weight", "output.bias"}),
        (Reset("second.*"), {"second.weight", "second.bias"}),
        (Reset("*.bias"), {"first.bias", "second.bias", "output.bias"}),
        (Only("*.bias", Reset("last")), {"output.bias"}),
        (Only("second.*", Reset("all")), {"second.weight", "second.bias"}),
    ],
    ids=["last", "a layer", "biases", "biases of the last", "only a layer"],
)
def test_reset_draws_the_layers_that_are_meant(method, touched):
    one = population(method)
    state = train(one, one.init(), 3)
    before = copy.deepcopy(state)
    one.fire(state, "task_switch")
    assert {name for name, p in state.params.items() if not torch.equal(p, before.params[name])} == touched
    for name, m in state.moments["exp_avg"].items():
        assert torch.equal(m, torch.zeros_like(m) if name in touched else before.moments["exp_avg"][name])
    assert state.moments["step"][""] == 3


@pytest.mark.parametrize("method", [Reset("hidden.*"), Only("second.*", Reset("last")), Reset("first")], ids=repr)
def test_reset_of_nothing_is_refused_before_training(method):
    with pytest.raises(ValueError, match=r"expected layers of Reset to be 'last', 'all' or a pattern"):
        population(method).init()


def test_all_layers_reset_is_a_fresh_network():
    one = population(Reset("all"))
    state = train(one, one.init(), 3)
    one.fire(state, "task_switch")
    fresh = Draw(0, 3).fresh(one.network)
    assert all(torch.equal(p[0], fresh[name]) for name, p in state.params.items())
    assert all((m == 0).all() for group in state.moments.values() for m in group.values())


@pytest.mark.parametrize("kind", ["Reset", "SelectiveReinit"])
def test_draws_are_the_layers_own(kind):
    """10,000 draws against the initial distribution of a layer, U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))."""
    network = Network(nn.Linear(100, 100), example=torch.ones(1, 100))
    params = {name: torch.zeros_like(p) for name, p in network.params().items()}
    if kind == "Reset":
        change = Reset("last").on_event(network, "task_switch", params, {}, {}, Draw(0, 0))
    else:
        change = SelectiveReinit(fraction=1.0, every=1).renew(network, params, {}, {}, Draw(0, 0))
    for w in change.params.values():
        assert stats.kstest(w.flatten().numpy(), stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01


def test_tied_copies_are_reset_along():
    one = population(Reset("last"), HareAndTortoise(decay=0.5, event="other"))
    state = train(one, one.init(), 3)
    target = {name: p + 1 for name, p in state.params.items()}
    one.fire(state, "task_switch", tied=[target])
    for name, p in state.params.items():
        assert torch.equal(target[name], p if name.startswith("output") else p + 1)
    one.fire(state, "other", tied=[target])
    assert all(torch.equal(target[name], p) for name, p in state.params.items())


def test_selective_reinit_takes_the_smallest_and_its_share_on_average():
    network = Network(nn.Linear(10, 1))
    params = {"weight": torch.tensor([[5.0, -4.0, 3.0, -2.0, 0.1, -0.2, 6.0, 7.0, 8.0, 9.0]]), "bias": torch.ones(1)}
    method, times = SelectiveReinit(fraction=0.25, every=1), 400
    counts = {"weight": 0, "bias": 0}
    for step in range(times):
        new = method.renew(network, params, {}, {}, Draw(0, step)).params
        changed = {name: new[name] != params[name] for name in params}
        assert changed["weight"].flatten().nonzero().flatten().tolist() in ([4, 5], [3, 4, 5])
        counts = {name: counts[name] + int(changed[name].sum()) for name in counts}
    assert counts["weight"] / times == pytest.approx(2.5, abs=0.1)
    assert counts["bias"] / times == pytest.approx(0.25, abs=0.1)


def test_selective_reinit_acts_every_so_many_steps():
    one = population(SelectiveReinit(fraction=0.5, every=3), optimizer=SGD(0.0))
    state = one.init()
    changed = []
    for _ in range(7):
        before = state.params["first.weight"].clone()
        train(one, state, 1)
        changed.append(not torch.equal(before, state.params["first.weight"]))
    assert changed == [False, False, True, False, False, True, False]


def test_soft_shrink_and_perturb_does_what_the_event_does():
    network = perceptron()
    params, draw = network.params(), Draw(1, 2)
    soft = SoftShrinkAndPerturb(shrink=0.9, perturb=0.1)
    shrunk = soft.after_step(network, network.params(), {}, {}, SEEN).params
    once = soft.renew(network, shrunk, {}, {}, draw).params
    event = ShrinkAndPerturb(shrink=0.9, perturb=0.1).on_event(network, "task_switch", params, {}, {}, draw).params
    torch.testing.assert_close(once, event)
    assert soft.init(network, params)["due"]
    assert not SoftShrinkAndPerturb(shrink=0.9, perturb=0.0).init(network, params)["due"]  # then nothing is drawn


# -- the optimizer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [Adam(0.01), SGD(0.01, momentum=0.9), SGD(0.01)], ids=repr)
def test_after_an_optimizer_reset_training_goes_on_as_with_a_new_optimizer(optimizer):
    one = population(OptimizerReset(), optimizer=optimizer)
    state = train(one, one.init(), 5)
    other = one.init()
    for name, p in state.params.items():
        other.params[name].copy_(p)
    one.fire(state, "task_switch")
    train(one, state, 5)
    train(one, other, 5)
    assert all(torch.equal(p, other.params[name]) for name, p in state.params.items())


@pytest.mark.parametrize("method", [OptimizerReset(), ShrinkAndPerturb(0.5, 0.1, moments="clear")], ids=repr)
def test_a_part_of_the_network_loses_its_moments_alone(method):
    one = population(Only("second.*", method))
    state = train(one, one.init(), 3)
    one.fire(state, "task_switch")
    for group in (state.moments["exp_avg"], state.moments["exp_avg_sq"]):
        assert {name for name, m in group.items() if (m == 0).all()} == {"second.weight", "second.bias"}
    assert state.moments["step"][""] == 3


def test_adam_rel_shortens_the_next_step():
    """By sqrt(1 - b2) / (1 - b1) where the gradient stays; and a gradient that jumps moves a weight by lr at most."""
    optimizer = Adam(lr=1.0, eps=0.0)
    network = Network(nn.Linear(1, 1, bias=False))
    for gradient, with_reset, without in ((1.0, 0.316, 1.0), (1e6, 1.0, 3.162)):
        for reset in (True, False):
            params = {"weight": torch.zeros(1, 1)}
            moments = optimizer.init(params)
            for _ in range(20_000):
                optimizer.update(params, {"weight": torch.ones(1, 1)}, moments)
            if reset:
                change = AdamRel().on_event(network, "task_switch", params, moments, {}, Draw(0, 0))
                moments["step"] = change.moments["step"]
            params["weight"].zero_()
            optimizer.update(params, {"weight": torch.full((1, 1), gradient)}, moments)
            assert -params["weight"].item() == pytest.approx(with_reset if reset else without, rel=1e-2)


@pytest.mark.parametrize(
    ("method", "optimizer"), [(AdamRel(), SGD(0.1, momentum=0.9)), (Only("second.*", AdamRel()), Adam(0.01))]
)
def test_adam_rel_warns_where_it_does_nothing(method, optimizer):
    one = population(method, optimizer=optimizer)
    state = train(one, one.init(), 2)
    before = copy.deepcopy(state)
    with pytest.warns(UserWarning, match="AdamRel found no step count to reset"):
        one.fire(state, "task_switch")
    assert all(torch.equal(m, before.moments[k][n]) for k, group in state.moments.items() for n, m in group.items())


# -- norms and ranges --------------------------------------------------------------------------------------------------


def test_clipping_takes_the_bound_of_the_initial_distribution():
    network = Network(Convolutional())
    bounds = WeightClipping(kappa=1.0).init(network, network.fresh(0))
    for layer, fan_in in {"first": 4, "second": 8, "hidden": 12, "output": 4}.items():
        assert bounds[f"{layer}.weight"] == bounds[f"{layer}.bias"] == pytest.approx(1 / math.sqrt(fan_in))
    params = {name: 3 * p for name, p in network.fresh(0).items()}
    params["output.weight"], params["output.bias"] = torch.zeros(3, 4), torch.zeros(3)
    clip = WeightClipping(kappa=1.0)
    bounds = clip.init(network, params)
    assert bounds["first.bias"] == torch.cat([params["first.weight"].flatten(), params["first.bias"]]).abs().max()
    assert bounds["output.weight"] == 0.5  # a head that starts at 0 can learn
    after = clip.after_step(network, params, {}, bounds, SEEN).params
    assert all(torch.equal(after[name], params[name]) for name in params)


def test_clipping_leaves_normalisers_and_lone_vectors_alone():
    network = Network(nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2), nn.PReLU(), nn.Linear(2, 1)))
    assert list(WeightClipping(2.0).init(network, network.params())) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    part = WeightClipping(2.0).init(network.only("*.bias"), network.params())
    assert list(part) == ["0.bias", "3.bias"]
    assert part["0.bias"] == 0.5


@pytest.mark.parametrize("method", [WeightNormRescale(), NormalizeAndProject("free")], ids=repr)
def test_a_matrix_of_zeros_stays_one(method):
    network = perceptron()
    params = {name: torch.zeros_like(p) for name, p in network.params().items()}
    state = method.init(network, network.params())
    after = method.after_step(network, params, {}, state, SEEN).params
    assert all((w == 0).all() for w in after.values())


def test_normalize_and_project_drops_biases_and_keeps_every_other_key():
    plain = Convolutional()
    built = NormalizeAndProject("free").build(plain, torch.ones(2, 1, 4, 4))
    layers = ("first", "second", "hidden")
    norms = {f"{layer}.norm.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(built.state_dict()) == set(plain.state_dict()) - {f"{layer}.bias" for layer in layers} | norms
    missing, unexpected = built.load_state_dict(plain.state_dict(), strict=False)
    assert set(missing) == norms
    assert set(unexpected) == {f"{layer}.bias" for layer in layers}
    assert plain.first.bias is not None


def test_behind_the_normalisers_the_scale_of_the_weights_does_not_matter():
    network = Network(NormalizeAndProject("free").build(Perceptron().double(), X.double()))
    params = network.fresh(0)
    scaled = {name: 1000 * p if p.ndim > 1 and "output" not in name else p for name, p in params.items()}
    torch.testing.assert_close(network(scaled, X.double()), network(params, X.double()), rtol=0, atol=1e-3)


@pytest.mark.parametrize("scales", ["project", "free"])
def test_projected_norms_are_constant_from_the_first_step_on(scales):
    one = population(NormalizeAndProject(scales))
    state = one.init()
    start = {name: p.norm() for name, p in state.params.items()}
    for _ in range(5):
        train(one, state, 1)
        for name in one.network.weights:
            torch.testing.assert_close(state.params[name].norm(), start[name])
        scale, offset = state.params["first.norm.weight"], state.params["first.norm.bias"]
        assert (torch.cat([scale, offset]).norm().item() == pytest.approx(math.sqrt(5))) == (scales == "project")


def test_decay_pulls_scales_to_one_and_offsets_to_zero():
    one = population(NormalizeAndProject("decay", decay=5.0), optimizer=SGD(0.1))
    state = one.init()
    state.params["first.norm.weight"].fill_(3.0)
    state.params["first.norm.bias"].fill_(1.0)
    seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    params = {name: p[0] for name, p in state.params.items()}
    carried = {kind: {name: t[0] for name, t in group.items()} for kind, group in state.interventions[0].items()}
    after = one.chain[0].after_step(one.network, params, {}, carried, seen).params
    assert after["first.norm.weight"].tolist() == [2.0] * 5
    assert after["first.norm.bias"].tolist() == [0.5] * 5


def test_projection_every_so_many_steps():
    one = population(Scheduled(NormalizeAndProject("project"), every=3))
    state = one.init()
    start = state.params["first.weight"].norm()
    constant = []
    for _ in range(6):
        train(one, state, 1)
        constant.append(state.params["first.weight"].norm().item() == pytest.approx(start.item(), rel=1e-6))
    assert constant == [False, False, True, False, False, True]


@pytest.mark.parametrize("settings", [("projected",), ("decay",), ("free", 0.1), ("project", -1.0)])
def test_normalize_and_project_refuses_what_makes_no_sense(settings):
    with pytest.raises(ValueError, match=r"expected (scales|decay) of NormalizeAndProject"):
        NormalizeAndProject(*settings)


# -- isometry and averages ---------------------------------------------------------------------------------------------


def test_fire_makes_every_singular_value_the_same():
    module = nn.Sequential(nn.Conv2d(2, 3, (1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2), nn.Embedding(3, 2))
    network = Network(module)
    params = {name: p.double() for name, p in network.fresh(0).items()}
    new = FIRE(iterations=40).on_event(network, "task_switch", params, {}, {}, Draw(0, 0)).params
    assert set(new) == {"0.weight", "3.weight"}
    for position in range(2):
        s = torch.linalg.svdvals(new["0.weight"][:, :, 0, position])
        torch.testing.assert_close(s, torch.full((2,), math.sqrt(3 / 2) / 2, dtype=torch.float64))
    torch.testing.assert_close(
        torch.linalg.svdvals(new["3.weight"]), torch.full((2,), math.sqrt(2 / 6), dtype=torch.float64)
    )
    u, _, v = torch.linalg.svd(params["3.weight"], full_matrices=False)
    torch.testing.assert_close(new["3.weight"], math.sqrt(2 / 6) * u @ v)  # the nearest of its kind


def test_fire_leaves_a_matrix_of_zeros_alone():
    network = Network(nn.Linear(3, 2, bias=False))
    new = FIRE().on_event(network, "task_switch", {"weight": torch.zeros(2, 3)}, {}, {}, Draw(0, 0)).params
    assert (new["weight"] == 0).all()


def test_the_hare_goes_back_every_so_many_steps():
    one = population(HareAndTortoise(decay=0.9, every=4))
    state = one.init()
    back = []
    for _ in range(9):
        train(one, state, 1)
        slow = state.interventions[0]["slow"]
        back.append(all(torch.equal(p, slow[name]) for name, p in state.params.items()))
    assert back == [False, False, False, True, False, False, False, True, False]


def test_hare_and_tortoise_needs_to_know_when():
    with pytest.raises(ValueError, match="expected every or event of HareAndTortoise"):
        HareAndTortoise(decay=0.9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HareAndTortoise(decay=1.0, every=2),
        lambda: HareAndTortoise(decay=0.5, every=0),
        lambda: SelectiveReinit(fraction=1.5, every=2),
        lambda: SelectiveReinit(fraction=0.5, every=0),
        lambda: FIRE(iterations=0),
        lambda: WeightClipping(kappa=0.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"expected \w+ of \w+ to be .*, got "):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda moments: HareAndTortoise(decay=0.5, every=2, moments=moments),
        lambda moments: SelectiveReinit(fraction=0.5, every=2, moments=moments),
        lambda moments: FIRE(moments=moments),
        lambda moments: Reset("last", moments=moments),
    ],
)
def test_moments_are_kept_or_cleared_and_nothing_else(make):
    with pytest.raises(
        ValueError, match=r"expected moments of \w+ to be 'keep' or 'clear'|'clear' or 'keep', got 'halve'"
    ):
        make("halve")
