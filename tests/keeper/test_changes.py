"""A model that is changed while it trains: the keeper goes on with what is there, or says what to do."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from pliant.interventions import (
    L2,
    Chain,
    ContinualBackprop,
    FeatureNormPenalty,
    HareAndTortoise,
    L2Init,
    OptimizerReset,
    ReDo,
    Reset,
    ShrinkAndPerturb,
    WeightClipping,
    WeightDecay,
)
from pliant.outline import Outline
from tests.keeper.loops import data, hooks, mlp, train


def squares(model, others=None):
    others = [torch.zeros_like(p) for p in model.parameters()] if others is None else others
    return sum((p - q).square().sum() for p, q in zip(model.parameters(), others, strict=True))


def new_head(model, optimizer):
    model[4] = nn.Linear(8, 6).double()


def assigned(model, optimizer):
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)


def deeper(model, optimizer):
    model.insert(4, nn.Linear(8, 8).double())


CHANGES = {"a new head": new_head, "load_state_dict(assign=True)": assigned, "a layer more": deeper}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_parameters_that_are_new_count_once_the_optimizer_has_them(change):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keeper = Chain(L2(1.0), WeightClipping(0.5)).attach(model, optimizer)
    train(model, optimizer, keeper, 2)
    change(model, optimizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keeper.follow(optimizer)
    penalty = keeper.penalty()
    torch.testing.assert_close(penalty, squares(model))
    optimizer.zero_grad()
    penalty.backward()
    assert all(torch.equal(p.grad, 2 * p) for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(100.0)
    train(model, optimizer, keeper, 1, start=2)
    assert max(p.abs().max() for p in model.parameters()) < 10.0


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_no_optimizer_holds_is_said_once_by_name_and_left_alone(change):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keeper = Chain(L2(1.0)).attach(model, optimizer)
    train(model, optimizer, keeper, 2)
    old = {id(p) for p in model.parameters()}
    change(model, optimizer)
    new = [name for name, p in model.named_parameters() if id(p) not in old]
    message = rf"no optimizer of the keeper holds {', '.join(new)}, .* or keeper.follow\(optimizer\)"
    with pytest.warns(UserWarning, match=message) as said:
        penalty = keeper.penalty()
    assert len(said) == 1
    held = [p for p in model.parameters() if id(p) in old]
    torch.testing.assert_close(penalty, sum((p.square().sum() for p in held), start=penalty.new_zeros(())))
    keeper.penalty().backward()  # also where nothing is left that an optimizer holds
    assert all(p.grad is None for p in model.parameters() if id(p) not in old)


def test_a_parameter_group_that_is_added_counts_from_then_on():
    model = mlp()
    optimizer = torch.optim.SGD(model[:4].parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="lacks 4.weight, 4.bias"):
        keeper = Chain(L2(1.0), WeightDecay(0.5)).attach(model, optimizer)
    train(model, optimizer, keeper, 2)
    optimizer.add_param_group({"params": list(model[4].parameters()), "lr": 0.2})
    torch.testing.assert_close(keeper.penalty(), squares(model))
    before = model[4].weight.detach().clone()
    optimizer.zero_grad()
    model(data()[0])
    optimizer.step()
    keeper.step()
    torch.testing.assert_close(model[4].weight, (1 - 0.2 * 0.5) * before)


def test_parameter_groups_that_are_refilled_in_place_are_followed():
    """As continual-learning libraries do for a new task: the same optimizer, other parameters and no state."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keeper = Chain(OptimizerReset(), L2(1.0)).attach(model, optimizer)
    train(model, optimizer, keeper, 3)
    model[4] = nn.Linear(8, 6).double()
    optimizer.param_groups[0]["params"] = list(model.parameters())
    optimizer.state.clear()
    torch.testing.assert_close(keeper.penalty(), squares(model))
    train(model, optimizer, keeper, 3)
    keeper.event("task_switch")
    assert all((t == 0).all() for state in optimizer.state.values() for t in state.values())


def test_a_new_optimizer_is_asked_for_and_followed():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    keeper = Chain(OptimizerReset(), ReDo(tau=0.0, every=5)).attach(model, optimizer)
    train(model, optimizer, keeper, 5)
    new = torch.optim.Adam(model.parameters(), lr=0.01)
    with pytest.warns(
        UserWarning, match=r"without a step of its Adam before it: .* keeper.follow\(optimizer\)"
    ) as said:
        train(model, new, keeper, 2)
    assert len(said) == 1
    keeper.follow(new)
    assert hooks(model, optimizer)[-1] == 0
    train(model, new, keeper, 2)
    with torch.no_grad():
        model[0].bias[:3] = -100.0
    train(model, new, keeper, 1)
    assert (new.state[model[0].weight]["exp_avg_sq"][:3] == 0).all()
    keeper.event("task_switch")
    assert new.state[model[0].weight]["step"] == 0
    keeper.detach()
    assert not any(hooks(model, optimizer, new))


def test_what_is_kept_of_a_layer_begins_anew_where_the_layer_is_new_and_goes_on_elsewhere():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    chain = Chain(L2Init(1.0), HareAndTortoise(0.5, every=100))
    initial = [p.detach().clone() for p in model.parameters()]
    keeper = chain.attach(model, optimizer)
    train(model, optimizer, keeper, 3)
    model[4] = nn.Linear(8, 6).double()
    initial[4:] = [p.detach().clone() for p in model[4].parameters()]
    slow = keeper.state[1]["slow"]["0.weight"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    keeper.follow(optimizer)
    torch.testing.assert_close(keeper.penalty(), squares(model, initial))
    assert torch.equal(keeper.state[1]["slow"]["0.weight"], slow)
    assert torch.equal(keeper.state[1]["slow"]["4.weight"], model[4].weight)
    train(model, optimizer, keeper, 3)
    torch.testing.assert_close(keeper.penalty(), squares(model, initial))


def test_assigned_weights_are_those_of_the_same_layers():
    """`assign=True` is a load like any other: what is kept of the layers stays."""
    model = mlp()
    initial = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    keeper = Chain(L2Init(1.0)).attach(model, optimizer)
    train(model, optimizer, keeper, 3)
    assigned(model, optimizer)
    keeper.follow(torch.optim.Adam(model.parameters()))
    torch.testing.assert_close(keeper.penalty(), squares(model, initial))


def test_freezing_and_thawing_are_followed_and_lose_nothing():
    model = mlp()
    initial = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keeper = Chain(L2Init(1.0), WeightDecay(1.0)).attach(model, optimizer)
    train(model, optimizer, keeper, 2)
    model[0].requires_grad_(False)
    optimizer.zero_grad()  # else its momentum-free step would still follow the old gradient
    frozen = model[0].weight.detach().clone()
    train(model, optimizer, keeper, 2)
    assert torch.equal(model[0].weight, frozen)
    torch.testing.assert_close(keeper.penalty(), squares(model[2:], initial[2:]))
    saved = keeper.state_dict()
    train(model, optimizer, keeper, 1)
    model[0].requires_grad_(True)
    torch.testing.assert_close(keeper.penalty(), squares(model, initial))
    again = copy.deepcopy(model)
    again[0].requires_grad_(False)
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    other = Chain(L2Init(1.0), WeightDecay(1.0)).attach(again, optimizer)
    other.load_state_dict(saved)
    train(again, optimizer, other, 1)
    again[0].requires_grad_(True)
    torch.testing.assert_close(other.penalty(), squares(again, initial))


def test_all_frozen_is_nothing_to_do():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keeper = Chain(L2(1.0), WeightDecay(1.0)).attach(model, optimizer)
    train(model, optimizer, keeper, 1)
    model.requires_grad_(False)
    optimizer.zero_grad()
    before = model[0].weight.clone()
    assert keeper.penalty() == 0
    model(data()[0])
    optimizer.step()
    keeper.step()
    assert torch.equal(model[0].weight, before)
    model.requires_grad_(True)
    torch.testing.assert_close(keeper.penalty(), squares(model))


def test_a_model_that_is_cast_is_followed():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keeper = Chain(L2Init(0.1), FeatureNormPenalty(0.1), ContinualBackprop(rho=0.5, maturity=1)).attach(
        model, optimizer
    )
    train(model, optimizer, keeper, 2)
    model.float()
    train(model, optimizer, keeper, 2)
    model(data(dtype=torch.float32)[0])
    assert keeper.penalty().dtype == torch.float32
    assert {t.dtype for t in keeper.state[0].values()} == {torch.float32}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


def test_a_swapped_activation_is_seen():
    class Cubed(nn.Module):
        def forward(self, x):
            return x * x * x

    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    keeper = Chain(ReDo(tau=0.0, every=1)).attach(model, optimizer)
    train(model, optimizer, keeper, 2)
    model[1] = Cubed()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 0.0, 0.0  # dead behind a cube
    x, y = data()
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        model[0].weight.grad[3], model[0].bias.grad[3] = 0.0, 0.0
    optimizer.step()
    keeper.step()
    assert (model[2].weight[:, 3] == 0).all()
    assert (model[0].weight[3] != 0).all()


def test_a_resized_layer_has_units_anew():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    keeper = Chain(ContinualBackprop(rho=0.5, maturity=0)).attach(model, optimizer)
    train(model, optimizer, keeper, 2)
    wide = nn.Linear(4, 12).double(), nn.Linear(12, 8).double()
    model[0], model[2] = wide
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    keeper.follow(optimizer)
    train(model, optimizer, keeper, 2)
    assert keeper.state[0]["utility"].shape == (12 + 8,)
    model[0].weight = nn.Parameter(torch.randn(5, 4, dtype=torch.float64))  # in place, as when units are pruned
    model[0].bias = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    model[2].weight = nn.Parameter(torch.randn(8, 5, dtype=torch.float64))
    keeper.follow(torch.optim.Adam(model.parameters(), lr=1e-3))
    model(data()[0])
    assert keeper.state[0]["utility"].shape == (5 + 8,)


def test_the_input_may_change_its_size():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    keeper = Chain(ReDo(tau=0.0, every=1), Reset("last")).attach(model, optimizer)
    train(model, optimizer, keeper, 2)
    model[0] = nn.Linear(7, 8).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    keeper.follow(optimizer)
    F.cross_entropy(model(torch.randn(6, 7, dtype=torch.float64)), data()[1]).backward()
    optimizer.step()
    keeper.step()
    head = model[4].weight.detach().clone()
    keeper.event("task_switch")
    assert not torch.equal(model[4].weight, head)


def test_a_function_that_builds_another_model_by_now_draws_no_more():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    keeper = Chain(ShrinkAndPerturb(0.0, 1.0)).attach(model, optimizer, fresh=mlp)
    train(model, optimizer, keeper, 1)
    new_head(model, optimizer)
    with pytest.warns(UserWarning, match="fresh builds another model than this is by now"):
        keeper.follow(torch.optim.SGD(model.parameters(), lr=0.0))
    before = model[4].weight.detach().clone()
    keeper.event("task_switch")
    assert not torch.equal(model[4].weight, before)


# -- the beginning and the end -----------------------------------------------------------------------------------------


def test_what_changes_between_an_evaluation_and_the_first_step_is_noticed():
    model = mlp()
    keeper = Chain(L2(1.0)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model.eval()(data()[0])
    model.train()[0].requires_grad_(False)
    model(data()[0])
    torch.testing.assert_close(keeper.penalty(), squares(model[2:]))


def test_a_recipe_that_cannot_start_takes_its_hooks_away():
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)
    optimizer = torch.optim.Adam(model.parameters())
    before = hooks(model, optimizer)
    failed = Chain(ReDo(tau=0.1)).attach(model, optimizer)
    with pytest.raises(ValueError, match="ReDo found no hidden units"):
        model(x)
    assert hooks(model, optimizer) == before
    keeper = Chain(L2(1e-3)).attach(model, optimizer)
    model(x)
    model.eval()(x)
    assert keeper.penalty() > 0
    with pytest.raises(ValueError, match="ReDo found no hidden units"):
        failed.step()


def test_what_is_said_at_the_start_is_said_where_warnings_are_errors():
    """As they are here: it is no forward pass that is missing."""

    class Standardised(nn.Linear):
        def forward(self, x):
            w = (self.weight - self.weight.mean(1, keepdim=True)) / self.weight.std(1, keepdim=True)
            return F.linear(x, w, self.bias)

    model = nn.Sequential(Standardised(3, 4), nn.ReLU(), Standardised(4, 2))
    Chain(ReDo(tau=0.0, every=1)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UserWarning, match=r"^ReDo leaves the units of 1 as they are: no weights read them one by one"):
        model(torch.randn(8, 3))


def test_units_that_one_optimizer_holds_in_part_alone_are_explained():
    model = mlp()
    muon = torch.optim.Muon([p for p in model.parameters() if p.ndim == 2])
    with pytest.warns(UserWarning, match="the optimizer lacks 0.bias"):
        Chain(ReDo(tau=0.1)).attach(model, muon)
    with pytest.raises(
        ValueError, match=r"0.bias for one: .* write recipe.attach\(model, \[optimizer_a, optimizer_b\]\)"
    ):
        model(data()[0])


def noted(keeper):
    return len(keeper._forwards._noted)


@pytest.mark.parametrize("chain", [Chain(WeightClipping(2.0)), Chain(ContinualBackprop(rho=0.1))], ids=repr)
def test_an_agent_that_acts_with_gradients_on_is_not_remembered(chain):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    keeper = chain.attach(model, optimizer)
    for step in range(20):
        model(data(step)[0]).argmax(1)
    assert noted(keeper) == 1
    x, y = data(50)
    parts = [F.cross_entropy(model(a), b) for a, b in zip(x.split(2), y.split(2), strict=True)]
    assert noted(keeper) == 3  # those that train, and not the one that acted last
    for part in parts:
        part.backward()
    model(data()[0]).argmax(1)
    assert noted(keeper) == 4
    model(data()[0]).argmax(1)
    assert noted(keeper) == 4
    optimizer.step()
    keeper.step()
    assert noted(keeper) == 0


def test_passes_with_several_outputs_count_if_a_gradient_went_through_any():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            out = self.net(x)
            return out[:, :1], {"rest": out[:, 1:]}

    model = Two()
    optimizer = torch.optim.Adam(model.parameters())
    keeper = Chain(WeightClipping(2.0)).attach(model, optimizer)
    for step in range(3):
        model(data(step)[0])[1]["rest"].sum().backward()
    assert noted(keeper) == 3


def test_a_keeper_that_nobody_steps_holds_two_steps_at_most():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    forgotten = Chain(WeightClipping(2.0)).attach(model, optimizer)
    keeper = Chain(WeightClipping(2.0)).attach(model, optimizer)
    train(model, optimizer, keeper, 20)
    assert noted(forgotten) <= 2


def test_graphs_are_let_go_after_a_step_and_by_detach():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    for end in ("step", "detach"):
        keeper = Chain(FeatureNormPenalty(0.1)).attach(model, optimizer)
        out = model(data()[0])
        (out.square().mean() + keeper.penalty()).backward()
        optimizer.step()
        sentinel = weakref.ref(keeper._forwards.latest["features"])
        keeper.step() if end == "step" else keeper.detach()
        del out
        gc.collect()
        assert sentinel() is None
        keeper.detach()


# -- the outline -------------------------------------------------------------------------------------------------------


def touch(model, what):
    if what == "training":
        x, y = data()
        F.cross_entropy(model(x), y).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        model.eval()
    elif what == "values":
        model.load_state_dict(mlp(seed=1).state_dict())
    elif what == "elsewhere":
        model[0].weight.data = model[0].weight.data.clone()
    elif what == "activation":
        model[1] = nn.GELU()
    elif what == "order":
        model[1], model[3] = model[3], model[1]
    elif what == "name":
        model._modules["head"] = model._modules.pop("4")
    elif what == "parametrized":
        nn.utils.parametrizations.weight_norm(model[0])
    elif what == "pruned":
        prune.identity(model[0], "weight")
    elif what == "buffer":
        model.register_buffer("mask", torch.ones(1))
    elif what == "frozen":
        model[4].bias.requires_grad_(False)
    elif what == "cast":
        model.float()
    elif what == "resized":
        model[4].bias.data = torch.zeros(7)
    else:
        CHANGES[what](model, None)


@pytest.mark.parametrize("what", ["training", "values", "elsewhere"])
def test_an_outline_holds_while_values_alone_change(what):
    model = mlp()
    outline = Outline(model)
    touch(model, what)
    assert outline.holds
    assert outline.alike(Outline(model))
    assert outline.replaced(model) == set()


@pytest.mark.parametrize(
    "what",
    [*CHANGES, "activation", "order", "name", "parametrized", "pruned", "buffer", "frozen", "cast", "resized"],
)
def test_an_outline_does_not_hold_where_parts_change(what):
    model = mlp()
    outline = Outline(model)
    assert outline.holds
    touch(model, what)
    assert not outline.holds
    assert outline.alike(Outline(model)) == (what == "frozen")
