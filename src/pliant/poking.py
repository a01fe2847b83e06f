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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant.codes import along, owned, some_half, three_codes
from pliant.cutting import Cut, Tensors
from pliant.generic import Generic, in_double
from pliant.modules import seeded
from pliant.units import Entries, Units

EPSILON = 1e-30  # of a silent unit: what is proportional to it stands out from all else, and from products of two
SAME = 1e-9  # of two passes that say the same, relative


def find_units(module: nn.Module, example: Any) -> tuple[Units, ...]:
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


@dataclass
class _Group:
    """Sites fed by the same entries."""

    sites: dict[str, int]  # name -> axis
    size: int
    incoming: Tensors  # codes


Masks = Sequence[Tensor]  # of each group, which units are silent


class Poked(Generic):
    """What moves with what at a generic point of a module."""

    def __init__(self, module: nn.Module, example: Any):
        super().__init__(module, example)
        self.cut, self.moving = self.run(), self.run(freeze=False)
        self.site_axes = self.axes()
        self.hidden = list(self.cut.axes)[: self.cut.last]
        self.kind = "parity"
        self.turns: list[int] = []
        self._silent: dict[int, Tensors] = {}

    def feeding(self, site: str, axis: int, cut: Cut, among: Tensors) -> tuple[Tensors, Tensors]:
        """The entries that move one unit of a site alone; and the gradients of something at the site."""
        pre, asked = cut.pieces[site], []

        def gradients() -> list[Tensors]:
            weighted = pre * torch.randn(pre.shape, dtype=torch.float64)
            codes = [along(code, axis, pre.ndim) for code in three_codes(pre.shape[axis])]
            asked.append([self.gradient((weighted * code).sum(), among) for code in codes])
            return asked[-1]

        return owned(gradients, pre.shape[axis]), asked[-1][0]

    def fed(self, site: str) -> tuple[int, Tensors, Tensors]:
        """The axis along which the units of a site run, what feeds them (nothing if no weights do), and gradients.

        It is the axis that the nearest weights feed: others may feed one place alone, such as the taps of a kernel in
        an image of 2 x 2, or the embedding of a word that occurs once.
        """
        pre, slopes = self.cut.pieces[site], {}
        steps = {name: far for name, far in _steps(pre, self.params).items() if self.params[name].ndim > 1}
        best, fed, least = -1, {}, float("inf")
        usual = self.site_axes[site]
        for axis in dict.fromkeys([usual, pre.ndim - 1, *range(1, pre.ndim)]):
            if pre.shape[axis] > 1 or pre.ndim == 2 or axis == usual:
                incoming, slopes = self.feeding(site, axis, self.cut, self.params)
                far = min((steps[name] for name in incoming if name in steps), default=float("inf"))
                if far < least:
                    best, fed, least = axis, incoming, far
                if far == min(steps.values(), default=0):
                    break
        return best, fed, slopes

    def groups(self) -> list[_Group]:
        """Hidden sites with the entries that feed them; sites that share entries are one group."""
        groups: list[_Group] = []
        self.moved = {name: torch.zeros(p.shape, dtype=torch.int16) for name, p in self.params.items()}
        for site in self.hidden:
            axis, incoming, slopes = self.fed(site)
            for name, slope in slopes.items():
                self.moved[name] += slope != 0
            if not incoming:
                continue
            size = self.cut.pieces[site].shape[axis]
            joined = next((g for g in groups if g.size == size and _agree(g.incoming, incoming)), None)
            if joined is None:
                groups.append(_Group({site: axis}, size, incoming))
            else:
                joined.sites[site] = axis
                joined.incoming = {**incoming, **joined.incoming}
        rest = [(t * self.weight(0, n, t)).sum() for n, t in self.cut.pieces.items() if n not in self.hidden]
        for name, slope in self.gradient(torch.stack(rest).sum(), self.params).items():
            self.moved[name] += slope != 0
        return groups

    def units(self, groups: list[_Group]) -> list[Units]:
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
        reads = [{name: Entries(c, g.size) for name, c in o.items()} for g, o in zip(groups, outgoing, strict=True)]
        exact = set(self.passing(claimed, lambda some: self.unmoved(groups, outgoing, shared, some)))
        return [
            Units(
                name=next(iter(group.sites)),
                sites=tuple(group.sites.items()),
                size=group.size,
                incoming=_entries(group, but=self.normalisers),
                normaliser=_entries(group, but=self.params.keys() - self.normalisers),
                outgoing=reads[i],
                biases={name: bias for name, read in reads[i].items() if (bias := self.bias(name, read)) is not None},
                exact=i in exact,
                shared_statistics=shared[i],
            )
            for i, group in enumerate(groups)
        ]

    def shared(self, group: _Group) -> bool:
        """Whether statistics that move mix the units of a group."""
        fed = {n: c for n, c in group.incoming.items() if n not in self.normalisers and self.params[n].ndim > 1}
        among, mixed = {name: self.params[name] for name in fed}, set(fed)
        for site, axis in group.sites.items():
            alone, _ = self.feeding(site, axis, self.moving, among)
            mixed -= {n for n, c in fed.items() if n in alone and (alone[n] == c).double().mean() >= 0.5}
        return bool(mixed)

    def trials(self, groups: list[_Group], kind: str) -> Iterator[Masks]:
        """Which units are silent together: in every trial, of every group, a half that is drawn.

        By `"parity"`, neighbours have other halves silent. Where that leaves products of two silent units, only groups
        that never meet in a product have silent units at a time (`"apart"`).
        """
        halves = [some_half(group.size) for group in groups]
        if kind == "parity":
            for side in (0, 1):
                yield [half if i % 2 == side else ~half for i, half in enumerate(halves)]
            return
        self.turns = self.turns or self.apart_from(groups)
        for turn in range(max(self.turns) + 1):
            for side in (True, False):
                yield [(h if side else ~h) & (mine == turn) for h, mine in zip(halves, self.turns, strict=True)]

    def apart_from(self, groups: list[_Group]) -> list[int]:
        """Turns for the groups, as few as will do, so that no two of one turn are factors of one product.

        Two groups meet where the silence of one changes what the network makes of the other.
        """
        sites = {site: self.point.leaves[site] for group in groups for site in group.sites}
        usual, meets = self.gradient(self.total(self.run()), sites), []
        for group in groups:
            silent = {site: torch.zeros_like(self.point.leaves[site]) for site in group.sites}
            found = self.gradient(self.total(self.run(leaves=silent)), sites)
            same = {site for site in usual.keys() & found.keys() if _same({site: usual[site]}, {site: found[site]})}
            meets.append(
                {j for j, other in enumerate(groups) if other is not group and not same.issuperset(other.sites)}
            )
        turns: list[int] = []
        for i in range(len(groups)):
            taken = {turns[j] for j in range(i) if j in meets[i] or i in meets[j]}
            turns.append(min(set(range(i + 1)) - taken))
        return turns

    def silent(self, groups: list[_Group], masks: Masks, code: Tensor | None = None) -> Tensors:
        """What leaves the sites where some units are silent: 0, or next to it and with a code."""
        leaves = {}
        for group, mask, values in zip(groups, masks, self.split(groups, code), strict=True):
            for site, axis in group.sites.items():
                leaf = self.point.leaves[site].detach()
                tiny = 0.0 if code is None else EPSILON * leaf * along(values, axis, leaf.ndim)
                leaves[site] = torch.where(along(mask, axis, leaf.ndim), tiny, leaf)
        return leaves

    def split(self, groups: list[_Group], values: Tensor | None) -> Sequence[Tensor]:
        """Values of all units, by group."""
        sizes = [group.size for group in groups]
        return (torch.zeros(sum(sizes)) if values is None else values[: sum(sizes)]).split(sizes)

    def reading(self, groups: list[_Group]) -> list[Tensors]:
        """The entries that multiply the activation of one silent unit and nothing else, by group.

        There the gradient is the activation times what comes after: 0 but for EPSILON, with the unit's code.
        """
        found: list[Tensors] = []
        for self.kind in ("parity", "apart") if groups else ():
            found, clean = [{} for _ in groups], True
            for masks in self.trials(groups, self.kind):
                owners, products = self.readers(groups, masks)
                clean &= not products
                for name, codes in owners.items():
                    for i, own in _by_group(groups, codes):
                        old = found[i].get(name, own)
                        both = (old >= 0) & (own >= 0) & (old != own)
                        found[i][name] = torch.where(both, -1, torch.maximum(old, own))
            if clean:
                break
        return [{name: codes for name, codes in own.items() if (codes >= 0).any()} for own in found]

    def readers(self, groups: list[_Group], masks: Masks) -> tuple[Tensors, bool]:
        """Among all units, the one that each entry reads alone; and whether entries read products of silent units."""
        size, products, salt = sum(group.size for group in groups), False, 0

        def gradients() -> list[Tensors]:
            nonlocal products, salt
            salt += 1
            found = []
            for code in three_codes(size):
                cut = self.run(leaves=self.silent(groups, masks, code))
                slopes = {n: g / EPSILON for n, g in self.gradient(self.total(cut, salt), self.params).items()}
                for name, g in slopes.items():
                    sizes = g.abs()
                    products |= bool((sizes < 1e-15).sum() > (sizes == 0).sum()) or not sizes.amax().isfinite()
                    slopes[name] = g.masked_fill_(~(sizes < 1e10), 0.0)
                found.append(slopes)
            names = set.intersection(*map(set, found))
            return [{name: slopes[name] for name in slopes if name in names} for slopes in found]

        return owned(gradients, size), products

    def moves_more(self, group: _Group) -> bool:
        """Whether entries that feed a group move more than the units of one site, unless some are silent perhaps."""
        several = any(((codes >= 0) & (self.moved[n] > 1)).any() for n, codes in group.incoming.items())
        return several or len(group.sites) > 1

    def leaks(self, groups: list[_Group], some: list[int]) -> list[bool]:
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

    def dependence(self, groups: list[_Group], zeroed: list[Tensors], freeze: bool = True) -> list[Tensor]:
        """How much the rest of the network depends on each unit with some entries of units like it set to 0."""
        found = [torch.zeros(group.size, dtype=torch.float64) for group in groups]
        sites = {site: self.point.leaves[site] for group in groups for site in group.sites}
        for masks in self.trials(groups, self.kind):
            cut = self.run(self.without(masks, zeroed), freeze=freeze)
            slopes = self.gradient(self.total(cut), sites)
            for i, group in enumerate(groups):
                for site, axis in group.sites.items():
                    if site in slopes and slopes[site].numel():
                        slope = slopes[site].movedim(axis, -1).flatten(0, -2).abs().amax(0)
                        found[i] = torch.maximum(found[i], torch.where(masks[i], slope, 0.0))
        return found

    def without(self, masks: Masks, zeroed: list[Tensors], params: Tensors | None = None) -> Tensors:
        """Parameters with the entries of silent units set to 0."""
        new = dict(params or {})
        for mask, entries in zip(masks, zeroed, strict=True):
            for name, codes in entries.items():
                new[name] = torch.where((codes >= 0) & mask[codes], 0.0, new.get(name, self.params[name]))
        return new

    def silencing(self, groups: list[_Group], candidates: list[Tensors]) -> list[Tensors]:
        """The fewest candidates that, set to 0, take the units out of the network, or as far out as they can be."""
        chosen: list[Tensors | None] = [None] * len(groups)
        matrices = [[name for name in own if self.params[name].ndim > 1] for own in candidates]
        for place in range(max(map(len, matrices), default=0)):
            asked = [
                {names[place]: own[names[place]]} if chosen[i] is None and place < len(names) else {}
                for i, (own, names) in enumerate(zip(candidates, matrices, strict=True))
            ]
            for i, left in enumerate(self.dependence(groups, asked)):
                if asked[i] and not left.any():
                    chosen[i] = asked[i]
        left = [{} if chosen[i] is not None else own for i, own in enumerate(candidates)]
        found: list[Tensors] = [dict([*own.items()][:1]) for own in left]  # with none at 0, all of them read
        for place in range(1, max(map(len, left), default=0)):
            asked = [dict([list(own.items())[place]]) if place < len(own) else {} for own in left]
            for i, reads in enumerate(self.still_reads(groups, found, asked)):
                if reads:
                    found[i] |= asked[i]
        return [found[i] if own is None else own for i, own in enumerate(chosen)]

    def still_reads(self, groups: list[_Group], zeroed: list[Tensors], asked: list[Tensors]) -> list[bool]:
        """Whether some entries still read units, of which others are 0."""
        found = [False] * len(groups)
        among = {name: self.params[name] for own in asked for name in own}
        for masks in self.trials(groups, self.kind):
            slopes = self.gradient(self.total(self.run(self.without(masks, zeroed))), among)
            for i, own in enumerate(asked):
                for name, codes in own.items():
                    found[i] |= name in slopes and bool(((slopes[name] != 0) & (codes >= 0) & masks[i][codes]).any())
        return found

    def passing(self, items: list, fine: Callable[[list], bool]) -> list:
        """The items that are fine, asked together as long as they are."""
        if not items or fine(items):
            return items
        middle = len(items) // 2
        return [i for part in (items[:middle], items[middle:]) for i in self.passing(part, fine)] if middle else []

    @torch.no_grad()
    def harmless(self, groups: list[_Group], reading: list[Tensors], some: list[tuple[int, str]]) -> bool:
        """Whether entries that read silent units can be 0 while all else stays: no norm of the weights is taken."""
        zeroed = [{n: c for n, c in own.items() if (i, n) in some} for i, own in enumerate(reading)]
        for trial, masks in enumerate(self.trials(groups, self.kind)):
            leaves, before = self.as_it_is(groups, trial, masks)
            if not _same(before, self.run(self.without(masks, zeroed), leaves, freeze=False).pieces):
                return False
        return True

    def as_it_is(self, groups: list[_Group], trial: int, masks: Masks) -> tuple[Tensors, Tensors]:
        """What leaves the sites where some units are silent, and all pieces then."""
        leaves = self.silent(groups, masks)
        if trial not in self._silent:
            self._silent[trial] = self.run(leaves=leaves, freeze=False).pieces
        return leaves, self._silent[trial]

    @torch.no_grad()
    def unmoved(self, groups: list[_Group], outgoing: list[Tensors], shared: list[bool], some: list[int]) -> bool:
        """Whether nothing but the silent units of some groups moves as these are drawn anew, and nothing reads them."""
        other = self.drawn()
        for trial, masks in enumerate(self.trials(groups, self.kind)):
            leaves, before = self.as_it_is(groups, trial, masks)
            new: Tensors = {}
            for i in some:
                leaves |= {site: self.point.leaves[site] for site in groups[i].sites}
                for name, codes in groups[i].incoming.items():
                    if name in self.normalisers or not shared[i]:
                        chosen = (codes >= 0) & masks[i][codes]
                        new[name] = torch.where(chosen, other[name], new.get(name, self.params[name]))
            after = self.run(self.without(masks, outgoing, new), leaves, freeze=False).pieces
            if not _same(self.but(groups, some, masks, before), self.but(groups, some, masks, after)):
                return False
        return True

    def but(self, groups: list[_Group], some: list[int], masks: Masks, pieces: Tensors) -> Tensors:
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


def _entries(group: _Group, but: Any) -> dict[str, Entries]:
    return {name: Entries(codes, group.size) for name, codes in group.incoming.items() if name not in but}


def _by_group(groups: list[_Group], codes: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The units of every group that some entries belong to, from places among all units."""
    ends = torch.tensor([group.size for group in groups]).cumsum(0)
    low, high = torch.bucketize(torch.stack(torch.where(codes < 0, codes.max(), codes).aminmax()), ends, right=True)
    for i in range(int(low), int(high) + 1):
        start, end = ends[i] - groups[i].size, ends[i]
        own = torch.where((codes >= start) & (codes < end), codes - start, -1)
        if low == high or (own >= 0).any():
            yield i, own


def _same(a: Tensors, b: Tensors) -> bool:
    """Whether the pieces of two passes are the same, up to rounding."""
    if a.keys() != b.keys():
        return False
    pairs = [(x, b[name]) for name, x in a.items() if x.numel()]
    return all(x.shape == y.shape and bool((x - y).abs().max() <= SAME * x.abs().max()) for x, y in pairs)


def _steps(of: Tensor, params: Tensors) -> dict[str, int]:
    """How many operations lie between parameters and a number, at the least, of those that it depends on."""
    names = {id(p): name for name, p in params.items()}
    found: dict[str, int] = {}
    ring, seen, far = [of.grad_fn], {of.grad_fn}, 0
    while ring:
        far, before, ring = far + 1, ring, []
        for node in (n for one in before if one is not None for n, _ in one.next_functions):
            if node is None or node in seen:
                continue
            seen.add(node)
            ring.append(node)
            if (name := names.get(id(getattr(node, "variable", None)))) is not None:
                found[name] = far
    return found


def _agree(a: Tensors, b: Tensors) -> bool:
    """Whether two sites are fed by some entry in common, unit by unit."""
    return any(((a[name] >= 0) & (a[name] == codes)).any() for name, codes in b.items() if name in a)
