"""What torch optimizers hold, by the names of the model's parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from pliant.optim import Moments, TorchOptimizer
from pliant.optim.torch_optimizer import several
from pliant.outline import Outline

KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Muon, TorchOptimizer)


class Held:
    """The parameters of a model that an optimizer trains, or several do, with their learning rates and moments.

    `take` reads both anew where `holds` says that they are no longer made of the same parts. Raises `ValueError` for
    what is no optimizer, and where it trains nothing of the model.

    Attributes:
        optimizers: one or several.
        params: by name; frozen ones and those that no optimizer holds are not among them.
        lacking: names of those that train and no optimizer holds.
    """

    def __init__(self, model: nn.Module, optimizer: Any):
        for name, p in model.named_parameters():
            if is_lazy(p):
                raise ValueError(f"expected sizes that are known, got lazy {name}: call model(x) first")
            if p.is_meta:
                raise ValueError(f"expected values, got {name} on the meta device: load the model first")
        self.model = model
        self.optimizers = several(optimizer)
        self.take()
        if not self.params:
            raise ValueError(
                "expected an optimizer of the model's trainable parameters, got one that holds none of them: "
                "write it after the build, as in torch.optim.Adam(model.parameters())"
            )

    def take(self) -> None:
        """Reads which parameters the model and its optimizers have by now."""
        self.outline = Outline(self.model)
        self._held = self._holding()
        named, held = dict(self.model.named_parameters()), set(self._held)
        self.params = {name: p for name, p in named.items() if p.requires_grad and p in held}
        self.lacking = [name for name, p in named.items() if p.requires_grad and p not in held]
        self._names = {p: name for name, p in self.params.items()}
        sets = [(optimizer, set(_params(optimizer))) for optimizer in self.optimizers]
        self._parts = [(o, {n: p for n, p in self.params.items() if p in own}) for o, own in sets]
        self._latest: tuple[list[Any], Moments] = [], {}

    @property
    def holds(self) -> bool:
        """Whether model and optimizers are made of the same parts as when they were last taken."""
        held = self._holding()
        return len(held) == len(self._held) and all(map(operator.is_, held, self._held)) and self.outline.holds

    def oddities(self) -> Iterator[str]:
        """What is left alone, and what is there twice, each in a line."""
        named, held = dict(self.model.named_parameters()), set(self._held)
        if strangers := len(held.difference(named.values())):
            yield f"the optimizer holds {strangers} parameters that are not the model's"
        if self.lacking:
            yield f"the optimizer lacks {', '.join(self.lacking)}: left alone like frozen ones"
        owners: dict[Tensor, list[str]] = {}
        for name, p in self.model.named_parameters(remove_duplicate=False):
            owners.setdefault(p, []).append(name)
        for first, *others in owners.values():
            if others:
                yield f"{' and '.join([first, *others])} are one tensor: it is touched once, as {first}"

    @property
    def unknown(self) -> dict[str, str]:
        """The parameters of optimizers whose state cannot be edited entry by entry, with their kind."""
        return {n: type(o).__name__ for o, params in self._parts if not isinstance(o, KNOWN) for n in params}

    def moments(self) -> Moments:
        """The optimizers' own tensors, by kind and name; before the first step a count of 0 alone, if they count.

        Torch has a step count for each parameter, interventions have one in all (under the empty name). An optimizer
        that is not known has a moment of unknown content for each parameter with a state: not to be changed.
        """
        found = self._state()
        if "step" in found:
            found["step"] = {"": next(iter(found["step"].values()))}
        elif not found and any(map(_counts, self.optimizers)):
            found["step"] = {"": torch.zeros(())}
        return found

    def write(self, new: Moments) -> None:
        """Writes new values of some moments into the optimizers; a step count into that of every parameter."""
        old = self._state()
        for kind, group in new.items():
            for name, value in group.items():
                for tensor in [old[kind][name]] if name else old.get(kind, {}).values():
                    tensor.copy_(value)

    def _state(self) -> Moments:
        """By kind and name; the same as before where the optimizers hold the same tensors."""
        held: list[Any] = []
        for optimizer, params in self._parts:
            state = optimizer.state
            held += [value for p in params.values() for value in state.get(p, {}).values()]
        before, found = self._latest
        if not (len(held) == len(before) and all(map(operator.is_, held, before))):
            self._latest = held, (found := self._sorted())
        return dict(found)

    def _sorted(self) -> Moments:
        found: Moments = {}
        for i, (optimizer, params) in enumerate(self._parts):
            for name, p in params.items():
                state = optimizer.state.get(p, {})
                if not isinstance(optimizer, KNOWN):
                    state = {type(optimizer).__name__: p.detach()} if state else {}
                for kind, tensor in state.items():
                    if not isinstance(tensor, Tensor):
                        continue
                    if kind == "step":
                        found.setdefault(kind, {})[f"{i}.{name}"] = tensor
                        continue
                    twice = name in found.get(kind, {})  # a parameter of two optimizers has the moments of both
                    found.setdefault(f"{kind} of {i}" if twice else kind, {})[name] = tensor
        return found

    def rates(self) -> dict[float, set[str]]:
        """The learning rates in use, with the names of those that have each."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        if len(groups) == 1:
            return {float(groups[0]["lr"]): set(self.params)}
        found: dict[float, set[str]] = {}
        for group in groups:
            if names := {self._names[p] for p in group["params"] if p in self._names}:
                found.setdefault(float(group["lr"]), set()).update(names)
        return found

    def _holding(self) -> list[Tensor]:
        return [*chain.from_iterable(map(_params, self.optimizers))]


def _params(optimizer: Optimizer) -> list[Tensor]:
    return [*chain.from_iterable([group["params"] for group in optimizer.param_groups])]


def _counts(optimizer: Optimizer) -> bool:
    """Whether an optimizer counts its steps, one day if not yet."""
    if isinstance(optimizer, TorchOptimizer):
        return "step" in optimizer.optimizer.init({"": torch.zeros(())})
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop))
