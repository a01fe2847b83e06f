"""Noticing that a model is no longer made of what it was made of."""

from __future__ import annotations

from itertools import chain
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn

TRAINS, FORM = attrgetter("requires_grad"), attrgetter("dtype", "device", "shape")


class Outline:
    """The modules and parameters of a model at one moment, by identity, name and form.

    `holds` says whether they are still the same, within a few microseconds and without looking at any value. Layers
    that were swapped, added or resized, `load_state_dict(assign=True)`, `requires_grad_` and `model.to(device)` show;
    buffers do by their names alone.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> outline = Outline(model)
    >>> outline.holds
    True
    >>> model[2] = nn.Linear(3, 2)
    >>> outline.holds, sorted(outline.replaced(model))
    (False, ['2.bias', '2.weight'])
    """

    def __init__(self, model: nn.Module):
        self._modules = modules = list(model.modules())
        self._dicts: list[dict[str, Any]] = [d for m in modules for d in (m._modules, m._parameters)]
        self._named: list[dict[str, Any]] = [*self._dicts, *(m._buffers for m in modules)]
        self._names, self._parts = self._keys(), self._values()
        self._params = list(model.parameters())
        self._trains, self._forms = [*map(TRAINS, self._params)], [*map(FORM, self._params)]
        self._places = [*map(Tensor.data_ptr, self._params)]
        self._origins = {name: (module, p.shape) for name, module, p in _owned(model)}

    @property
    def holds(self) -> bool:
        """Whether the model is made of the same modules and parameters, trained, shaped and placed alike."""
        parts = self._values()
        if len(parts) != len(self._parts) or not all(map(is_, parts, self._parts)) or self._keys() != self._names:
            return False
        if [*map(TRAINS, self._params)] != self._trains:
            return False
        places = [*map(Tensor.data_ptr, self._params)]
        if places != self._places:  # moved, cast or resized; or only put elsewhere
            if [*map(FORM, self._params)] != self._forms:
                return False
            self._places = places
        return True

    def alike(self, other: Outline) -> bool:
        """Whether another outline has the same parts of the same form: at most, other parameters are trained."""
        same = len(self._parts) == len(other._parts) and all(map(is_, self._parts, other._parts))
        return same and self._names == other._names and self._forms == other._forms

    def same_layers(self, other: Outline) -> bool:
        """Whether another outline has the same modules in the same places, whatever became of their parameters."""
        return len(self._modules) == len(other._modules) and all(map(is_, self._modules, other._modules))

    def replaced(self, model: nn.Module) -> set[str]:
        """The names of the parameters that are new by now: those of another module, or of another shape."""
        return {
            name
            for name, module, p in _owned(model)
            if name not in self._origins or module is not self._origins[name][0] or p.shape != self._origins[name][1]
        }

    def _values(self) -> list[Any]:
        return [*chain.from_iterable(map(dict.values, self._dicts))]

    def _keys(self) -> list[str]:
        return [*chain.from_iterable(self._named)]


def _owned(model: nn.Module) -> list[tuple[str, nn.Module, Tensor]]:
    """Every parameter by its name, with the module that it belongs to."""
    named = [(path, module, module._parameters.items()) for path, module in model.named_modules()]
    return [(f"{path}.{n}".lstrip("."), m, p) for path, m, own in named for n, p in own if p is not None]
