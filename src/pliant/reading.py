"""What reads the units of a network: entries that multiply a unit's activation and nothing else.

Units are asked while they are silent, all groups of them at once: some of their units are silent, the others are not,
and then the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pliant.codes import along, chunks, owned, some_half, three_codes
from pliant.cutting import Tensors
from pliant.feeding import Fed, Group

EPSILON = 1e-30  # of a silent unit: what is proportional to it stands out from all else, and from products of two
SAME = 1e-9  # of two passes that say the same, relative
Masks = Sequence[Tensor]  # of each group, which units are silent


class Read(Fed):
    """A module at a generic point, some of whose units are silent."""

    def __init__(self, module: nn.Module, example: Any):
        super().__init__(module, example)
        self.kind = "parity"
        self.turns: list[int] = []

    def reading(self, groups: list[Group]) -> list[Tensors]:
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

    def readers(self, groups: list[Group], masks: Masks) -> tuple[Tensors, bool]:
        """Among all units, the one that each entry reads alone; and whether entries read products of silent units."""
        size, products, salt = sum(group.size for group in groups), False, 0

        def gradients() -> list[Tensors]:
            nonlocal products, salt
            salt += 1
            found = []
            for code in three_codes(size):
                cut = self.run(leaves=self.silent(groups, masks, code))
                slopes = self.gradient(self.total(cut, salt), self.params)
                for name, g in slopes.items():
                    slopes[name], several = _of_silent(g)
                    products |= several
                found.append(slopes)
            names = set.intersection(*map(set, found))
            return [{name: slopes[name] for name in slopes if name in names} for slopes in found]

        return owned(gradients, size), products

    def trials(self, groups: list[Group], kind: str) -> Iterator[Masks]:
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

    def apart_from(self, groups: list[Group]) -> list[int]:
        """Turns for the groups, as few as will do, so that no two of one turn are factors of one product.

        Two groups meet where the silence of one changes what the network makes of the other.
        """
        sites = {site: self.point.leaves[site] for group in groups for site in group.sites}
        usual, meets = self.gradient(self.total(self.run()), sites), []
        for group in groups:
            silent = {site: torch.zeros_like(self.point.leaves[site]) for site in group.sites}
            found = self.gradient(self.total(self.run(leaves=silent)), sites)
            kept = {site for site in usual.keys() & found.keys() if same({site: usual[site]}, {site: found[site]})}
            meets.append(
                {j for j, other in enumerate(groups) if other is not group and not kept.issuperset(other.sites)}
            )
        turns: list[int] = []
        for i in range(len(groups)):
            taken = {turns[j] for j in range(i) if j in meets[i] or i in meets[j]}
            turns.append(min(set(range(i + 1)) - taken))
        return turns

    def silent(self, groups: list[Group], masks: Masks, code: Tensor | None = None) -> Tensors:
        """What leaves the sites where some units are silent: 0, or next to it and with a code."""
        leaves = {}
        for group, mask, values in zip(groups, masks, self.split(groups, code), strict=True):
            for site, axis in group.sites.items():
                leaf = self.point.leaves[site].detach()
                tiny = 0.0 if code is None else EPSILON * leaf * along(values, axis, leaf.ndim)
                leaves[site] = torch.where(along(mask, axis, leaf.ndim), tiny, leaf)
        return leaves

    def split(self, groups: list[Group], values: Tensor | None) -> Sequence[Tensor]:
        """Values of all units, by group."""
        sizes = [group.size for group in groups]
        return (torch.zeros(sum(sizes)) if values is None else values[: sum(sizes)]).split(sizes)

    def dependence(self, groups: list[Group], zeroed: list[Tensors], freeze: bool = True) -> list[Tensor]:
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

    def silencing(self, groups: list[Group], candidates: list[Tensors]) -> list[Tensors]:
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

    def still_reads(self, groups: list[Group], zeroed: list[Tensors], asked: list[Tensors]) -> list[bool]:
        """Whether some entries still read units, of which others are 0."""
        found = [False] * len(groups)
        among = {name: self.params[name] for own in asked for name in own}
        for masks in self.trials(groups, self.kind):
            slopes = self.gradient(self.total(self.run(self.without(masks, zeroed))), among)
            for i, own in enumerate(asked):
                for name, codes in own.items():
                    found[i] |= name in slopes and bool(((slopes[name] != 0) & (codes >= 0) & masks[i][codes]).any())
        return found


def _by_group(groups: list[Group], codes: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The units of every group that some entries belong to, from places among all units."""
    ends = torch.tensor([group.size for group in groups]).cumsum(0)
    low, high = torch.bucketize(torch.stack(torch.where(codes < 0, codes.max(), codes).aminmax()), ends, right=True)
    for i in range(int(low), int(high) + 1):
        start, end = ends[i] - groups[i].size, ends[i]
        own = torch.where((codes >= start) & (codes < end), codes - start, -1)
        if low == high or (own >= 0).any():
            yield i, own


def _of_silent(gradient: Tensor) -> tuple[Tensor, bool]:
    """A gradient with 0 for what multiplies no silent unit; and whether something multiplies two of them."""
    found, several = torch.empty_like(gradient), False
    for own, g in chunks(found, gradient):
        sizes = g.abs()
        own.copy_(g.masked_fill(~(sizes < 1e10 * EPSILON), 0.0))
        low, high = sizes.masked_fill_(sizes == 0, EPSILON).aminmax()
        several |= bool(low < 1e-15 * EPSILON) or not high.isfinite()
    return found, several


def same(a: Tensors, b: Tensors) -> bool:
    """Whether the pieces of two passes are the same, up to rounding."""
    if a.keys() != b.keys():
        return False
    pairs = [(x, b[name]) for name, x in a.items() if x.numel()]
    return all(x.shape == y.shape and bool((x - y).abs().max() <= SAME * x.abs().max()) for x, y in pairs)
