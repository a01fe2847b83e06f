"""The state of a chain where the model changed: what still fits goes on, the rest begins anew."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor


def merged(old: Any, new: Any) -> Any:
    """A nested dict with all that is in either; `new` where both have it.

    >>> merged({"slow": {"a": 1, "b": 2}}, {"slow": {"b": 3}})
    {'slow': {'a': 1, 'b': 3}}
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}


def without(tree: Any, names: Collection[str]) -> Any:
    """A nested dict without what belongs to these parameters.

    >>> without({"slow": {"a": 1, "b": 2}}, {"a"})
    {'slow': {'b': 2}}
    """
    if not isinstance(tree, dict):
        return tree
    return {name: without(value, names) for name, value in tree.items() if name not in names}


def carried(old: Any, fresh: Any) -> Any:
    """A fresh state with the old values wherever these have the same name and shape.

    >>> import torch
    >>> carried({"a": torch.ones(1), "b": torch.ones(2)}, {"a": torch.zeros(1), "b": torch.zeros(3)})
    {'a': tensor([1.]), 'b': tensor([0., 0., 0.])}
    """
    if isinstance(fresh, dict):
        known = old if isinstance(old, dict) else {}
        return {name: carried(known.get(name), value) for name, value in fresh.items()}
    if isinstance(old, Tensor) and old.shape == fresh.shape:
        return old.to(fresh)
    return fresh.clone()


def rest(old: Any, fresh: Any) -> Any:
    """What a nested dict has that a fresh state has not.

    >>> rest({"slow": {"a": 1, "b": 2}, "due": 0}, {"slow": {"b": 3}, "due": 1})
    {'slow': {'a': 1}}
    """
    found = {}
    for name, value in old.items():
        if name not in fresh:
            found[name] = value
        elif isinstance(value, dict) and isinstance(fresh[name], dict) and (inner := rest(value, fresh[name])):
            found[name] = inner
    return found
