"""What a torch optimizer holds, by the names of the model's parameters."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pliant.optim import Moments, TorchOptimizer

KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, TorchOptimizer)


class Held:
    """The parameters of a model that an optimizer trains, their learning rates and moments.

    Raises `ValueError` where the two do not fit, and warns about what is left alone.

    Attributes:
        params: by name; frozen ones and those that the optimizer lacks are not among them.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        named = dict(model.named_parameters())
        for name, p in named.items():
            if is_lazy(p):
                raise ValueError(f"expected sizes that are known, got lazy {name}: call model(x) before attach")
            if p.is_meta:
                raise ValueError(f"expected values, got {name} on the meta device: load the model before attach")
        held = {p for group in optimizer.param_groups for p in group["params"]}
        self.params = {name: p for name, p in named.items() if p.requires_grad and p in held}
        if not self.params:
            raise ValueError(
                "expected an optimizer of the model's trainable parameters, got one that holds none of them: "
                "write it after the build, as in torch.optim.Adam(model.parameters())"
            )
        self._names = {p: name for name, p in self.params.items()}
        self._latest: tuple[list[Any], Moments] = [], {}
        self._say_what_is_odd(model, named, held)

    def _say_what_is_odd(self, model: nn.Module, named: dict[str, nn.Parameter], held: set[Tensor]) -> None:
        if strangers := len(held.difference(named.values())):
            warnings.warn(f"the optimizer holds {strangers} parameters that are not the model's", stacklevel=5)
        if missing := [name for name, p in named.items() if p.requires_grad and p not in held]:
            warnings.warn(f"the optimizer lacks {', '.join(missing)}: left alone like frozen ones", stacklevel=5)
        owners: dict[Tensor, list[str]] = {}
        for name, p in model.named_parameters(remove_duplicate=False):
            owners.setdefault(p, []).append(name)
        for first, *others in owners.values():
            if others:
                message = f"{' and '.join([first, *others])} are one tensor: it is touched once, as {first}"
                warnings.warn(message, stacklevel=5)

    @property
    def known(self) -> bool:
        """Whether the optimizer's state is such that it can be edited entry by entry."""
        return isinstance(self.optimizer, KNOWN)

    def moments(self) -> Moments:
        """The optimizer's own tensors, by kind and name; empty before its first step.

        Torch has a step count for each parameter, interventions have one in all (under the empty name). An optimizer
        that is not known has a moment of unknown content for each parameter with a state: not to be changed.
        """
        found = self._state()
        if "step" in found:
            found["step"] = {"": next(iter(found["step"].values()))}
        return found

    def write(self, new: Moments) -> None:
        """Writes new values of some moments into the optimizer; a step count into that of every parameter."""
        old = self._state()
        for kind, group in new.items():
            for name, value in group.items():
                for tensor in [old[kind][name]] if name else old[kind].values():
                    tensor.copy_(value)

    def _state(self) -> Moments:
        """By kind and name; the same as before where the optimizer holds the same tensors."""
        state = self.optimizer.state
        held = [value for p in self.params.values() for value in state.get(p, {}).values()]
        before, found = self._latest
        if not (len(held) == len(before) and all(map(operator.is_, held, before))):
            self._latest = held, (found := self._sorted())
        return dict(found)

    def _sorted(self) -> Moments:
        found: Moments = {}
        for name, p in self.params.items():
            state = self.optimizer.state.get(p, {})
            if not self.known:
                state = {type(self.optimizer).__name__: p.detach()} if state else {}
            for kind, tensor in state.items():
                if isinstance(tensor, Tensor):
                    found.setdefault(kind, {})[name] = tensor
        return found

    def rates(self) -> dict[float, set[str]]:
        """The learning rates in use, with the names of those that have each."""
        groups = self.optimizer.param_groups
        if len(groups) == 1:
            return {float(groups[0]["lr"]): set(self.params)}
        found: dict[float, set[str]] = {}
        for group in groups:
            if names := {self._names[p] for p in group["params"] if p in self._names}:
                found.setdefault(float(group["lr"]), set()).update(names)
        return found
