"""How a probe trains: the optimizer's settings and state, taken from a `torch.optim` optimizer or given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer as Torch

from pliant.interventions import L2, Chain, WeightDecay
from pliant.keeper.held import Held
from pliant.optim import SGD, Adam, Moments, Optimizer, RMSProp, TorchOptimizer


@dataclass(frozen=True)
class Training:
    """An optimizer's settings, what stands for its weight decay, and its state (empty where it has none).

    >>> Training(Adam(lr=1e-3)).moments
    {}
    """

    optimizer: Optimizer
    chain: Chain = field(default_factory=Chain)
    moments: Moments = field(default_factory=dict)


def training(optimizer: Torch | Optimizer | Training, model: nn.Module) -> Training:
    """The settings of torch's SGD, Adam, AdamW or RMSprop, or one of ours, with the state for the model's parameters.

    The optimizer is read, never changed. Weight decay becomes `L2` or (AdamW) `WeightDecay`, which shrinks after the
    gradient step where AdamW does before: a difference of the order of (lr weight_decay)^2.

    Raises `ValueError` for another optimizer, for parameter groups that differ, and for settings that have no
    equivalent (amsgrad, maximize, dampening).

    >>> model = nn.Linear(2, 1)
    >>> training(torch.optim.Adam(model.parameters(), lr=1e-2), model).optimizer
    Adam(lr=0.01, betas=(0.9, 0.999), eps=1e-08, eps_root=0.0)
    """
    if isinstance(optimizer, Training):
        return optimizer
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
    empty = settings.init({name: p.detach() for name, p in held.params.items()})
    state = held.moments()
    if not state or not set(empty) <= set(state):
        return Training(settings, chain)
    if any(set(state[kind]) != set(empty[kind]) for kind in empty):
        return Training(settings, chain)  # some parameters have no state yet
    return Training(settings, chain, {k: {n: t.detach().clone() for n, t in state[k].items()} for k in empty})


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
