"""What is asked of every network of the zoo, each answered without the code that is being checked.

A check returns what it found in a few words, fails where something is wrong, and lets refusals (`ValueError`) through.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import pliant
from pliant import L2, Chain, Inputs, LayerNorm, Monitor, Network, ReDo
from pliant.diagnostics import DormantUnits
from pliant.sites import arguments
from pliant.units import UnitGroup
from tests.bitwise import assert_same, streams
from tests.extras.zoo.network import Net, call, loss

EXACT: dict[torch.dtype, Any] = {
    torch.float64: {"rtol": 1e-7, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}
NONLINEAR = {  # as they are called in place, too, with an underscore
    "relu", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus", "tanh", "sigmoid", "hardtanh", "hardswish",
    "hardsigmoid", "sin", "cos",
}  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of others, and ours that the checks expect, are not errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def same(a: list[Tensor], b: list[Tensor], **tolerance: float) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, equal_nan=False, **tolerance)


# -- the network as a function -----------------------------------------------------------------------------------------


def function(net: Net) -> str:
    """`Network(model)(params, x)` equals `model(x)`, its gradients are the model's, and the model stays as it is."""
    model, x = net.new().eval(), net.batch()
    grads = [p.grad for p in model.parameters()]
    before = copy.deepcopy(model.state_dict()), streams()
    network = Network(model)
    params = network.params()
    assert params.keys() == dict(model.named_parameters()).keys()
    args, kwargs = arguments(x)
    leaves = {name: p.clone().requires_grad_(p.is_floating_point()) for name, p in params.items()}
    ours = network(leaves, x)
    same([t.detach() for t in call_leaves(ours)], [t.detach() for t in call(model, x)], rtol=0, atol=0)
    expected = torch.autograd.grad(loss(model(*args, **kwargs)), trained := trainable(model), allow_unused=True)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss(ours), [leaves[name] for name in names], allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one.to_dense(), other.to_dense(), rtol=1e-6, atol=1e-9)
    assert_same(before, (model.state_dict(), streams()))
    assert not model.training
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    return f"{len(trained)} gradients"


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def call_leaves(output: Any) -> list[Tensor]:
    return call(lambda _: output, None)  # type: ignore[arg-type]


# -- sites -------------------------------------------------------------------------------------------------------------


class Counted(TorchDispatchMode):
    """Every call of a nonlinear kernel on a batch of numbers: its name, and what entered and left it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        seen = name.rstrip("_") in NONLINEAR and args[0].ndim > 1
        before = args[0].detach().clone() if seen else None
        after = func(*args, **(kwargs or {}))
        if before is not None:
            self.calls.append((name, before, after.detach().clone()))
        return after


def counted(model: nn.Module, x: Any) -> list[tuple[str, Tensor, Tensor]]:
    """The nonlinear kernels that a forward pass runs on what depends on parameters: other numbers, other inputs."""
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved = {name: p * (1 + 1e-3 * torch.randn_like(p)) + 1e-3 for name, p in params.items()}
    found = []
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # in which torch's own encoder calls one kernel for a whole layer
    try:
        for values in (params, moved):
            put(model, values)
            with torch.no_grad(), Counted() as mode:
                call(model, x)
            found.append(mode.calls)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    assert [name for name, *_ in found[0]] == [name for name, *_ in found[1]]
    return [a for a, b in zip(*found, strict=True) if not torch.equal(a[1], b[1])]  # no numbers: not counted


def sites(net: Net) -> str:
    """The trace holds each nonlinear kernel's call once, in order, with the numbers that entered and left it."""
    model, x = net.new().eval(), net.batch()
    kernels = counted(net.new().eval(), x)
    network = Network(model)
    with quiet():
        found = network.trace(network.params(), x).sites
    found = {
        name: site for name, site in found.items() if site.pre.numel()
    }  # of an expert without tokens, there is none
    numbers = [(site.pre.numel(), name) for name, site in found.items()]
    expected = [(before.numel(), name) for name, before, _ in kernels]
    assert [n for n, _ in numbers] == [n for n, _ in expected], f"sites {numbers}, kernels {expected}"
    for (name, site), (_, _, after) in zip(found.items(), kernels, strict=True):
        if (
            abs(float(site.post.double().sum() - after.double().sum()))
            > 1e-4 * float(after.double().abs().sum()) + 1e-6
        ):
            assert _written_out(model, name), f"{name} returned other numbers than its kernel"
    return f"{len(found)} sites"


def _written_out(model: nn.Module, name: str) -> bool:
    """Whether the site is a module of several calls, one of which is the kernel (a GELU by tanh)."""
    module = dict(model.named_modules()).get(name.split("#")[0])
    return (
        module is not None
        and not any(True for _ in module.children())
        and not type(module).__module__.startswith("torch.nn")
    )


# -- units -------------------------------------------------------------------------------------------------------------


def half(units: UnitGroup) -> Tensor:
    return torch.arange(units.size) % 2 == 0


def altered(
    params: dict[str, Tensor], entries: dict[str, Any], chosen: Tensor, how: Callable[[Tensor], Tensor]
) -> dict:
    """Parameters with the entries of the chosen units changed."""
    new = dict(params)
    for name, those in entries.items():
        new[name] = torch.where(those.mask(chosen), how(new[name]), new[name])
    return new


def other(p: Tensor) -> Tensor:
    return 1.5 * p + 0.3 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(5))


def nothing(p: Tensor) -> Tensor:
    return torch.zeros_like(p)


def fed(units: UnitGroup) -> dict[str, Any]:
    return {**units.incoming, **units.normaliser}


@torch.no_grad()
def put(model: nn.Module, params: dict[str, Tensor]) -> None:
    """These parameters in place of the model's."""
    for name, p in model.named_parameters():
        p.copy_(params[name])


def outputs(model: nn.Module, params: dict[str, Tensor], x: Any, train: bool) -> list[Tensor]:
    """What the model returns with these parameters in it; in training, with the same random numbers each time."""
    put(model, params)
    torch.manual_seed(7)
    with torch.no_grad():
        return call(model.train(train), x)


def units(net: Net) -> str:
    """Each entry of the unit map against what happens where half of the units' entries are changed by hand."""
    model, x = net.typed(net.new()).eval(), net.batch(net.dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network = Network(model, example=x)
        groups = network.units
    said = " ".join(str(w.message) for w in caught)
    params = network.params()
    with quiet():
        first = network.trace(params, x)
    silenced = 0
    for group in groups:
        chosen = half(group)
        name, axis = group.sites[0]
        with quiet():
            # what enters the first site changes for the chosen units, each of them, and for no other
            moved = network.trace(altered(params, fed(group), chosen, other), x, axes={name: axis}).sites[name].pre
            before = network.trace(params, x, axes={name: axis}).sites[name].pre
            if not len(before):  # an expert without tokens
                continue
            changed = (moved - before).abs().amax(0) > (1e-9 if net.dtype is torch.float64 else 1e-5)
            assert changed.shape == (group.size,), f"{name}: {tuple(changed.shape)} columns for {group.size} units"
            assert changed[chosen].all(), f"{name}: entries that feed a unit do not move it"
            if group.exact and not group.shared_statistics:  # else by way of other sites, too
                assert not changed[~chosen].any(), f"{name}: entries that feed a unit move another"
            # silent units: by hand, all that feeds them is 0
            silent = altered(params, fed(group), chosen, nothing)
            post = network.trace(silent, x).sites[name].post
        assert post.shape == first.sites[name].post.shape
        dead = post.abs().amax(0) == 0
        zero = dead.shape == (group.size,) and bool(dead[chosen].all())
        with quiet():
            known = network.trace(silent, x, axes={name: axis}).sites[name].post.abs().amax(0) == 0
        assert zero == bool(known[chosen].all()), f"{name}: trace takes another axis than the unit map"
        for train in (False, True):
            if zero:  # with nothing to read, other outgoing entries change nothing
                a = outputs(model, silent, x, train)
                b = outputs(model, altered(silent, group.outgoing, chosen, nothing), x, train)
                same(a, b, **EXACT[net.dtype])
            unread = altered(params, group.outgoing, chosen, nothing)
            if group.exact:  # with nobody to read them, other units change nothing
                a = outputs(model, unread, x, train)
                mine = group.normaliser if group.shared_statistics else fed(group)
                b = outputs(model, altered(unread, mine, chosen, other), x, train)
                same(a, b, **EXACT[net.dtype])
        silenced += zero
    sizes = [group.size for group in groups]
    if net.units is not None:
        assert sorted(sizes) == sorted(net.units), f"units {sizes}, by hand {net.units}"
    if not groups:
        raise ValueError(f"no units: {said}")
    claimed = {site for group in groups for site, _ in group.sites}
    hidden = [name for name in first.sites if name not in claimed]
    assert not (net.whole and hidden), f"no units at {hidden}"
    exact = sum(group.exact for group in groups)
    missing = f", {len(hidden)} sites without" if hidden else ""
    return f"{len(groups)} groups of {min(sizes)} to {max(sizes)}, {exact} exact{missing}"


# -- the monitor -------------------------------------------------------------------------------------------------------


def trained(net: Net, watched: bool) -> tuple[Any, list[dict[str, float]]]:
    model, x = net.new().train(), net.batch()
    args, kwargs = arguments(x)
    optimizer = torch.optim.Adam(trainable(model), lr=1e-3)
    monitor = Monitor(model, (x, None), loss=loss, optimizer=optimizer, every=1, purify=True) if watched else None
    torch.manual_seed(3)
    for step in range(3):
        optimizer.zero_grad()
        loss(model(*args, **kwargs)).backward()
        optimizer.step()
        if monitor is not None:
            monitor(step)
    grads = [None if p.grad is None else p.grad.to_dense() for p in model.parameters()]
    state = [model.state_dict(), optimizer.state_dict(), grads, model.training, streams()]
    return state, [] if monitor is None else monitor.rows


def monitor(net: Net) -> str:
    """Training with the monitor is bitwise the training without; its rows are numbers."""
    with quiet():
        plain, _ = trained(net, False)
        watched, rows = trained(net, True)
    assert_same(plain, watched)
    assert [row["step"] for row in rows] == [0, 1, 2]
    columns = {name for row in rows for name in row if "/" not in name}
    assert {"dead", "gradient_norm", "relative_update"} <= columns, sorted(columns)
    ratios = ("norm_ratio/", "relative_update/", "fresh/norm_ratio/")  # of one tensor, which may have been all 0
    values = [(name, value) for row in rows for name, value in row.items() if not name.startswith(ratios)]
    odd = {name for name, value in values if not math.isfinite(value)}
    assert not odd, f"no numbers: {sorted(odd)}"
    seen = silent_units_show(net)
    return f"{len(columns)} columns, silence seen at {seen} sites"


def silent_units_show(net: Net) -> int:
    """At how many sites the monitor says that half of the units are silent where they were made silent by hand."""
    model, x = net.new(), net.batch()
    with quiet():
        params, killed = silence(Network(net.new().eval(), example=x), x)
        put(model, params)
        (row,) = [Monitor(model.eval(), (x, None), diagnostics=(DormantUnits(tau=0.0),))(0)]
    assert row is not None
    for group in killed:
        share = half(group).double().mean()
        assert row[f"dormant/{group.sites[0][0]}"] >= share - 1e-6, f"{group.name} is half silent, {row}"
    return len(killed)


def silence(network: Network, x: Any) -> tuple[dict[str, Tensor], list[UnitGroup]]:
    """Parameters with half of all units made silent by hand, and the groups where that is so."""
    params, killed = network.params(), []
    for group in network.units:
        gone = altered(params, fed(group), half(group), nothing)
        post = network.trace(gone, x, axes=dict(group.sites)).sites[group.sites[0][0]].post
        if len(post) and (post[:, half(group)] == 0).all():
            params = gone
            killed.append(group)
    return params, killed


# -- interventions -----------------------------------------------------------------------------------------------------


def build(net: Net) -> str:
    """Layer norm built in: each one is called, a copy with the old names trains, and the model is as it was."""
    model, x = net.new(), net.batch()
    before = copy.deepcopy(model.state_dict())
    recipe = Chain(LayerNorm(), L2(1e-3), ReDo(tau=0.0, every=2))
    with quiet():
        built = recipe.build(model, example=x)
        assert_same(before, model.state_dict())
        assert dict(model.named_parameters()).keys() <= dict(built.named_parameters()).keys()
        old = dict(model.named_modules())
        new = {n: m for n, m in built.named_modules() if n not in old or type(m) is not type(old[n])}
        norms = {name: m for name, m in new.items() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))}
        assert norms, "nothing was built in"
        called: set[str] = set()
        hooks = [m.register_forward_hook(lambda *_, name=name: called.add(name)) for name, m in norms.items()]
        call(built, x)
        assert called == norms.keys()
        for hook in hooks:
            hook.remove()
        train(built, x, recipe, net)
    return f"{len(norms)} layer norms"


def attach(net: Net) -> str:
    """Penalty and resets attached: the penalty is the sum by hand, and nothing is left behind."""
    model, x = net.new(), net.batch()
    with quiet():
        train(model, x, Chain(L2(1e-3), ReDo(tau=0.0, every=2)), net)
    return "trains, detaches"


def train(model: nn.Module, x: Any, recipe: Chain, net: Net) -> None:
    args, kwargs = arguments(x)
    model.train()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    optimizer = torch.optim.Adam(trainable(model), lr=1e-3)
    fresh = net.new_fresh if list(model.state_dict()) == list(net.new_fresh().state_dict()) else None
    keeper = recipe.attach(model, optimizer, **({"fresh": fresh} if fresh else {}))
    for _ in range(2):
        optimizer.zero_grad()
        value = loss(model(*args, **kwargs))
        penalty = keeper.penalty()
        everything = sum(float(p.detach().double().square().sum()) for p in trainable(model))
        assert 0 < float(penalty) <= 1.001e-3 * everything
        (value + penalty).backward()
        optimizer.step()
        keeper.step()
    keeper.detach()
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert all(p.isfinite().all() for p in model.parameters())


def redo(net: Net) -> str:
    """Units killed by hand are drawn anew, and what the network computes in training is what it was."""
    model, x = net.typed(net.new()), net.batch(net.dtype)
    with quiet():
        params, killed = silence(Network(model.eval(), example=x), x)
    if not killed:
        raise ValueError("no unit can be silenced")
    before, old = outputs(model, params, x, train=True), params
    optimizer = torch.optim.SGD(trainable(model), lr=0.0)
    args, kwargs = arguments(x)
    with quiet():
        torch.manual_seed(7)
        keeper = Chain(ReDo(tau=0.0, every=1)).attach(model, optimizer, fresh=lambda: net.typed(net.new_fresh()))
        loss(model(*args, **kwargs)).backward()
        optimizer.step()
        keeper.step()
        keeper.detach()
    after = outputs(model, dict(model.named_parameters()), x, train=True)
    same(after, before, **EXACT[net.dtype])
    now, drawn = dict(model.named_parameters()), 0
    for group in killed:
        changed, free = torch.zeros(group.size, dtype=torch.bool), torch.zeros(group.size, dtype=torch.bool)
        for name, entries in group.incoming.items():
            unread = torch.ones_like(entries.codes, dtype=torch.bool)
            for source in killed:  # what would read a silent unit is 0 afterwards
                if name in source.outgoing:
                    unread &= ~source.outgoing[name].mask(half(source))
            changed |= entries.sums((now[name] != old[name]).double()) > 0
            free |= entries.sums((unread & now[name].requires_grad).double()) > 0
        drawn += int(changed[half(group)].sum())
        whole = all(now[name].requires_grad for name in group.touched)  # else they are left as they are
        if group.exact and not group.shared_statistics and whole and free[half(group)].all():
            share = changed[half(group)].double().mean()
            assert share >= 0.5, f"{share:.0%} of the silent units of {group.name} were drawn anew"
    total = sum(int(half(group).sum()) for group in killed)
    return f"{drawn} of {total} silent units drawn anew"


# -- the probe ---------------------------------------------------------------------------------------------------------


class Probed(nn.Module):
    """The part of a network that a probe refits: its first output; what is no tensor among its inputs is held here."""

    def __init__(self, model: nn.Module, x: Any) -> None:
        super().__init__()
        self.model = model
        kwargs = x.kwargs if isinstance(x, Inputs) else {}
        self.names = [name for name, value in kwargs.items() if isinstance(value, Tensor)]
        self.held = {name: value for name, value in kwargs.items() if name not in self.names}

    def forward(self, *args: Any) -> Tensor:
        named = dict(zip(reversed(self.names), reversed(args), strict=False))
        rest = args[: len(args) - len(named)]
        return call(self.model, Inputs(rest, {**named, **self.held}))[0]


def probed(net: Net) -> tuple[nn.Module, Any, Callable[[], nn.Module]]:
    """A network as a probe takes it: wrapped where it returns several tensors, or takes what is none."""
    model, x = net.new(), net.batch()
    args, kwargs = arguments(x)
    held = any(not isinstance(value, Tensor) for value in kwargs.values())
    plain = isinstance(net.new()(*args, **kwargs), Tensor)
    if plain and not held:
        return model, x, net.new_fresh
    tensors = (*args, *(value for value in kwargs.values() if isinstance(value, Tensor)))
    return Probed(model, x), Inputs(tensors, {}), lambda: Probed(net.new_fresh(), x)


BUDGET: dict[str, Any] = {"targets": 2, "steps": 3, "batch_size": 4, "purify": True}


def plasticity(net: Net) -> str:
    """Refits against fresh networks end with numbers, and leave the model alone."""
    model, x, fresh = probed(net)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(trainable(model), lr=1e-3)
    with quiet():
        found = pliant.plasticity(model, inputs=x, optimizer=optimizer, fresh=fresh, probe=net.probe, **BUDGET)
    assert_same(before, model.state_dict())
    assert all(curve.shape[0] == 2 and (curve >= 0).all() for curve in found.curves.values())
    assert (found.curves["fresh"][:, 0] != found.curves["fresh"][:, -1]).all(), "the refits did not move"
    return f"{len(found.curves)} x {len(found.baseline)} refits"


def disentangle(net: Net) -> str:
    """Every set of repairs is refitted; shares add up to one, and the model is left alone."""
    model, x, fresh = probed(net)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(trainable(model), lr=1e-3)
    with quiet():
        found = pliant.disentangle(model, inputs=x, optimizer=optimizer, fresh=fresh, probe=net.probe, **BUDGET)
    assert_same(before, model.state_dict())
    if found.lost.mean() != 0:
        assert abs(sum(part.mean for part in found.parts.values()) - found.gap.mean) < 1e-6
    return f"{len(found.repairs)} repairs"


CHECKS: dict[str, Callable[[Net], str]] = {
    check.__name__: check for check in (function, sites, units, monitor, build, attach, redo, plasticity, disentangle)
}
