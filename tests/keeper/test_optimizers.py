"""Several optimizers and parameter groups: one keeper for all, and its numbers are those of one optimizer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant import optim
from pliant.interventions import (
    L2,
    AdamRel,
    Chain,
    ContinualBackprop,
    FeatureNormPenalty,
    OptimizerReset,
    ReDo,
    Reset,
    ShrinkAndPerturb,
    WeightDecay,
)
from pliant.keeper.held import Held
from tests.keeper.loops import data, hooks, mlp, train

RECIPE = Chain(L2(0.1), ContinualBackprop(rho=0.3, maturity=1), ReDo(tau=0.9, every=2), WeightDecay(0.1))


def parts(model):
    return [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim == 1]


SPLITS = {
    "two optimizers": lambda m: [torch.optim.Adam(part, lr=0.01) for part in parts(m)],
    "two groups": lambda m: [torch.optim.Adam([{"params": part} for part in parts(m)], lr=0.01)],
    "two optimizers by depth": lambda m: [
        torch.optim.Adam(m[:2].parameters(), lr=0.01), torch.optim.Adam(m[2:].parameters(), lr=0.01)
    ],
}  # fmt: skip


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_several_optimizers_of_the_same_settings_are_one(split):
    chain = Chain(*RECIPE, OptimizerReset(), ShrinkAndPerturb(0.9, 0.1, moments="clear"))
    found = []
    for make in (lambda m: [torch.optim.Adam(m.parameters(), lr=0.01)], split):
        model = mlp()
        optimizers = make(model)
        keeper = chain.attach(model, optimizers, seed=2)
        train(model, optimizers, keeper, 6)
        keeper.event("task_switch")
        train(model, optimizers, keeper, 6, start=6)
        states = {p: state for o in optimizers for p, state in o.state.items()}
        found.append([model.state_dict(), [states[p] for p in model.parameters()]])
        keeper.detach()
        assert not any(hooks(model, *optimizers))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_every_optimizer_has_its_own_learning_rate():
    model = mlp()
    optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2:].parameters(), lr=0.2)]
    keeper = Chain(WeightDecay(0.5)).attach(model, tuple(optimizers))
    F.cross_entropy(model(data()[0]), data()[1]).backward()
    for optimizer in optimizers:
        optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    keeper.step()
    for p, old, lr in zip(model.parameters(), before, [0.1, 0.1, 0.2, 0.2, 0.2, 0.2], strict=True):
        torch.testing.assert_close(p, (1 - lr * 0.5) * old, rtol=1e-14, atol=0)


def test_kinds_of_moments_may_differ():
    """Muon beside AdamW: what ReDo draws anew has no moments in either."""
    model = mlp(dtype=torch.float32)
    two, one = parts(model)
    optimizers = [torch.optim.Muon(two), torch.optim.AdamW(one)]
    keeper = Chain(ReDo(tau=0.0, every=3), OptimizerReset()).attach(model, optimizers)
    train(model, optimizers, keeper, 2)
    with torch.no_grad():
        model[0].bias[:3] = -100.0
    train(model, optimizers, keeper, 1)
    assert (optimizers[0].state[model[0].weight]["momentum_buffer"][:3] == 0).all()
    assert (optimizers[0].state[model[2].weight]["momentum_buffer"][:, :3] == 0).all()
    assert (optimizers[0].state[model[0].weight]["momentum_buffer"][3:] != 0).any()
    assert (optimizers[1].state[model[0].bias]["exp_avg_sq"][:3] == 0).all()
    keeper.event("task_switch")
    assert all((t == 0).all() for o in optimizers for state in o.state.values() for t in state.values())


def test_a_parameter_of_two_optimizers_has_the_moments_of_both_edited():
    model = mlp()
    optimizers = [torch.optim.Adam(model.parameters()), torch.optim.Adam(model[0].parameters())]
    keeper = Chain(ReDo(tau=0.0, every=2), OptimizerReset()).attach(model, optimizers)
    train(model, optimizers, keeper, 1)
    with torch.no_grad():
        model[0].bias[:3] = -100.0
    train(model, optimizers, keeper, 1)
    for optimizer in optimizers:
        moment = optimizer.state[model[0].weight]["exp_avg_sq"]
        assert (moment[:3] == 0).all()
        assert (moment[3:] != 0).any()
    keeper.event("task_switch")
    assert all((t == 0).all() for o in optimizers for state in o.state.values() for t in state.values())


def test_an_actor_that_steps_less_often_than_its_critic():
    model = mlp()
    critic, actor = torch.optim.Adam(model[:4].parameters()), torch.optim.Adam(model[4].parameters())
    keeper = Chain(ContinualBackprop(rho=0.3, maturity=1)).attach(model, [critic, actor])
    for step in range(6):
        x, y = data(step)
        critic.zero_grad()
        F.cross_entropy(model(x), y).backward()
        critic.step()
        if step % 2:
            actor.zero_grad()
            F.cross_entropy(model(x), y).backward()
            actor.step()
        keeper.step()
    assert keeper.steps == 6
    counts = [optimizer.state[p]["step"].item() for optimizer, p in ((critic, model[0].bias), (actor, model[4].bias))]
    assert counts == [6, 3]


def test_unknown_moments_matter_where_they_are_touched_alone():
    model = mlp()
    optimizers = [torch.optim.Adagrad(model[:2].parameters()), torch.optim.Adam(model[2:].parameters())]
    keeper = Chain(Reset("last", moments="clear")).attach(model, optimizers)
    train(model, optimizers, keeper, 2)
    keeper.event("task_switch")
    assert (optimizers[1].state[model[4].weight]["exp_avg"] == 0).all()
    keeper = Chain(OptimizerReset()).attach(model, optimizers)
    with pytest.raises(ValueError, match=r"OptimizerReset\(.* those of Adagrad are not known: use SGD, Adam"):
        keeper.event("task_switch")


class Wrapped(torch.optim.Optimizer):
    """As accelerate's: it has an optimizer, and is one in name."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_wrapped_optimizers_are_what_they_wrap():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    keeper = Chain(OptimizerReset(), ReDo(tau=0.5, every=1)).attach(model, Wrapped(optimizer))
    train(model, optimizer, keeper, 2)
    keeper.event("task_switch")
    assert optimizer.state[model[0].weight]["step"] == 0


REFUSED = {
    "ours": (optim.Adam(1e-3), r"got Adam: write pliant.optim.TorchOptimizer\(model, Adam\(...\)\)"),
    "a class": (torch.optim.AdamW, r"got AdamW: write torch.optim.AdamW\(model.parameters\(\)\)"),
    "nothing": (None, r"got NoneType: write torch.optim.Adam\(model.parameters\(\)\), or \[optimizer_a, optimizer_b\]"),
    "a name": ("adam", "got str"),
    "a dict": ({"actor": 1}, "got dict: .* for several"),
    "none": ([], r"got none: write \[optimizer\]"),
    "parameters": ([nn.Parameter(torch.ones(1))], "got Parameter"),
}


@pytest.mark.parametrize(("optimizer", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_optimizer_is_refused_with_the_line_to_write(optimizer, message):
    model = mlp()
    before = hooks(model)
    for use in (lambda o: Chain(L2(0.1)).attach(model, o), lambda o: Held(model, o)):
        with pytest.raises(ValueError, match=message):
            use(optimizer)
    keeper = Chain(L2(0.1)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=message):
        keeper.follow(optimizer)
    assert keeper.penalty() > 0
    keeper.detach()
    assert hooks(model) == before


def test_before_the_first_step_there_is_nothing_to_reset_and_nothing_is_said():
    """Adam has no step count yet: that is not the same as having none."""
    model = mlp()
    keeper = Chain(AdamRel(), OptimizerReset()).attach(model, torch.optim.Adam(model.parameters()))
    keeper.event("task_switch")
    keeper = Chain(AdamRel()).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match="AdamRel found no step count to reset"):
        keeper.event("task_switch")


# -- copies of the model -----------------------------------------------------------------------------------------------


class Shadow(nn.Module):
    """An average of another library, with the model's copy somewhere inside."""

    def __init__(self, model):
        super().__init__()
        self.extra, self.ema_model = nn.Linear(1, 1), copy.deepcopy(model)


WRAPPERS = {
    "bare": copy.deepcopy,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "compiled": lambda m: torch.compile(copy.deepcopy(m), backend="eager"),
    "DataParallel": lambda m: nn.DataParallel(copy.deepcopy(m)),
    "an average of a compiled copy": lambda m: torch.optim.swa_utils.AveragedModel(torch.compile(m, backend="eager")),
    "of another library": Shadow,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_tied_copies_may_be_wrapped(wrap):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    keeper = Chain(ShrinkAndPerturb(0.5, 0.5)).attach(model, optimizer)
    tied = wrap(model)
    train(model, optimizer, keeper, 2)
    assert not torch.equal(list(tied.parameters())[-1], model[4].bias)
    with torch.no_grad():
        for p, q in zip(list(tied.parameters())[-6:], model.parameters(), strict=True):
            p.copy_(q)
    keeper.event("task_switch", tied=tied)
    for p, q in zip(list(tied.parameters())[-6:], model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.usefixtures("one_process")
def test_distributed_models_and_copies_are_seen_through(compiled):
    plain, model = mlp(), mlp()
    wrapped = nn.parallel.DistributedDataParallel(model)
    wrapped = torch.compile(wrapped, backend="eager") if compiled else wrapped
    tied = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    average = torch.optim.swa_utils.AveragedModel(nn.parallel.DistributedDataParallel(copy.deepcopy(model)))
    for trained, shown, copies in ((plain, plain, ()), (model, wrapped, (tied, average))):
        optimizer = torch.optim.Adam(trained.parameters())
        keeper = Chain(ReDo(tau=0.2, every=2), ShrinkAndPerturb(0.5, 0.5)).attach(shown, optimizer)
        train(shown, optimizer, keeper, 4)
        keeper.event("task_switch", tied=copies)
        keeper.detach()
    assert all(map(torch.equal, model.parameters(), plain.parameters()))
    for p, q, start in zip(tied.parameters(), average.parameters(), mlp().parameters(), strict=False):
        assert torch.equal(p, q)
        assert not torch.equal(p, start)


def test_what_is_no_copy_is_refused():
    model = mlp()
    keeper = Chain(ShrinkAndPerturb(0.5, 0.5)).attach(model, torch.optim.Adam(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    for tied, message in (
        (mlp(outputs=5), "got one without 4.weight of "),
        ([model.state_dict()], "expected tied copies of the model, got .*: write tied="),
        (nn.Linear(1, 1), "got one without 0.weight"),
    ):
        with pytest.raises(ValueError, match=message):
            keeper.event("task_switch", tied=tied)
    assert all(map(torch.equal, before, model.parameters()))


# -- compiled in place -------------------------------------------------------------------------------------------------


def test_a_model_compiled_in_place_trains_like_the_original():
    torch._dynamo.reset()
    chain = Chain(L2(0.1), FeatureNormPenalty(0.1), ContinualBackprop(rho=0.4, maturity=1))
    plain, compiled = mlp(), mlp()
    compiled.compile(backend="eager")
    call = compiled._compiled_call_impl
    for model in (plain, compiled):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        keeper = chain.attach(model, optimizer)
        train(model, optimizer, keeper, 6)
        keeper.detach()
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-12)
    assert compiled._compiled_call_impl is call
    copy.deepcopy(compiled)(data()[0])


@pytest.mark.filterwarnings("ignore")  # Dynamo's own
def test_optimizers_whose_step_is_compiled_are_followed():
    torch._dynamo.reset()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keeper = Chain(WeightDecay(0.1)).attach(model, optimizer)
    step = torch.compile(optimizer.step, backend="eager")
    for i in range(3):
        x, y = data(i)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        step()
        keeper.step()
    assert keeper.steps == 3
