"""What feeds the units of a network: entries with which a unit's preactivation moves, and no other's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant.codes import alone, along, owned, three_codes
from pliant.cutting import Tensors
from pliant.generic import Generic


@dataclass
class Group:
    """Sites fed by the same entries."""

    sites: dict[str, int]  # name -> axis
    size: int
    incoming: Tensors  # codes


class Fed(Generic):
    """A module at a generic point, and what its sites are fed by.

    Attributes:
        cut, moving: passes with statistics held fixed, and free to move.
        site_axes: where units run.
        hidden: the sites before the last product.
    """

    def __init__(self, module: nn.Module, example: Any):
        super().__init__(module, example)
        self.cut, self.moving = self.run(), self.run(freeze=False)
        self.site_axes = self.axes()
        self.hidden = list(self.cut.axes)[: self.cut.last]

    def feeding(self, site: str, axis: int) -> tuple[Tensors, Tensors]:
        """The entries that move one unit of a site alone; and the gradients of something at the site."""
        asked: list[list[Tensors]] = []

        def gradients() -> list[Tensors]:
            asked.append(self.coded(self.cut.pieces[site], axis, self.params, 3))
            return asked[-1]

        return owned(gradients, self.cut.pieces[site].shape[axis]), asked[-1][0]

    def coded(self, pre: Tensor, axis: int, among: Tensors, num: int) -> list[Tensors]:
        """The gradients of something generic at a site with some of the codes of its units."""
        weighted = pre * torch.randn(pre.shape, dtype=torch.float64)
        codes = three_codes(pre.shape[axis])[:num]
        return [self.gradient((weighted * along(code, axis, pre.ndim)).sum(), among) for code in codes]

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
                incoming, slopes = self.feeding(site, axis)
                far = min((steps[name] for name in incoming if name in steps), default=float("inf"))
                if far < least:
                    best, fed, least = axis, incoming, far
                if far == min(steps.values(), default=0):
                    break
        return best, fed, slopes

    def groups(self) -> list[Group]:
        """Hidden sites with the entries that feed them; sites that share entries are one group."""
        groups: list[Group] = []
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
                groups.append(Group({site: axis}, size, incoming))
            else:
                joined.sites[site] = axis
                joined.incoming = {**incoming, **joined.incoming}
        rest = [(t * self.weight(0, n, t)).sum() for n, t in self.cut.pieces.items() if n not in self.hidden]
        for name, slope in self.gradient(torch.stack(rest).sum(), self.params).items():
            self.moved[name] += slope != 0
        return groups

    def shared(self, group: Group) -> bool:
        """Whether statistics that move mix the units of a group."""
        fed = {n: c for n, c in group.incoming.items() if n not in self.normalisers and self.params[n].ndim > 1}
        among, mixed = {name: self.params[name] for name in fed}, set(fed)
        for site, axis in group.sites.items():
            one, two = self.coded(self.moving.pieces[site], axis, among, 2)
            mixed -= {name for name in one.keys() & two.keys() if alone(one[name], two[name], fed[name])}
        return bool(mixed)

    def moves_more(self, group: Group) -> bool:
        """Whether entries that feed a group move more than the units of one site, unless some are silent perhaps."""
        several = any(((codes >= 0) & (self.moved[n] > 1)).any() for n, codes in group.incoming.items())
        return several or len(group.sites) > 1


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
