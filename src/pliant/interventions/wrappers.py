"""Where and when: an intervention on part of a network, or for part of the time."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pliant.interventions.base import Change, Draw, Intervention, Scaled, Seen, State, everything
from pliant.network import Network, Params
from pliant.optim import Moments
from pliant.own import Named, function, one_line


@dataclass(frozen=True)
class _Wrapper(Intervention, ABC):
    """What hands everything on to an inner intervention; subclasses change the network or the time."""

    @property
    @abstractmethod
    def within(self) -> Intervention:
        """The inner intervention."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.within.needs

    @property
    def reference(self) -> str:  # type: ignore[override]
        return self.within.reference

    @property
    def events(self) -> tuple[str, ...]:
        return self.within.events

    def overrides(self, moment: str) -> bool:
        return self.within.overrides(moment)

    def seen_by(self, network: Network) -> Network:
        """The network as the inner intervention sees it."""
        return network

    def build(self, module: nn.Module, example: Any, among: Callable[[str], bool] = everything) -> nn.Module:
        return self.within.build(module, example, among)

    def init(self, network: Network, params: Params) -> State:
        return self.within.init(self.seen_by(network), params)

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor | None:
        return self.within.penalty(self.seen_by(network), params, state, seen)

    def penalty_gradient(self, network: Network, params: Params, state: State, seen: Seen) -> dict[str, Scaled] | None:
        return self.within.penalty_gradient(self.seen_by(network), params, state, seen)

    def active(self, step: int) -> bool:
        return self.within.active(step)

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change | None:
        return self.within.after_step(self.seen_by(network), params, moments, state, seen)

    def renew(self, network: Network, params: Params, moments: Moments, state: State, draw: Draw) -> Change | None:
        return self.within.renew(self.seen_by(network), params, moments, state, draw)

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        return self.within.on_event(self.seen_by(network), event, params, moments, state, draw)


@dataclass(frozen=True)
class Only(_Wrapper):
    """An intervention on the parameters, layers and units whose names match a pattern, and on nothing else.

    A layer's path, such as `hidden.0`, matches if the path or one of its parameters' names does. A unit belongs to the
    layer that feeds it; resetting it changes the weights that read it, too.

    Args:
        pattern: as in a shell: `"hidden.*"`, `"*.bias"`; at least one parameter must match.
        intervention: what is done there.

    >>> from pliant.interventions import L2
    >>> network = Network(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)))
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> list(Only("2.*", L2(0.1)).penalty_gradient(network, network.params(), {}, seen))
    ['2.weight', '2.bias']
    """

    pattern: str
    intervention: Intervention

    def __post_init__(self) -> None:
        inner = self.intervention
        if inner.overrides("penalty") and not inner.overrides("penalty_gradient"):
            kind = type(inner).__name__
            warnings.warn(
                f"the penalty of {kind} goes through the forward pass: Only({self.pattern!r}, ...) does not keep its "
                "gradient from other parameters",
                stacklevel=3,
            )

    @property
    def within(self) -> Intervention:
        return self.intervention

    def seen_by(self, network: Network) -> Network:
        return network.only(self.pattern)

    def build(self, module: nn.Module, example: Any, among: Callable[[str], bool] = everything) -> nn.Module:
        def matches(path: str) -> bool:
            own = [f"{path}.{name}" for name, _ in module.get_submodule(path).named_parameters()]
            return among(path) and any(fnmatchcase(name, self.pattern) for name in (path, *own))

        return self.intervention.build(module, example, matches)


@dataclass(frozen=True)
class Scheduled(_Wrapper):
    """An intervention for part of the time: from a step on, up to another, every so many steps, warmed up.

    Outside the window `[start, stop)` there is no penalty, nothing happens after a step, and events pass unanswered.
    Within it, a penalty grows linearly to its full strength over the first `warmup` steps. What is built in stays.

    Args:
        intervention: what is done.
        every: what happens after a step happens after every so many of them only, counted from `start`; penalties are
            in every step.
        start: first step, from 0.
        stop: first step that is out again; None is never.
        warmup: steps over which a penalty grows from 1 / warmup to 1 of its strength.

    >>> from pliant.interventions import L2
    >>> network = Network(nn.Linear(1, 1, bias=False))
    >>> warm = Scheduled(L2(1.0), start=10, warmup=4)
    >>> seen = [Seen(step=torch.tensor(step), lr=torch.tensor(0.1), x=None) for step in (9, 10, 11, 20)]
    >>> [warm.penalty(network, {"weight": torch.ones(1, 1)}, {}, s).item() for s in seen]
    [0.0, 0.25, 0.5, 1.0]
    """

    intervention: Intervention
    every: int = 1
    start: int = 0
    stop: int | None = None
    warmup: int = 0

    def __post_init__(self) -> None:
        for name, least in {"every": 1, "start": 0, "warmup": 0}.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"expected {name} of Scheduled to be at least {least}, got {getattr(self, name)!r}")
        if self.stop is not None and not self.stop > self.start:
            raise ValueError(f"expected stop of Scheduled to be after start={self.start}, got {self.stop!r}")
        kind = type(self.intervention).__name__
        if self.every > 1 and not self.overrides("after_step"):
            raise ValueError(f"expected every of Scheduled to be 1, got {self.every}: {kind} does nothing after a step")
        if self.warmup and not self.overrides("penalty"):
            raise ValueError(f"expected warmup of Scheduled to be 0, got {self.warmup}: {kind} is no penalty")

    @property
    def within(self) -> Intervention:
        return self.intervention

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor | None:
        penalty = self.intervention.penalty(network, params, state, seen)
        return None if penalty is None else self._share(seen.step, penalty) * penalty

    def penalty_gradient(self, network: Network, params: Params, state: State, seen: Seen) -> dict[str, Scaled] | None:
        gradient = self.intervention.penalty_gradient(network, params, state, seen)
        return gradient and {n: g.times(self._share(seen.step, g.tensor)) for n, g in gradient.items()}

    def active(self, step: int) -> bool:
        return self._in_window(step) and (step - self.start + 1) % self.every == 0 and self.intervention.active(step)

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        if not self._in_window(draw.step):
            return None
        return self.intervention.on_event(network, event, params, moments, state, draw)

    def _in_window(self, step: int) -> bool:
        return self.start <= step < (math.inf if self.stop is None else self.stop)

    def _share(self, step: Tensor, like: Tensor) -> Tensor:
        """How much of the penalty counts at a step."""
        share = ((step - self.start + 1) / max(self.warmup, 1)).clamp(0, 1)
        return (share if self.stop is None else torch.where(step < self.stop, share, 0)).to(like.dtype)


@dataclass(frozen=True)
class Own(Named, _Wrapper):
    """An intervention of somebody's own, at `package.module:name`: what the class or function there makes of nothing.

    It is imported when it is first wanted, so that reading settings runs nothing. Raises `ValueError`, naming the
    option `--add`, where it cannot be, and for what fails or is no intervention.

    >>> Own("pliant.interventions:OptimizerReset").within
    OptimizerReset(event='task_switch')
    """

    path: str

    @cached_property
    def within(self) -> Intervention:  # type: ignore[override]
        with one_line(f"--add {self.path} fails when called; write a function of nothing that returns it"):
            made = function(self.path, "--add ")()
        if not isinstance(made, Intervention):
            raise ValueError(
                f"--add {self.path}: expected a class of interventions, or a function that returns one, got "
                f"{type(made).__name__}"
            )
        return made

    @property
    def reference(self) -> str:  # type: ignore[override]
        return ""
