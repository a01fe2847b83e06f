"""Plasticity injection: a fresh head beside the old one, which starts at no change of the output."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils._pytree import tree_leaves, tree_map

from pliant.adapter import adapted
from pliant.cutting import FROZEN
from pliant.interventions._building import Among, last_of, layers_in_order, prepared
from pliant.interventions.base import Change, Draw, Intervention, Seen, State, check_choice, cleared, everything
from pliant.modules import seeded
from pliant.network import Network, Params
from pliant.optim import Moments
from pliant.sites import LAYERS, arguments


@dataclass(frozen=True)
class PlasticityInjection(Intervention):
    """From an event on, the head h of the network becomes h_theta + h_new - h_frozen, and only h_new goes on learning.

    The head is made of the last layers. `build` gives each of them two more copies of its parameters, under
    `injection.new` and `injection.frozen`; existing parameters keep their names. Until the event the copies contribute
    nothing and receive no gradient. At the event both are drawn anew, alike, so that the output does not change; theta
    and the frozen copy receive no gradient any more, and stay what they are whatever penalties and other interventions
    do to them. The layers before the head go on learning. Further events change nothing.

    With several layers in the head, its hidden nonlinearities see three samples (new, frozen, theta) for each example.
    Normalisers and other weights come before it in a chain.

    `build` raises `ValueError` if there are fewer layers, or several output layers and `layers` above 1, if one of them
    is frozen or tied to another layer, and where they do not follow each other sample by sample (a sum with something
    before the head, batch statistics).

    Args:
        layers: how many linear or convolution layers form the head, at least 1; with 1, each of several output layers
            is a head.
        event: when.
        moments: of the copies that are drawn: `"clear"` or `"keep"`; the step count is left alone (see `cleared`).

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
    >>> built = PlasticityInjection(layers=1).build(net, example=torch.ones(1, 2))
    >>> [name for name, _ in built.named_parameters()][2:]
    ['2.weight', '2.injection.open', '2.injection.new.weight', '2.injection.frozen.weight']

    Source: Nikishin et al. 2023, eq. 1. Deviation: what happens to the optimizer's moments is a choice.
    """

    reference: ClassVar[str] = "nikishin2023"
    touches: ClassVar[str] = "last layers"

    layers: int
    event: str = "task_switch"
    moments: Literal["clear", "keep"] = "clear"

    def __post_init__(self) -> None:
        if not (isinstance(self.layers, int) and self.layers >= 1):
            raise ValueError(f"expected layers of PlasticityInjection to be at least 1, got {self.layers!r}")
        check_choice("PlasticityInjection", "moments", self.moments, ("clear", "keep"))

    def build(self, module: nn.Module, example: Any, among: Among = everything) -> nn.Module:
        plain = prepared("PlasticityInjection", module)
        kind = type(plain).__name__
        if any(isinstance(m, Injection) for m in plain.modules()):
            raise ValueError(f"PlasticityInjection is in {kind} already: build it into a module once")
        order = layers_in_order(plain, example)
        outputs = last_of(order, plain, example)
        head = outputs if self.layers == 1 else order[-self.layers :]
        if len(order) < self.layers or not outputs or (self.layers > 1 and outputs != head[-1:]):
            raise ValueError(
                f"PlasticityInjection found no head of {self.layers} layers with one output layer in {kind}, whose "
                f"layers are {', '.join(order)}"
            )
        built = copy.deepcopy(plain)
        for path in head:
            layer = built.get_submodule(path)
            assert isinstance(layer, LAYERS)
            if not all(p.requires_grad for p in layer.parameters()):
                raise ValueError(f"PlasticityInjection cannot take {path} of {kind} for a head: it is frozen")
            named = built.named_parameters(remove_duplicate=False)
            if tied := [n for n, p in named if p is layer.weight and n != f"{path}.weight".lstrip(".")]:
                raise ValueError(
                    f"PlasticityInjection cannot take {path} of {kind} for a head: its weight is {tied[0]}"
                )
            layer.register_module("injection", Injection(layer))
            for hooks in (layer._forward_hooks, layer._forward_pre_hooks):
                hooks.clear()  # the copies have them
            alone = self.layers == 1
            layer.forward = Injected(layer, first=alone or path == head[0], last=alone or path == head[-1])
        _check(f"the last {self.layers} layers of {kind}", plain, built, head, example)
        return built

    def init(self, network: Network, params: Params) -> State:
        names = [name for layer in _injected(network) for name in layer.held]
        if not names:
            raise ValueError(
                f"PlasticityInjection found no branches in {type(network.module).__name__}: write "
                "module = Chain(PlasticityInjection(...), ...).build(module, example=x) first"
            )
        return {name: params[name].clone() for name in names}

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        new: Params = {}
        for layer in _injected(network):
            gate = params[layer.open]
            new[layer.open] = torch.where(gate > 0, 1.0, -1.0).to(gate)
            new |= {name: torch.where(gate > 0, state[name], params[name]) for name in layer.held}
        return Change(new)

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        layers = list(_injected(network))
        if event != self.event or any(params[layer.open] > 0 for layer in layers):
            return None
        fresh = draw.fresh(network, [name for layer in layers for name in layer.own])
        new: Params = {}
        for layer in layers:
            new[layer.open] = torch.ones_like(params[layer.open])
            for name, copies in layer.own.items():
                new |= {each: fresh[name].to(params[name], copy=True) for each in copies}
        held = {name: new.get(name, params[name]).clone() for layer in layers for name in layer.held}
        drawn = {name: torch.ones_like(p, dtype=torch.bool) for name, p in new.items()}
        return Change(new, cleared(moments, drawn) if self.moments == "clear" else {}, held)


class Injection(nn.Module):
    """Two copies of a layer, and whether they count: where `open` is above 0.

    >>> Injection(nn.Linear(1, 2)).open
    Parameter containing:
    tensor(-1., requires_grad=True)
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        weight: Tensor = layer.weight  # type: ignore[assignment]
        self.open = nn.Parameter(torch.tensor(-1.0, device=weight.device, dtype=weight.dtype))
        self.new, self.frozen = copy.deepcopy(layer), copy.deepcopy(layer)
        for each in (self.new, self.frozen):
            each.reset_parameters = partial(_drawn_aside, each)  # type: ignore[assignment]

    def reset_parameters(self) -> None:
        nn.init.constant_(self.open, -1.0)


class Injected:
    """The forward pass of a layer of the head; between layers, the samples of the three heads follow each other."""

    def __init__(self, layer: nn.Module, first: bool, last: bool):
        self.layer, self.first, self.last = layer, first, last

    def __call__(self, input: Tensor) -> Tensor:
        injection: Injection = self.layer.injection  # type: ignore[assignment]
        gate = injection.open.detach()
        own = {n: held(p, gate) for n, p in self.layer.named_parameters() if not n.startswith("injection.")}
        frozen = {n: held(p, torch.ones_like(gate)) for n, p in injection.frozen.named_parameters()}
        x_new, x_frozen, x_own = (input,) * 3 if self.first else input.chunk(3)
        y_new = injection.new(x_new)
        y_frozen = functional_call(injection.frozen, frozen, (x_frozen,))
        y_own = functional_call(injection.frozen, own, (x_own,))
        return y_own + counted(y_new - y_frozen, gate) if self.last else torch.cat([y_new, y_frozen, y_own])


def held(p: Tensor, gate: Tensor) -> Tensor:
    """A parameter, without a gradient where the gate is above 0; a mode sees the call.

    >>> p = torch.ones(2, requires_grad=True)
    >>> torch.autograd.grad(held(p, torch.tensor(1.0)).sum(), p)
    (tensor([0., 0.]),)
    """
    if has_torch_function_unary(p):
        return handle_torch_function(held, (p,), p, gate)
    return torch.where(gate > 0, p.detach(), p)


def counted(y: Tensor, gate: Tensor) -> Tensor:
    """What counts where the gate is above 0, else 0; a mode sees the call.

    >>> counted(torch.ones(1), torch.tensor(-1.0))
    tensor([0.])
    """
    if has_torch_function_unary(y):
        return handle_torch_function(counted, (y,), y, gate)
    return torch.where(gate > 0, y, 0.0)


FROZEN[held] = FROZEN[counted] = lambda t, gate: t  # to the unit map, all copies are there


@dataclass(frozen=True)
class _Names:
    """The parameters of a layer of the head: theta with its two copies, what is held after the event, and the gate."""

    open: str
    own: dict[str, tuple[str, str]]

    @property
    def held(self) -> list[str]:
        return [*self.own, *(frozen for _, frozen in self.own.values())]


def _injected(network: Network) -> Iterator[_Names]:
    for gate in network.names:
        if gate.endswith("injection.open"):
            path = gate.removesuffix("injection.open")
            names = [
                n.removeprefix(f"{path}injection.new.") for n in network.names if n.startswith(f"{path}injection.new.")
            ]
            copies = {n: (f"{path}injection.new.{n}", f"{path}injection.frozen.{n}") for n in names}
            yield _Names(gate, {f"{path}{n}": pair for n, pair in copies.items()})


def _drawn_aside(layer: nn.Module) -> None:
    """Draws a layer, and puts the stream back: the others are drawn as without it."""
    with torch.random.fork_rng(devices=[]):
        type(layer).reset_parameters(layer)  # type: ignore[attr-defined]


def _check(what: str, plain: nn.Module, built: nn.Module, head: list[str], example: Any) -> None:
    """Runs what was built, with three heads that differ, against three runs of what it was built from."""
    plain, built = adapted(plain), adapted(built)
    args, kwargs = arguments(example)
    kinds = {p.dtype for p in plain.parameters()}
    tolerance = 1e-5 if len(kinds) == 1 else max(torch.finfo(kind).eps for kind in kinds) ** 0.5
    if len(kinds) == 1:  # of several, the forward pass itself may cast
        plain, built = plain.double(), built.double()
        args, kwargs = tree_map(lambda t: t.double() if _is_float(t) else t, (args, kwargs))

    def run(module: nn.Module, params: Params) -> list[Tensor]:
        with torch.no_grad(), seeded(0):
            return [t for t in tree_leaves(functional_call(module, params, args, kwargs)) if _is_float(t)]

    heads: dict[str, Params] = {"new": {}, "frozen": {}}
    params: Params = {}
    with seeded(0):
        for path in head:
            prefix = f"{path}.".lstrip(".")
            injection: Injection = built.get_submodule(f"{prefix}injection")  # type: ignore[assignment]
            params[f"{prefix}injection.open"] = torch.ones_like(injection.open)
            for kind, found in heads.items():
                for name, p in injection.get_submodule(kind).named_parameters():
                    found[f"{prefix}{name}"] = params[f"{prefix}injection.{kind}.{name}"] = torch.randn_like(p)
    try:
        wanted = zip(run(plain, {}), run(plain, heads["new"]), run(plain, heads["frozen"]), strict=True)
        pairs = zip(run(built, params), wanted, strict=True)
        same = all(torch.allclose(y, a + b - c, rtol=tolerance, atol=1e-3 * tolerance) for y, (a, b, c) in pairs)
    except RuntimeError:
        same = False
    if not same:
        raise ValueError(
            f"PlasticityInjection cannot take {what} for a head: they do not follow each other sample by sample"
        )


def _is_float(t: Any) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point()
