"""A function of one network, for every member of a population: alone, under `vmap`, or in a loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from pliant.modules import GLOBAL_STREAM
from pliant.stacking import at, stack
from pliant.words import first_line


class Members:
    """How the members of a population are computed: a loop takes over for good where something has no `vmap` rule.

    Attributes:
        size: how many there are.
        mode: `"single"`, `"vmap"`, `"compiled"` or `"loop"`.

    >>> Members(2, "vmap").map(lambda x: {"sum": x.sum()}, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    {'sum': tensor([3., 7.])}
    """

    def __init__(self, size: int, mode: str):
        self.size, self.mode = size, mode
        self._tried: set[Any] = set()

    @property
    def apart(self) -> bool:
        """Whether members are computed one after the other."""
        return self.mode in ("single", "loop")

    def map(self, function: Callable, *trees: Any) -> Any:
        """`function` of each member's part of the trees, its results stacked; `ValueError` if it draws."""

        def looped(*trees: Any) -> Any:
            return stack(self._each(function, *trees))

        if self.apart:
            return self.without_draws(looped, trees)
        return self.or_loop(vmap(function), looped, trees)

    def in_place(self, function: Callable, what: Any, *trees: Any) -> Any:
        """`map` of a function that may overwrite its arguments; `what` tells it from others.

        Where there is no rule for `vmap`, it fails half-way: so the first time it is tried on copies.
        """
        if not self.apart and what not in self._tried:
            self._tried.add(what)
            self.or_loop(vmap(function), lambda *trees: self._each(function, *trees), tree_map(_copied, trees))
        if self.mode == "single":  # as fast as plain PyTorch
            return stack(self._each(function, *trees))
        return self.map(function, *trees)

    def or_loop(self, stacked: Callable, looped: Callable, trees: tuple) -> Any:
        """The result under `vmap`; where that has no rule, of a loop over members, and then for good."""
        try:
            return stacked(*trees)
        except RuntimeError as error:
            if "randomness" in str(error):
                raise ValueError(GLOBAL_STREAM) from error
            result = self.without_draws(looped, trees)  # a real mistake raises here, too, and plainly
            reason = first_line(error)
            warnings.warn(f"vmap cannot run this network, its members run in a loop: {reason}", stacklevel=6)
            self.mode = "loop"
            return result

    def without_draws(self, function: Callable, trees: tuple) -> Any:
        """`function` of the trees; `ValueError` if it draws from the global random stream, as under `vmap`."""
        before = _streams(trees)
        result = function(*trees)
        if not all(map(torch.equal, before, _streams(trees))):
            raise ValueError(GLOBAL_STREAM)
        return result

    def _each(self, function: Callable, *trees: Any) -> list[Any]:
        return [function(*(at(tree, m) for tree in trees)) for m in range(self.size)]


def _streams(trees: tuple) -> list[Tensor]:
    """The states of the global random streams of where members are computed: a GPU has one of its own."""
    there = next((t.device for t in tree_leaves(trees[:1]) if isinstance(t, Tensor)), None)
    if there is None or there.type != "cuda":
        return [torch.get_rng_state()]
    return [torch.get_rng_state(), torch.cuda.get_rng_state(there)]


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
