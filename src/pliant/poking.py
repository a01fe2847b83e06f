"""Finding the unit map by poking a network, not by parsing its code.

One forward pass is run at a generic point (random parameters, random inputs, and random numbers in place of what every
nonlinearity returns, which cuts the network at its sites: `pliant.cutting`). An entry *feeds* a unit if only that
unit's preactivation moves with it; it *reads* a unit if it multiplies that unit's activation and nothing else. Both are
read off gradients with three random codes a unit: where the ratio of two codes names a unit, and the third agrees, the
entry belongs to that unit alone. All groups of units are asked at once: some of their units are silent, the others are
not, and then the other way round.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from pliant.cutting import Cut, Point, Tensors, noise
from pliant.modules import NORMALISERS, seeded
from pliant.nets.dropout import Dropout
from pliant.sites import arguments, elementwise_modules, uncompiled
from pliant.units import Entries, Units

PLACE, CODE = 1e-4, 1e-6  # agreement of the codes in float64: absolute of the place, relative of the third
EPSILON = 1e-30  # of a silent unit: what is proportional to it stands out from all else, and from products of two
SAME = 1e-9  # of two passes that say the same, relative
PATIENCE = 5.0  # seconds until something is said
FEW, MANY = (1, 2), 8  # examples that may do, and enough to see whether they do

def find_units(module: nn.Module, example: Any) -> tuple[Units, ...]:
    """The unit map of a module in train mode, from one batch of inputs; module and global stream are left alone.

    Batch normalisation stays in the mode in which it is. Dropout drops nothing.

    Warns about sites whose units no parameters feed or read one by one; they have no entry in the map.

    >>> (units,) = find_units(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2))
    >>> units.name, units.size, list(units.incoming), list(units.outgoing), units.exact
    ('1', 3, ['0.weight', '0.bias'], ['2.weight'], True)
    """
    with seeded(0), torch.enable_grad(), _in_double():
        poked = Poked(uncompiled(module), example)
        found = poked.units(poked.groups())
    claimed = {site for units in found for site, _ in units.sites}
    if lost := [name for name in poked.hidden if name not in claimed]:
        warnings.warn(
            f"no weights feed the units of {', '.join(lost)} one by one, so they are left alone", stacklevel=3
        )
    return tuple(found)

@dataclass
class _Group:
    """Sites fed by the same entries."""

    sites: dict[str, int]  # name -> axis
    size: int
    incoming: Tensors  # codes

Masks = Sequence[Tensor]  # of each group, which units are silent

class Poked:
    """A module at a generic point, and what moves with what there."""

    def __init__(self, module: nn.Module, example: Any):
        self.module = _in_training(module)
        self.composites = elementwise_modules(self.module)
        self.params = {n: p.requires_grad_() for n, p in self.drawn().items()}
        self.buffers = dict(self.module.named_buffers())
        self.normalisers = {
            f"{path}.{name}".lstrip(".")
            for path, layer in self.module.named_modules()
            if "Norm" in type(layer).__name__
            for name, _ in layer.named_parameters(recurse=False)
        }
        self.started, self.patient = time.monotonic(), True
        self.point = Point()
        self.x = self.few(example)
        self.cut, self.moving = self.run(), self.run(freeze=False)
        self.sites = list(self.cut.axes)
        self.hidden = self.sites[: self.cut.last]
        self.kind = "parity"
        self._weights: dict[tuple[int, str], Tensor] = {}
        self._silent: dict[int, Tensors] = {}

    def drawn(self) -> Tensors:
        """Random parameters, of which sums over inputs are of about size 1."""
        return {
            name: torch.randn(p.shape, dtype=torch.float64).div_(max(1, p.numel() // max(1, len(p))) ** 0.5)
            if p.ndim > 1
            else torch.randn(p.shape, dtype=torch.float64)
            for name, p in self.module.named_parameters()
            if p.is_floating_point()
        }

    def run(self, params: Tensors | None = None, leaves: Tensors | None = None, freeze: bool = True) -> Cut:
        """One forward pass, cut at every site, with its outputs among its pieces."""
        cut = Cut(self.composites, self.point, leaves or {}, freeze)
        self.called(cut, self.x, params or {})
        return cut

    def called(self, cut: Cut, x: Any, params: Tensors) -> Any:
        """The output of a forward pass as `cut` lets it be."""
        if self.patient and time.monotonic() - self.started > PATIENCE:
            self.patient = False
            print(f"pliant: finding the units of {type(self.module).__name__}, once", file=sys.stderr, flush=True)
        torch.default_generator.manual_seed(0)  # the same draws in every pass
        buffers = {name: b.clone() for name, b in self.buffers.items()}
        with cut.over(self.module):
            output = functional_call(self.module, {**self.params, **buffers, **params}, *arguments(x))
        leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        cut.pieces |= {f"output {i}": t for i, t in enumerate(leaves) if t.is_floating_point()}
        return leaves

    @torch.no_grad()
    def few(self, example: Any) -> Any:
        """Random inputs of the same kind: one or two examples where each is a matter of its own, else all.

        Not so are the nodes of a graph, and examples that decide which nonlinearities are called.
        """
        whole, rows = _generic(example), _rows(example)

        def seen(x: Any, freeze: bool = True) -> tuple[list[Tensor], Tensors]:
            cut = Cut(self.composites, Point(scales=self.point.scales), None, freeze)
            return self.called(cut, x, {}), {name: cut.pieces[name] for name in cut.axes}

        outputs = None
        for num in (num for num in FEW if num < rows):
            try:  # it may be no input to the module
                if outputs is None:
                    outputs, pieces = seen(_first(whole, rows, min(rows, MANY)))
                some = _first(whole, rows, num)
                found, there = seen(some)
                if _independent(found, outputs, num) and _in_proportion(there, pieces, num, min(rows, MANY)):
                    seen(some, freeze=False)
                    return some
            except Exception:
                continue
        return whole

    def codes(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Three random codes a unit, the ratio of the second to the first being its place: 1, 2, 3, ..."""
        generator = torch.Generator().manual_seed(size)
        first, third = (torch.rand(size, dtype=torch.float64, generator=generator) + 0.5 for _ in range(2))
        return first, first * torch.arange(1, size + 1, dtype=torch.float64), third

    def owners(self, gradients: Callable[[], list[Tensors]], size: int) -> Tensors:
        """The unit each entry belongs to alone, by parameter, for the parameters that have any.

        Of millions of entries, a few have gradients that cancel to rounding errors: those are looked at again.
        """
        found, unclear = self.decode(gradients(), size)
        if any(0 < unclear[name].sum() < 0.01 * codes.numel() for name, codes in found.items()):
            again, _ = self.decode(gradients(), size)
            found = {n: torch.where(codes < 0, again.get(n, codes), codes) for n, codes in found.items()}
        return found

    def decode(self, gradients: list[Tensors], size: int) -> tuple[Tensors, Tensors]:
        """The unit that the gradients with three codes name, by parameter, and the entries that name none."""
        first, _, third = self.codes(size)
        found, unclear = {}, {}
        for name, one in gradients[0].items():
            two, three = gradients[1][name], gradients[2][name]
            scale = torch.stack([t.abs().amax() for t in (one, two, three)]).amax()
            if scale == 0:
                continue
            there = one.abs() > 1e-12 * scale
            place = torch.where(there, two / torch.where(there, one, 1.0), 0.0)
            unit = place.round().long() - 1
            valid = there & (unit >= 0) & (unit < size) & ((place - place.round()).abs() < PLACE)
            expected = (third / first)[unit.clamp(0, size - 1)] * one
            valid &= (expected - three).abs() <= CODE * three.abs()
            if valid.any():
                found[name], unclear[name] = torch.where(valid, unit, -1), (one != 0) & ~valid
        return found, unclear

    def feeding(self, site: str, axis: int, cut: Cut, among: Tensors) -> tuple[Tensors, Tensors]:
        """The entries that move one unit of a site alone; and the gradients of something at the site."""
        pre, asked = cut.pieces[site], []

        def gradients() -> list[Tensors]:
            weighted = pre * torch.randn(pre.shape, dtype=torch.float64)
            codes = [_along(code, axis, pre.ndim) for code in self.codes(pre.shape[axis])]
            asked.append([self.gradient((weighted * code).sum(), among) for code in codes])
            return asked[-1]

        return self.owners(gradients, pre.shape[axis]), asked[-1][0]

    def gradient(self, of: Tensor, tensors: Tensors) -> Tensors:
        """Gradients by name, of those that there are."""
        if not tensors or not of.requires_grad:
            return {}
        found = torch.autograd.grad(of, list(tensors.values()), retain_graph=True, allow_unused=True)
        return {name: g for name, g in zip(tensors, found, strict=True) if g is not None}

    def groups(self) -> list[_Group]:
        """Hidden sites with the entries that feed them; sites that share entries are one group."""
        groups: list[_Group] = []
        self.moved = {name: torch.zeros(p.shape, dtype=torch.int16) for name, p in self.params.items()}
        for site in self.hidden:
            pre = self.cut.pieces[site]
            axes = dict.fromkeys([self.cut.axes[site], pre.ndim - 1, *range(1, pre.ndim)])
            for axis in axes:
                if pre.shape[axis] < 2 and len(axes) > 1 and axis != self.cut.axes[site]:
                    continue
                incoming, slopes = self.feeding(site, axis, self.cut, self.params)
                if any(self.params[name].ndim > 1 for name in incoming):
                    break
            else:
                incoming = {}
            for name, slope in slopes.items():
                self.moved[name] += slope != 0
            if not incoming:
                continue
            size = pre.shape[axis]
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
        exact = set(self.passing(claimed, lambda some: self.unmoved(groups, outgoing, shared, some)))
        return [
            Units(
                name=next(iter(group.sites)),
                sites=tuple(group.sites.items()),
                size=group.size,
                incoming=_entries(group, but=self.normalisers),
                normaliser=_entries(group, but=self.params.keys() - self.normalisers),
                outgoing={name: Entries(codes, group.size) for name, codes in outgoing[i].items()},
                biases={name: bias for name in outgoing[i] if (bias := self.bias(name)) is not None},
                exact=i in exact,
                shared_statistics=shared[i],
            )
            for i, group in enumerate(groups)
        ]

    def shared(self, group: _Group) -> bool:
        """Whether statistics that move mix the units of a group."""
        fed = {n: c for n, c in group.incoming.items() if n not in self.normalisers and self.params[n].ndim > 1}
        site, axis = next(iter(group.sites.items()))
        alone, _ = self.feeding(site, axis, self.moving, {name: self.params[name] for name in fed})
        return any(name not in alone or (alone[name] == codes).double().mean() < 0.5 for name, codes in fed.items())

    def trials(self, groups: list[_Group], kind: str) -> Iterator[Masks]:
        """Which units are silent together: in every trial, of every group, a half that is drawn.

        By `"parity"`, neighbours have other halves silent. Where that leaves products of two silent units, so have, in
        some trial, any two groups (`"bits"`), or one group has silent units at a time (`"apart"`).
        """
        halves = [torch.randperm(g.size, generator=torch.Generator().manual_seed(0)) < (g.size + 1) // 2 for g in groups]
        if kind == "apart":
            for i, half in enumerate(halves):
                for mask in (half, ~half):
                    yield [mask if i == j else torch.zeros_like(other) for j, other in enumerate(halves)]
            return
        for bit in range(max(1, (len(groups) - 1).bit_length()) if kind == "bits" else 1):
            for side in (0, 1):
                yield [half if (i >> bit) & 1 == side else ~half for i, half in enumerate(halves)]

    def silent(self, groups: list[_Group], masks: Masks, code: Tensor | None = None) -> Tensors:
        """What leaves the sites where some units are silent: 0, or next to it and with a code."""
        leaves = {}
        for group, mask, values in zip(groups, masks, self.split(groups, code), strict=True):
            for site, axis in group.sites.items():
                leaf = self.point.leaves[site].detach()
                tiny = 0.0 if code is None else EPSILON * leaf * _along(values, axis, leaf.ndim)
                leaves[site] = torch.where(_along(mask, axis, leaf.ndim), tiny, leaf)
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
        for self.kind in ("parity", "bits", "apart") if groups else ():
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
            for code in self.codes(size):
                cut = self.run(leaves=self.silent(groups, masks, code))
                slopes = {n: g / EPSILON for n, g in self.gradient(self.total(cut, salt), self.params).items()}
                for name, g in slopes.items():
                    size_ = g.abs()
                    products |= bool((((size_ < 1e-15) & (g != 0)) | ~size_.isfinite()).any())
                    slopes[name] = torch.where(size_ < 1e10, g, 0.0)
                found.append(slopes)
            names = set.intersection(*map(set, found))
            return [{name: slopes[name] for name in slopes if name in names} for slopes in found]

        return self.owners(gradients, size), products

    def total(self, cut: Cut, salt: int = 0) -> Tensor:
        """All pieces as one generic number."""
        return torch.stack([(piece * self.weight(salt, name, piece)).sum() for name, piece in cut.pieces.items()]).sum()

    def weight(self, salt: int, name: str, piece: Tensor) -> Tensor:
        if (salt, name) not in self._weights:
            self._weights[salt, name] = noise(piece.shape, 1000 + len(self._weights))
        return self._weights[salt, name]

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
                    own = code[-1] if i is None else _along(self.split(groups, code)[i], axis, piece.ndim)
                    parts.append((piece * self.weight(salt, name, piece) * own).sum())
                return torch.stack(parts).sum()

            asked: list[list[Tensors]] = []

            def gradients(asked: list[list[Tensors]] = asked, coded: Callable = coded) -> list[Tensors]:
                asked.append([self.gradient(coded(code, len(asked)), among) for code in self.codes(size + 1)])
                return asked[-1]

            owners = self.owners(gradients, size + 1)
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
                    if site in slopes:
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
        own = {site: torch.where(_along(mask, axis, pieces[site].ndim), 0.0, pieces[site])
               for site, (axis, mask) in place.items()}  # fmt: skip
        return {**pieces, **own}

    def bias(self, weight: str) -> str | None:
        """The bias beside a weight whose first axis it runs along."""
        name = weight.removesuffix("weight") + "bias"
        fits = weight.endswith("weight") and name in self.params
        return name if fits and self.params[name].shape == self.params[weight].shape[:1] else None

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

def _agree(a: Tensors, b: Tensors) -> bool:
    """Whether two sites are fed by some entry in common, unit by unit."""
    return any(((a[name] >= 0) & (a[name] == codes)).any() for name, codes in b.items() if name in a)

def _along(code: Tensor, axis: int, ndim: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = len(code)
    return code.reshape(shape)

def _in_training(module: nn.Module) -> nn.Module:
    """A copy in double precision and train mode, but for batch normalisation; nothing drops."""
    module = copy.deepcopy(module).cpu().double()
    still = [layer for layer in module.modules() if isinstance(layer, NORMALISERS) and not layer.training]
    module.train()
    for layer in still:
        layer.eval()
    for layer in module.modules():
        if isinstance(layer, Dropout):
            layer.key = torch.empty(0, dtype=torch.int64)
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
    return module

@contextmanager
def _in_double() -> Iterator[None]:
    """What a forward pass makes itself is float64, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

def _generic(example: Any) -> Any:
    """Random inputs of the same kind and shape."""

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return torch.randn(x.shape, dtype=torch.float64) if x.is_floating_point() else x.cpu()

    return tree_map(one, example)

def _rows(example: Any) -> int:
    """How many examples there are: the length of the first input."""
    return next((len(x) for x in tree_leaves(example) if isinstance(x, Tensor) and x.ndim), 0)

def _first(example: Any, rows: int, num: int) -> Any:
    """Some examples; of several inputs, those as long as the first are taken to run over the same examples."""
    return tree_map(lambda x: x[:num] if isinstance(x, Tensor) and x.ndim and len(x) == rows else x, example)

def _independent(some: list[Tensor], many: list[Tensor], num: int) -> bool:
    """Whether some examples alone say the same as among many."""
    pairs = [(a, b) for a, b in zip(some, many, strict=True) if a.ndim]
    return bool(pairs) and all(
        len(a) == num and a.shape[1:] == b.shape[1:] and torch.allclose(a.double(), b[:num].double(), equal_nan=True)
        for a, b in pairs
    )


def _in_proportion(some: Tensors, many: Tensors, num: int, of: int) -> bool:
    """Whether some examples bring as many samples to every site as they should."""
    return some.keys() == many.keys() and all(
        piece.numel() * of == many[name].numel() * num and piece.numel() for name, piece in some.items()
    )
