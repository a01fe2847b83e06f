"""Trees of tensors with a leading member axis, and interventions that differ between members in numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pliant.interventions.base import Intervention


def at(tree: Any, member: int) -> Any:
    """One member's part of a stacked tree, as views."""
    if isinstance(tree, Tensor):
        return tree[member]
    if isinstance(tree, dict):
        return {name: at(part, member) for name, part in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(at(part, member) for part in tree)
    return tree_map(lambda t: t[member] if isinstance(t, Tensor) else t, tree)


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure, one a member, as one."""
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


def detached(tree: Any) -> Any:
    """A tree without its graph."""
    return {k: detached(v) for k, v in tree.items()} if isinstance(tree, dict) else tree.detach()


def differing(members: Sequence[Intervention], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The fields in which one kind of intervention differs between members, stacked; of wrapped ones, too."""
    found = {}
    for setting in fields(members[0]):
        values = [getattr(member, setting.name) for member in members]
        if all(v == values[0] for v in values):
            continue
        kinds = {type(v) for v in values}
        if len(kinds) == 1 and isinstance(values[0], Intervention):
            found[setting.name] = differing(values, device, dtype)
            continue
        if members[0].overrides("build"):
            raise ValueError(
                f"expected members that share what {type(members[0]).__name__} built, got "
                f"{setting.name}={values[0]!r} and others: train them as two populations"
            )
        if not kinds <= {int, float} or setting.type == "int":
            what = "share counts and periods" if kinds == {int} else "differ in numbers only"
            raise ValueError(
                f"expected members to {what}, got {setting.name}={values[0]!r} and others of "
                f"{type(members[0]).__name__}: train them as two populations"
            )
        found[setting.name] = torch.tensor(values, device=device, dtype=dtype)
    return found


def with_numbers(intervention: Intervention, values: dict[str, Any]) -> Any:
    """The intervention with one member's numbers in place (tensors under `vmap`, so nothing is validated again)."""
    if not values:
        return intervention
    new = copy.copy(intervention)
    for name, value in values.items():
        inner = with_numbers(getattr(new, name), value) if isinstance(value, dict) else value
        object.__setattr__(new, name, inner)
    return new
