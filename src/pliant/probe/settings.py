"""How a probe trains: the settings and state of `torch.optim` optimizers, or settings that are given."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer as Torch

from pliant.interventions import Chain
from pliant.keeper.held import Held
from pliant.optim import SGD, Adam, Moments, Muon, Optimizer, RMSProp, TorchOptimizer
from pliant.probe.parts import Decayed, Only, Parts


@dataclass(frozen=True)
class Training:
    """An optimizer's settings, interventions beside it, its state (empty where it has none), and a note on its rate.

    >>> Training(Adam(lr=1e-3)).moments
    {}
    """

    optimizer: Optimizer
    chain: Chain = field(default_factory=Chain)
    moments: Moments = field(default_factory=dict)
    note: str = ""


def training(
    optimizer: Torch | Sequence[Torch] | Optimizer | Training,
    model: nn.Module,
    carry: bool = True,
    lr: float | None = None,
) -> Training:
    """The settings of torch's SGD, Adam, AdamW, RMSprop or Muon, or ours, with the state for the model's parameters.

    Each parameter group is trained as its own optimizer does, with its own count of steps: groups may differ, and
    several optimizers are given as a list. They are read, never changed. Without `carry` there is no state. Moments of
    parameters that have none yet are 0, as in their first step.

    The learning rate is `lr`, else the optimizer's. Where a scheduler has changed that, it is the one that most of the
    training had, as far as the optimizer tells: the one it began with, the highest of a one-cycle schedule; a note says
    so.

    Raises `ValueError` for another optimizer, for settings that have no equivalent (amsgrad, maximize, dampening), and
    for a parameter of two optimizers.

    >>> model = nn.Linear(2, 1)
    >>> training(torch.optim.Adam(model.parameters(), lr=1e-2), model).optimizer
    Adam(lr=0.01, betas=(0.9, 0.999), eps=1e-08, eps_root=0.0)
    """
    if lr is not None and not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"expected a learning rate above 0, got {lr!r}: write lr=1e-3")
    if isinstance(optimizer, Training) and carry and lr is None:
        return optimizer
    if isinstance(optimizer, (Training, Optimizer)):
        given = optimizer if isinstance(optimizer, Training) else Training(optimizer)
        note = "" if lr in (None, given.optimizer.lr) else f"learning rate {lr:g}, as given"
        settings = given.optimizer if lr is None else given.optimizer.with_lr(lr)
        return Training(settings, given.chain, given.moments if carry else {}, note or given.note)
    if not isinstance(optimizer, (Torch, list, tuple)):
        raise ValueError(
            f"expected an optimizer of torch.optim or of pliant.optim, got {type(optimizer).__name__}: write "
            "optimizer=pliant.optim.Adam(lr=1e-3), or your own"
        )
    held = Held(model, optimizer)
    for odd in held.oddities():
        warnings.warn(odd, stacklevel=3)
    parts, counts = _parts(held, carry, lr)
    settings = parts[0].base if len(parts) == 1 else Parts(parts)
    note = _note([group for one in held.optimizers for group in one.param_groups], lr)
    return Training(settings, moments=_carried(held, settings, counts) if carry else {}, note=note)


def _rate(group: dict[str, Any]) -> float:
    """The learning rate before a scheduler set in, of a one-cycle schedule the highest."""
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def _note(groups: Sequence[dict[str, Any]], lr: float | None) -> str:
    """Which learning rate the refits have, where it is not the present one."""
    now = ", ".join(dict.fromkeys(f"{float(group['lr']):g}" for group in groups))
    if lr is not None:
        return "" if now == f"{lr:g}" else f"learning rate {lr:g}, as given (the optimizer's is {now})"
    then = ", ".join(dict.fromkeys(f"{_rate(group):g}" for group in groups))
    which = "the highest of its schedule" if any("max_lr" in group for group in groups) else "before its schedule"
    return "" if now == then else f"learning rate {then}, {which} (now it is {now}); lr= sets another"


def _parts(held: Held, carry: bool, lr: float | None) -> tuple[tuple[Only, ...], list[int]]:
    """What is trained alike, together: of equal settings and, where steps are counted and carried, as many of them."""
    named = {p: name for name, p in held.params.items()}
    found: dict[Any, list[str]] = {}
    for optimizer in held.optimizers:
        for group in optimizer.param_groups:
            params = [p for p in group["params"] if p in named]
            if not params:
                continue
            settings = _translated(optimizer, group | {"lr": _rate(group) if lr is None else lr})
            alone = None if settings.elementwise else id(optimizer)  # it looks at all of its parameters at once
            counted = carry and "step" in settings.init({"": torch.zeros(())})
            for p in params:
                count = int(optimizer.state.get(p, {}).get("step", 0)) if counted else 0
                found.setdefault((settings, alone, count), []).append(named[p])
    owned = [name for names in found.values() for name in names]
    if twice := sorted(name for name in set(owned) if owned.count(name) > 1):
        raise ValueError(
            f"expected every parameter in one optimizer, got {twice[0]} in two: write "
            "optimizer=pliant.optim.Adam(lr=...), with one setting for all"
        )
    parts = tuple(Only(key[0], tuple(n for n in held.params if n in names)) for key, names in found.items())
    return parts, [count for *_, count in found]


def _carried(held: Held, settings: Optimizer, counts: Sequence[int]) -> Moments:
    """A copy of the state, in the form of ours."""
    empty = settings.init({name: p.detach() for name, p in held.params.items()})
    found = held.moments()
    if not empty or found.keys() <= {"step"}:
        return {}
    moments = {
        kind: {name: found.get(kind, {}).get(name, zero).detach().clone() for name, zero in group.items()}
        for kind, group in empty.items()
    }
    if "step" in empty:  # of the whole, or of parts by their number
        moments["step"] = {key: torch.full_like(n, counts[int(key or 0)]) for key, n in empty["step"].items()}
    return moments


def _translated(optimizer: Torch, group: dict[str, Any]) -> Optimizer:
    """The settings of a parameter group as an optimizer of ours."""
    if isinstance(optimizer, TorchOptimizer):
        return optimizer.optimizer.with_lr(float(group["lr"]))
    if isinstance(optimizer, torch.optim.Muon):
        kept = {name: group[name] for name in ("weight_decay", "momentum", "nesterov", "eps")}
        adjust, coefficients = group["adjust_lr_fn"] or "original", tuple(group["ns_coefficients"])
        return Muon(float(group["lr"]), **kept, coefficients=coefficients, iterations=group["ns_steps"], adjust=adjust)
    if not isinstance(optimizer, (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)):
        raise ValueError(
            f"expected torch's SGD, Adam, AdamW, RMSprop or Muon, got {type(optimizer).__name__}: write "
            "optimizer=pliant.optim.Adam(lr=...), with the settings that come nearest"
        )
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
    return Decayed(found, decay, decoupled) if decay else found
