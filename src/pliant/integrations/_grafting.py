"""Recipes built into modules that a framework holds already."""

from __future__ import annotations

from typing import Any

from torch import nn

from pliant.adapter import How
from pliant.interventions import Chain


def builds(recipe: Chain) -> bool:
    """Whether some member of a recipe changes the module."""
    return any(member.overrides("build") for member in recipe)


def graft(recipe: Chain, module: nn.Module, example: Any, call: How | None = None) -> None:
    """Builds a recipe into a module in place, so that all who hold it have the new one; with new parameters.

    >>> import torch
    >>> from pliant.interventions import LayerNorm
    >>> module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> graft(Chain(LayerNorm()), module, torch.ones(4, 2))
    >>> len(list(module.parameters()))
    6
    """
    become(module, recipe.build(module, example, call))


def become(module: nn.Module, other: nn.Module) -> None:
    """Makes a module the same as another one, under its own identity: the two share all that they have."""
    object.__setattr__(module, "__class__", type(other))
    object.__setattr__(module, "__dict__", vars(other))


def refuse_no_chain(recipe: Any) -> None:
    """Raises `ValueError` for anything but a chain."""
    if not isinstance(recipe, Chain):
        raise ValueError(f"expected a recipe such as Chain(L2(1e-4)), got {recipe!r}")
