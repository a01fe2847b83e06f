"""The state of a trial as a flat dict: every tensor and every number by its path, such as `params/0.weight`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

Number = int | float | bool | str | None


def tensors(tree: Any) -> dict[str, Tensor]:
    """The tensors in dicts, lists, tuples and dataclasses, by path.

    >>> list(tensors({"params": {"0.weight": Tensor([1.0])}, "members": [Tensor([2.0]), {}]}))
    ['params/0.weight', 'members/0']
    """
    return {path: leaf for path, leaf, _, _ in _leaves(tree, "") if isinstance(leaf, Tensor)}


def numbers(tree: Any) -> dict[str, Number]:
    """The plain values in dicts, lists, tuples and dataclasses, by path.

    >>> numbers({"step": 3, "members": [1.0, Tensor([2.0])]})
    {'step': 3, 'members/0': 1.0}
    """
    return {path: leaf for path, leaf, _, _ in _leaves(tree, "") if not isinstance(leaf, Tensor)}


def rings(tree: Any) -> dict[str, tuple[Tensor, list[int]]]:
    """The tensors in which entry n of a member is at n % room, by path, with how many entries were added of each.

    They are those that a dataclass with `entries` names in `RINGS`: large ones, which are kept by what was added.

    >>> from pliant.rl import FrameReplay
    >>> {path: added for path, (_, added) in rings({"replay": FrameReplay.empty(2, 4, (1,))}).items()}
    {'replay/frame': [0, 0]}
    """
    leaves = _leaves(tree, "")
    return {path: (leaf, owner.entries) for path, leaf, owner, key in leaves if key in getattr(owner, "RINGS", ())}


def fill(tree: Any, stored_tensors: Mapping[str, Tensor], stored_numbers: Mapping[str, Number]) -> None:
    """Writes values into the same places of a tree, in place; `ValueError` for a tree of another structure.

    >>> state = {"step": 0, "w": Tensor([1.0])}
    >>> fill(state, {"w": Tensor([2.0])}, {"step": 5})
    >>> state
    {'step': 5, 'w': tensor([2.])}
    """
    found = list(_leaves(tree, ""))
    paths = {path for path, _, _, _ in found}
    if odd := sorted(paths ^ {*stored_tensors, *stored_numbers}):
        raise ValueError(f"expected a state of this trial, got one with another structure ({odd[0]})")
    for path, leaf, owner, key in found:
        if isinstance(leaf, Tensor):
            stored = stored_tensors.get(path)
            if stored is None or stored.shape != leaf.shape:
                got = None if stored is None else tuple(stored.shape)
                raise ValueError(f"expected {path} of shape {tuple(leaf.shape)} in a state of this trial, got {got}")
            leaf.copy_(stored)
        elif leaf != stored_numbers[path]:
            if isinstance(owner, (dict, list)):
                owner[key] = stored_numbers[path]
            else:
                setattr(owner, key, stored_numbers[path])


def _leaves(tree: Any, path: str, owner: Any = None, key: Any = None) -> Iterator[tuple[str, Any, Any, Any]]:
    """Every leaf with its path, what holds it, and its key there."""
    match tree:
        case dict():
            inner = tree.items()
        case list() | tuple():
            inner = enumerate(tree)
        case _ if is_dataclass(tree):
            inner = ((field.name, getattr(tree, field.name)) for field in fields(tree))
        case _:
            assert isinstance(tree, Tensor | Number), f"{path}: expected tensors and plain values, got {tree!r}"
            yield path, tree, owner, key
            return
    for name, value in inner:
        yield from _leaves(value, f"{path}/{name}".lstrip("/"), tree, name)
