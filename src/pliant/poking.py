"""Finding the unit map by poking a network, not by parsing its code.

One forward pass is run at a generic point (random parameters, random inputs, and random numbers in place of what every
nonlinearity returns, which cuts the network at its sites: `pliant.cutting`). An entry *feeds* a unit if only that
unit's preactivation moves with it; it *reads* a unit if it multiplies that unit's activation and nothing else. Both are
read off gradients with three random codes a unit: where the ratio of two codes names a unit, and the third agrees, the
entry belongs to that unit alone. All groups of units are asked at once: some of their units are silent, the others are
not, and then the other way round.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pliant.codes import along, owned, three_codes
from pliant.cutting import Cut, Tensors
from pliant.feeding import Group
from pliant.generic import Generic, in_double
from pliant.modules import seeded
from pliant.reading import Masks, Read, same
from pliant.units import Entries, UnitGroup


def find_units(module: nn.Module, example: Any) -> tuple[UnitGroup, ...]:
    """The unit map of a module in train mode, from one batch of inputs; module and global stream are left alone.

    Batch normalisation stays in the mode in which it is. Dropout drops nothing.

    Warns about sites whose units no parameters feed or read one by one; they have no entry in the map.

    >>> (units,) = find_units(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2))
    >>> units.name, units.size, list(units.incoming), list(units.outgoing), units.exact
    ('1', 3, ['0.weight', '0.bias'], ['2.weight'], True)
    """
    with seeded(0), torch.enable_grad(), in_double():
        poked = Poked(module, example)
        found = poked.units(poked.groups())
    claimed = {site for units in found for site, _ in units.sites}
    if lost := [name for name in poked.hidden if name not in claimed and poked.cut.pieces[name].requires_grad]:
        warnings.warn(
            f"no weights feed the units of {', '.join(lost)} one by one, so they are left alone", stacklevel=3
        )
    return tuple(found)


def find_axes(module: nn.Module, example: Any) -> dict[str, int]:
    """The axis of the activations of every site along which its units run; of the unit map, too.

    >>> module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(2), nn.Linear(4, 3), nn.ReLU())
    >>> find_axes(module, torch.ones(1, 1, 2, 2))
    {'1': 1, '4': 2}
    """
    with seeded(0), torch.enable_grad(), in_double():
        return Generic(module, example).axes()


class Poked(Read):
    """What moves with what at a generic point of a module."""

    def __init__(self, module: nn.Module, example: Any):
        super().__init__(module, example)
        self._silent: dict[int, Tensors] = {}

    def units(self, groups: list[Group]) -> list[UnitGroup]:
        """What reads the units of each group, and what a reset would do to the rest of the network."""
        reading = self.reading(groups)
        candidates = [(i, name) for i, codes in enumerate(reading) for name in codes]
        harmless = set(self.passing(candidates, lambda some: self.harmless(groups, reading, some)))
        reading = [{n: c for n, c in codes.items() if (i, n) in harmless} for i, codes in enumerate(reading)]
        outgoing = self.silencing(groups, reading)
        left = self.dependence(groups, outgoing, freeze=False)
        shared = [self.shared(group) for group in groups]
        silenced = [i for i, group in enumerate(groups) if not left[i].any()]
        doubtful = [i for i in silenced if self.moves_more(groups[i])]
        leaks = dict(zip(doubtful, self.leaks(groups, doubtful), strict=True))
        claimed = [i for i in silenced if not leaks.get(i)]
        reads = [self.entries(g, o, o) for g, o in zip(groups, outgoing, strict=True)]
        exact = set(self.passing(claimed, lambda some: self.unmoved(groups, outgoing, shared, some)))
        return [
            UnitGroup(
                name=next(iter(group.sites)),
                sites=tuple(group.sites.items()),
                size=group.size,
                incoming=self.entries(group, group.incoming, self.params.keys() - self.normalisers),
                normaliser=self.entries(group, group.incoming, self.normalisers),
                outgoing=reads[i],
                biases={name: bias for name, read in reads[i].items() if (bias := self.bias(name, read)) is not None},
                exact=i in exact,
                shared_statistics=shared[i],
            )
            for i, group in enumerate(groups)
        ]

    def entries(self, group: Group, codes: Tensors, names: Collection[str]) -> dict[str, Entries]:
        """Those of some parameters."""
        whole = {name: own.expand(self.params[name].shape) for name, own in codes.items() if name in names}
        return {name: Entries(own, group.size) for name, own in whole.items()}

    def leaks(self, groups: list[Group], some: list[int]) -> list[bool]:
        """Whether entries that feed silent units move anything else."""
        size, leaks = sum(group.size for group in groups), [False] * len(groups)
        among = {name: self.params[name] for i in some for name in groups[i].incoming}
        starts = [sum(group.size for group in groups[:i]) for i in range(len(groups))]
        place = {site: (i, axis) for i, group in enumerate(groups) for site, axis in group.sites.items()}
        for masks in self.trials(groups, self.kind) if some else ():
            cut = self.run(leaves=self.silent(groups, masks))

            def coded(code: Tensor, salt: int, cut: Cut = cut) -> Tensor:
                parts = []
                for name, piece in cut.pieces.items():
                    i, axis = place.get(name, (None, 0))
                    own = code[-1] if i is None else along(self.split(groups, code)[i], axis, piece.ndim)
                    parts.append((piece * self.weight(salt, name, piece) * own).sum())
                return torch.stack(parts).sum()

            asked: list[list[Tensors]] = []

            def gradients(asked: list[list[Tensors]] = asked, coded: Callable = coded) -> list[Tensors]:
                asked.append([self.gradient(coded(code, len(asked)), among) for code in three_codes(size + 1)])
                return asked[-1]

            owners = owned(gradients, size + 1)
            moving = asked[-1][0]
            for i in some:
                for name, codes in groups[i].incoming.items():
                    if name in moving:
                        own = (codes >= 0) & masks[i][codes] & (moving[name] != 0)
                        leaks[i] |= bool((own & (owners.get(name, codes - size) != codes + starts[i])).any())
        return [leaks[i] for i in some]

    def passing(self, items: list, fine: Callable[[list], bool]) -> list:
        """The items that are fine, asked together as long as they are."""
        if not items or fine(items):
            return items
        middle = len(items) // 2
        return [i for part in (items[:middle], items[middle:]) for i in self.passing(part, fine)] if middle else []

    @torch.no_grad()
    def harmless(self, groups: list[Group], reading: list[Tensors], some: list[tuple[int, str]]) -> bool:
        """Whether entries that read silent units can be 0 while all else stays: no norm of the weights is taken."""
        zeroed = [{n: c for n, c in own.items() if (i, n) in some} for i, own in enumerate(reading)]
        for trial, masks in enumerate(self.trials(groups, self.kind)):
            leaves, before = self.as_it_is(groups, trial, masks)
            if not same(before, self.run(self.without(masks, zeroed), leaves, freeze=False).pieces):
                return False
        return True

    def as_it_is(self, groups: list[Group], trial: int, masks: Masks) -> tuple[Tensors, Tensors]:
        """What leaves the sites where some units are silent, and all pieces then."""
        leaves = self.silent(groups, masks)
        if trial not in self._silent:
            self._silent[trial] = self.run(leaves=leaves, freeze=False).pieces
        return leaves, self._silent[trial]

    @cached_property
    def others(self) -> Tensors:
        """Parameters drawn anew."""
        return self.drawn()

    @torch.no_grad()
    def unmoved(self, groups: list[Group], outgoing: list[Tensors], shared: list[bool], some: list[int]) -> bool:
        """Whether nothing but the silent units of some groups moves as these are drawn anew, and nothing reads them."""
        for trial, masks in enumerate(self.trials(groups, self.kind)):
            leaves, before = self.as_it_is(groups, trial, masks)
            new: Tensors = {}
            for i in some:
                leaves |= {site: self.point.leaves[site] for site in groups[i].sites}
                for name, codes in groups[i].incoming.items():
                    if name in self.normalisers or not shared[i]:
                        chosen = (codes >= 0) & masks[i][codes]
                        new[name] = torch.where(chosen, self.others[name], new.get(name, self.params[name]))
            after = self.run(self.without(masks, outgoing, new), leaves, freeze=False).pieces
            if not same(self.but(groups, some, masks, before), self.but(groups, some, masks, after)):
                return False
        return True

    def but(self, groups: list[Group], some: list[int], masks: Masks, pieces: Tensors) -> Tensors:
        """Pieces with 0 in place of what enters the silent units of some groups."""
        place = {site: (axis, masks[i]) for i in some for site, axis in groups[i].sites.items()}
        own = {site: torch.where(along(mask, axis, pieces[site].ndim), 0.0, pieces[site])
               for site, (axis, mask) in place.items()}  # fmt: skip
        return {**pieces, **own}

    def bias(self, weight: str, read: Entries) -> str | None:
        """The bias beside a weight, one number an output."""
        name = weight.removesuffix("weight") + "bias"
        fits = weight.endswith("weight") and name in self.params
        return name if fits and self.params[name].shape == (self.params[weight].shape[read.outputs],) else None
