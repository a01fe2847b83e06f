"""The four moments of an intervention."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pliant.network import Network, Params
from pliant.optim import Moments

State = dict[str, Any]
MOMENTS = {
    "build": "build",
    "penalty": "penalty",
    "after_step": "step",
    "on_event": "event",
}  # as lists name them


class Draw(NamedTuple):
    """Where an intervention's random numbers come from: the member's seed, the step and its place in the chain alone.

    >>> torch.rand(1, generator=Draw(seed=0, step=5).generator()) == torch.rand(1, generator=Draw(0, 5).generator())
    tensor([True])
    """

    seed: int
    step: int
    place: int = 0

    def fresh(self, network: Network, only: Collection[str] | None = None) -> Params:
        """New parameters from the initial distribution; with `only`, just of the layers that own these."""
        return network.fresh(self._mixed(0), only)

    def generator(self) -> torch.Generator:
        """A generator for everything else."""
        return torch.Generator().manual_seed(self._mixed(1))

    def _mixed(self, purpose: int) -> int:
        return int(
            np.random.SeedSequence([self.seed, self.step, self.place, purpose]).generate_state(1, np.uint64)[0] >> 1
        )


class Seen(NamedTuple):
    """What a training step showed of one network; what no intervention `needs` is None.

    Attributes:
        step: how many optimizer steps came before this one (an integer tensor without axes).
        lr: the optimizer's learning rate (a tensor without axes).
        x: the inputs of the batch.
        output: the network's output; in penalties only.
        features: the penultimate features `(batch, features)`; with their graph in penalties.
        activations: what left every site, by name, in the shape it has; with their graph in penalties.
        gradient: a function that gives the gradient of the training loss, without penalties, by name and with its own
            graph; in penalties only.

    >>> Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=torch.ones(1, 2)).features is None
    True
    """

    step: Tensor
    lr: Tensor
    x: Any
    output: Any = None
    features: Tensor | None = None
    activations: dict[str, Tensor] | None = None
    gradient: Callable[[], Params] | None = None


class Scaled(NamedTuple):
    """A number times a tensor, not yet multiplied, so that adding it to a gradient takes one pass over memory.

    >>> gradient = torch.ones(2)
    >>> Scaled(0.5, torch.tensor([2.0, 4.0])).add_to(gradient)
    >>> gradient
    tensor([2., 3.])
    """

    scale: Tensor | float
    tensor: Tensor

    def add_to(self, gradient: Tensor) -> None:
        """Adds the product, in place."""
        if isinstance(self.scale, Tensor):
            gradient.add_(self.scale * self.tensor)
        else:
            gradient.add_(self.tensor, alpha=self.scale)

    def value(self) -> Tensor:
        """The product."""
        return self.scale * self.tensor

    def times(self, factor: Tensor | float) -> Scaled:
        """The product with another number."""
        return Scaled(factor * self.scale, self.tensor)


@dataclass(frozen=True)
class Change:
    """What a moment changes: new values by name for what it touches; all else stays.

    >>> Change(params={"weight": torch.ones(1)}).moments
    {}
    """

    params: Params = field(default_factory=dict)
    moments: Moments = field(default_factory=dict)
    state: State = field(default_factory=dict)


def write(buffers: dict[str, Any], new: dict[str, Any]) -> None:
    """Writes a (nested) dict of new values into the same places of the buffers.

    >>> buffers = {"w": torch.zeros(1), "b": torch.zeros(1)}
    >>> write(buffers, {"w": torch.ones(1)})
    >>> buffers
    {'w': tensor([1.]), 'b': tensor([0.])}
    >>> write(buffers, {"w": torch.ones(2)})
    Traceback (most recent call last):
    ValueError: expected w of shape (1,), got (2,)
    """
    for name, value in new.items():
        if isinstance(value, dict):
            write(buffers[name], value)
        elif value is not buffers[name] and not _same_memory(value, buffers[name]):
            if value.shape != buffers[name].shape:
                raise ValueError(f"expected {name} of shape {tuple(buffers[name].shape)}, got {tuple(value.shape)}")
            buffers[name].copy_(value)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one: one was changed in place, under `vmap` perhaps, which makes new ones of it."""
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.shape == b.shape and a.dtype == b.dtype


def everything(path: str) -> bool:
    """No layer is left out."""
    return True


@dataclass(frozen=True)
class Intervention:
    """A change to a network, its loss, its steps or what happens at an event: a frozen dataclass, its own config.

    Every moment is optional and written for one network; populations run it under `vmap`. `penalty` and `after_step`
    do not branch on data. What is elementwise, `after_step` may do to the parameters in place (a third of the time): it
    then returns the tensors that it was given. `on_event` and `renew` run on the host and may draw. What is touched
    are the parameters in `network.names`, the matrices in `network.weights`, the units in `network.units`.

    Class variables: `reference` is a key of refs.bib; `touches` says in a few words what is changed; `needs` names the
    fields of `Seen` that `penalty` or `after_step` reads beside `step`, `lr` and `x`.

    >>> @dataclass(frozen=True)
    ... class Halve(Intervention):
    ...     def after_step(self, network, params, moments, state, seen):
    ...         return Change(params={name: params[name] / 2 for name in network.names})
    >>> seen = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)
    >>> Halve().after_step(Network(nn.Linear(1, 1, bias=False)), {"weight": torch.ones(1, 1)}, {}, {}, seen).params
    {'weight': tensor([[0.5000]])}
    """

    reference: ClassVar[str]
    touches: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    def build(self, module: nn.Module, example: Any, among: Callable[[str], bool] = everything) -> nn.Module:
        """The module to train; one that changes it returns a copy in which existing parameters keep their names.

        `among` says of a layer's path whether it may be changed.
        """
        return module

    def init(self, network: Network, params: Params) -> State:
        """The state carried along (tensors by name); its structure never changes."""
        return {}

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor | None:
        """A scalar added to the loss, or None."""
        return None

    def penalty_gradient(self, network: Network, params: Params, state: State, seen: Seen) -> dict[str, Scaled] | None:
        """The gradient of `penalty` in closed form for the parameters it touches; without it, autograd derives one."""
        return None

    def active(self, step: int) -> bool:
        """Whether `after_step` has anything to do after this step (the first is 0); a function of the step alone."""
        return True

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change | None:
        """What changes after an optimizer step; `seen` is what its forward pass showed, before the step.

        Where something is to be drawn, `state["due"]` (a bool without axes) says so, and `renew` follows. The step
        count is not among the moments here.
        """
        return None

    def renew(self, network: Network, params: Params, moments: Moments, state: State, draw: Draw) -> Change | None:
        """What changes after a step that set `state["due"]`."""
        return None

    @property
    def events(self) -> tuple[str, ...]:
        """The events that `on_event` answers to: `event`, where there is such a field."""
        event = getattr(self, "event", None)
        return () if event is None else (event,)

    def on_event(
        self, network: Network, event: str, params: Params, moments: Moments, state: State, draw: Draw
    ) -> Change | None:
        """What changes at an event such as `"task_switch"`."""
        return None

    def overrides(self, moment: str) -> bool:
        """Whether it does anything at a moment, such as `"after_step"`."""
        return getattr(type(self), moment) is not getattr(Intervention, moment)


def check_choice(method: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises `ValueError` for a field that is none of the choices.

    >>> check_choice("Reset", "moments", "drop", ("clear", "keep"))
    Traceback (most recent call last):
    ValueError: expected moments of Reset to be 'clear' or 'keep', got 'drop'
    """
    if value not in choices:
        raise ValueError(f"expected {name} of {method} to be {' or '.join(map(repr, choices))}, got {value!r}")


def cleared(moments: Moments, entries: dict[str, Tensor]) -> Moments:
    """The moments with some entries (booleans by parameter) at 0; the step count is left alone.

    torch's optimizers have one step count a tensor, ours one in all, so a cleared entry is corrected for the bias of an
    average that is not young: late in training, its first step of Adam is (1 - b1) / sqrt(1 - b2) learning rates long,
    3.2 with the usual betas. To avoid that, keep the moments, or clear all of them with the count (`OptimizerReset`).

    Raises `ValueError` for moments that are kept of whole axes (Shampoo's): their entries are no entries of parameters.

    >>> cleared({"exp_avg": {"w": torch.ones(2)}}, {"w": torch.tensor([True, False])})
    {'exp_avg': {'w': tensor([0., 1.])}}
    """
    for kind, group in moments.items():
        for name in entries.keys() & group.keys() if kind != "step" else ():
            if group[name].shape != entries[name].shape:
                raise ValueError(
                    f"expected one of {kind} for every entry of {name}, got {tuple(group[name].shape)} for "
                    f"{tuple(entries[name].shape)}: write moments='keep', or take an optimizer such as Adam"
                )
    return {
        kind: {name: torch.where(mask, 0, group[name]) for name, mask in entries.items() if name in group}
        for kind, group in moments.items()
        if kind != "step"
    }
