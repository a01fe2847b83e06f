"""How a probe trains: the optimizer's settings and state, taken from a `torch.optim` optimizer or given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer as Torch

from pliant.interventions import L2, Chain, WeightDecay
from pliant.keeper.held import Held
from pliant.network import Params
from pliant.optim import SGD, Adam, Moments, Optimizer, RMSProp, TorchOptimizer
from pliant.optim.base import Around


@dataclass(frozen=True)
class Training:
    """An optimizer's settings, what stands for its weight decay, and its state (empty where it has none).

    >>> Training(Adam(lr=1e-3)).moments
    {}
    """

    optimizer: Optimizer
    chain: Chain = field(default_factory=Chain)
    moments: Moments = field(default_factory=dict)


def training(optimizer: Torch | Optimizer | Training, model: nn.Module, carry: bool = True) -> Training:
    """The settings of torch's SGD, Adam, AdamW or RMSprop, or one of ours, with the state for the model's parameters.

    The optimizer is read, never changed. Weight decay becomes `L2` or (AdamW) `WeightDecay`, which shrinks after the
    gradient step where AdamW does before: a difference of the order of (lr weight_decay)^2. Without `carry` there is no
    state. Moments of parameters that have none yet are 0, as in their first step.

    Raises `ValueError` for another optimizer, for parameter groups that differ, for settings that have no equivalent
    (amsgrad, maximize, dampening), and for parameters that took different numbers of steps where the optimizer counts
    them (Adam): there is one count for all.

    >>> model = nn.Linear(2, 1)
    >>> training(torch.optim.Adam(model.parameters(), lr=1e-2), model).optimizer
    Adam(lr=0.01, betas=(0.9, 0.999), eps=1e-08, eps_root=0.0)
    """
    if isinstance(optimizer, Training):
        return optimizer if carry else Training(optimizer.optimizer, optimizer.chain)
    if isinstance(optimizer, Optimizer):
        return Training(optimizer)
    if not isinstance(optimizer, Torch):
        raise ValueError(f"expected an optimizer of torch.optim or of pliant.optim, got {type(optimizer).__name__}")
    held = Held(model, optimizer)
    if not held.known:
        raise ValueError(
            f"expected torch's SGD, Adam, AdamW or RMSprop, got {type(optimizer).__name__}: write "
            "optimizer=pliant.optim.Adam(lr=...), with the settings that come nearest"
        )
    groups = [
        {k: v for k, v in group.items() if k not in ("params", "param_names")} for group in optimizer.param_groups
    ]
    if differ := sorted(k for k in groups[0] if any(group[k] != groups[0][k] for group in groups)):
        raise ValueError(
            f"expected parameter groups with the same settings, got several of {', '.join(differ)}: write "
            "optimizer=pliant.optim.Adam(lr=...), with one setting for all"
        )
    settings, chain = _translated(optimizer, groups[0])
    return Training(settings, chain, _carried(held, settings) if carry else {})


def _carried(held: Held, settings: Optimizer) -> Moments:
    """A copy of the state, in the form of ours."""
    empty = settings.init({name: p.detach() for name, p in held.params.items()})
    found = held.moments()
    if not empty or not found:
        return {}
    if "step" in empty:
        _refuse_several_counts(held)
    return {
        kind: {name: found.get(kind, {}).get(name, zero).detach().clone() for name, zero in group.items()}
        for kind, group in empty.items()
    }


def _refuse_several_counts(held: Held) -> None:
    counts = {name: int(held.optimizer.state.get(p, {}).get("step", 0)) for name, p in held.params.items()}
    most = max(counts.values())
    if fewer := [name for name, count in counts.items() if count != most]:
        raise ValueError(
            f"expected as many steps of all parameters, to carry their state, got {counts[fewer[0]]} of {fewer[0]} and "
            f"{most} of others: freeze what is not used, with requires_grad_(False), or write "
            "optimizer=pliant.optim.Adam(lr=...), for a fresh state"
        )


@dataclass(frozen=True)
class Only(Around):
    """Another optimizer for some parameters; the others stay as they are, and it never sees them.

    >>> from pliant.optim import SGD
    >>> params, grads = {"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}
    >>> Only(SGD(lr=0.5), ("a",)).update(params, grads, {})
    >>> params
    {'a': tensor([0.5000]), 'b': tensor([1.])}
    """

    names: tuple[str, ...]

    def init(self, params: Params) -> Moments:
        return self.base.init(self._part(params))

    def update(self, params: Params, grads: Params, moments: Moments, generator: torch.Generator | None = None) -> None:
        self.base.update(self._part(params), self._part(grads), moments, generator)

    def ascent(self, params: Params, grads: Params) -> Params:
        return params | self.base.ascent(self._part(params), self._part(grads))

    def _part(self, tensors: Params) -> Params:
        return {name: tensors[name] for name in self.names}


def _translated(optimizer: Torch, group: dict[str, Any]) -> tuple[Optimizer, Chain]:
    if isinstance(optimizer, TorchOptimizer):
        return optimizer.optimizer.with_lr(float(group["lr"])), Chain()
    for name in ("amsgrad", "maximize", "dampening"):
        if group.get(name):
            raise ValueError(
                f"expected {type(optimizer).__name__} without {name}, got {name}={group[name]!r}: write "
                "optimizer=pliant.optim.Adam(lr=...), with the settings that come nearest"
            )
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    if isinstance(optimizer, torch.optim.SGD):
        found: Optimizer = SGD(lr, momentum=group["momentum"], nesterov=group["nesterov"])
    elif isinstance(optimizer, torch.optim.RMSprop):
        kept = {name: group[name] for name in ("alpha", "eps", "centered", "momentum")}
        found = RMSProp(lr, **kept)
    else:
        found = Adam(lr, betas=tuple(map(float, group["betas"])), eps=group["eps"])  # type: ignore[arg-type]
    decoupled = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay", False)
    if not decay:
        return found, Chain()
    return found, Chain(WeightDecay(decay, normalisers=True) if decoupled else L2(decay / 2, normalisers=True))
