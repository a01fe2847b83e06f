"""Hidden units taken out of a network: what reads the others takes over what they say, and the outputs are looked at.

A unit can be folded into others where its activation is a combination of theirs, and where what reads it is linear in
it: a layer that follows at once, or after a mean or a reshaping. It is not where another branch multiplies the
activations, where the largest of several is taken, or where a residual stream reads them; a layer that pads with zeros
takes combinations, but no constant. None of this is parsed: readers take over, and the outputs' change decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pliant.modules import unpadded
from pliant.network import Params
from pliant.units import UnitGroup

ROUNDING = 1e-6  # of what readers get from the units


class Folded(NamedTuple):
    """A group without some units: new parameters of what reads it, and which units nothing reads any more.

    `alone` counts linearized units that stay as others do not make them up, `bound` those that stay as what reads them
    is not linear in them, `dead` the dead ones that stay for that reason.
    """

    params: Params
    gone: Tensor
    alone: int = 0
    bound: int = 0
    dead: int = 0


def fold(
    group: UnitGroup,
    params: Params,
    post: Tensor,
    dead: Tensor,
    linear: Tensor,
    change: Callable[[Params], float],
    most: float,
) -> Folded:
    """Dead and linearized units of a group taken out, as many as `change` of the new parameters is at most `most` for.

    The biases take over what dead units say. Linearized ones are folded into the units that are neither, into a
    constant, and into those linearized ones that stay: none, or else about as few as will do. Where readers take no
    constant, it is left out. `post` are activations, `(samples, units)`, `dead` and `linear` booleans a unit.
    """
    gone = torch.zeros_like(dead)
    for some in (dead, dead & (post == 0).all(0)) if dead.any() else ():
        handed = _handed(group, params, some, None, torch.where(some, post.mean(0), 0.0))
        if handed is not None and change(handed) <= most:
            params, gone = handed, some
            break
    left = int((dead & ~gone).sum())
    num = alone = int(linear.sum())
    if not num or not group.exact:
        return Folded(params, gone, bound=num, dead=left)
    for constant in (True, False):
        mixture = _Mixture(post, ~dead & ~linear, linear, group.outgoing_magnitude(params), constant)
        alone, stay, last = min(alone, mixture.rank), 0, -1
        while last < stay < num:
            folded, weights, offset = mixture.without(stay)
            handed = _handed(group, params, folded, weights, offset)
            if handed is None:
                break
            moves = change(handed)
            if moves <= most:
                return Folded(handed, gone | folded, min(alone, stay), max(0, stay - alone), left)
            stay, last = mixture.enough(mixture.missing[stay] * most / moves / 2), stay
        if mixture.rank == num:
            break
    return Folded(params, gone, alone, num - alone, left)


class _Mixture:
    """The linearized units of a group as combinations of its other units, by least squares on their activations.

    Some of them may stay: those of which a reader would miss most come first (QR decompositions with pivots). What it
    misses if so many stay is `missing`; if `rank` do, it is rounding.
    """

    def __init__(self, post: Tensor, keep: Tensor, linear: Tensor, weight: Tensor, constant: bool):
        self.post = post
        h = torch.cat([torch.ones_like(post[:, :1]), post], 1).cpu().double()  # the first stands for a constant
        r = torch.linalg.qr(h, mode="r").R.numpy()
        r = np.pad(r, ((0, r.shape[1] - len(r)), (0, 0)))
        size = np.linalg.norm(r, axis=0)
        others = np.flatnonzero(np.concatenate([[constant], keep.cpu().numpy()]))
        linears = np.flatnonzero(linear.cpu().numpy()) + 1
        self.scale = 1 / np.where(size > 0, size, 1.0)
        self.scale[linears] = weight.cpu().double().numpy()[linears - 1]
        r = r * self.scale
        q, upper, order = _pivoted(r[:, others])
        steps = np.abs(np.diag(upper))
        known = int((steps > 10 * torch.finfo(post.dtype).eps * steps.max(initial=0.0)).sum())
        rest = q.T @ r[:, linears]
        _, lower, pivots = _pivoted(rest[known:])
        top = np.concatenate([upper[:known, :known], rest[:known, pivots]], 1)
        below = np.pad(lower[: len(linears)], ((0, 0), (known, 0)))
        self.triangle = np.concatenate([top, below])
        self.known, self.columns = known, np.concatenate([others[order][:known], linears[pivots]])
        rows = np.square(lower[: len(linears)]).sum(1)
        self.missing = np.sqrt(np.append(np.cumsum(rows[::-1])[::-1], 0.0))
        self.rank = self._first(ROUNDING * float(np.linalg.norm(rest)))

    def enough(self, missing: float) -> int:
        """How many have to stay for a reader to miss no more, as far as there is more than rounding to miss."""
        return min(self._first(missing), self.rank)

    def _first(self, missing: float) -> int:
        return int(np.argmax(self.missing <= missing))

    def without(self, stay: int) -> tuple[Tensor, Tensor, Tensor]:
        """Which units are folded if so many stay, the weights of all units in each, and the constant in each."""
        from scipy.linalg import solve_triangular  # slow to import

        end = self.known + stay
        into, folded = self.columns[:end], self.columns[end:]
        left = self.triangle[:end, :end] + np.diag(np.diag(self.triangle)[:end] == 0)
        found = solve_triangular(left, self.triangle[:end, end:]) if end else np.zeros((0, len(folded)))
        scale = np.where(self.scale == 0, np.inf, self.scale)  # what nobody reads is not made up
        weights = np.eye(len(self.scale))
        weights[:, folded] = 0
        weights[np.ix_(into, folded)] = found * self.scale[into][:, None] / scale[folded]
        gone = torch.zeros(self.post.shape[1], dtype=torch.bool)
        gone[folded - 1] = True
        device = self.post.device
        return (
            gone.to(device),
            torch.from_numpy(weights[1:, 1:]).to(device),
            torch.from_numpy(weights[0, 1:]).to(device),
        )


def _pivoted(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q, R and the order of the columns, those of which most is left going first."""
    from scipy.linalg import qr  # slow to import

    return qr(a, pivoting=True)  # type: ignore[return-value]


def _handed(group: UnitGroup, params: Params, gone: Tensor, weights: Tensor | None, constant: Tensor) -> Params | None:
    """Parameters with which nothing reads the units `gone`, and others are read more; None where that cannot be."""
    new = dict(params)
    for name, entries in group.outgoing.items():
        old = params[name]
        mixed = old if weights is None else entries.mixed(old, weights.to(old))
        if mixed is None:
            return None
        new[name] = torch.where(entries.mask(gone), 0.0, mixed)
        if (bias := group.biases.get(name)) is not None:
            new[bias] = new[bias] + entries.by_output(entries.spread(constant.to(old)) * old)
    return new


def moved(before: Any, after: Any, mask: Tensor | None = None) -> float:
    """The root mean square of a change of the outputs over theirs: of the one that changes most, if there are several.

    Outputs at padding, where `mask` is False, do not count; a change of outputs that are all 0 is infinite.

    >>> moved(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == 0.1
    True
    """
    before, after = (tree_map(lambda t: unpadded(t, mask) if isinstance(t, Tensor) else t, y) for y in (before, after))
    changes = [float("nan")]
    for one, other in zip(tree_leaves(before), tree_leaves(after), strict=True):
        if isinstance(one, Tensor):
            a, b = one.detach().cpu().double(), other.detach().cpu().double()
            change, size = float((b - a).norm()), float(a.norm())
            changes.append(change / size if size else np.inf if change else 0.0)
    return float(np.max(changes[1:] or changes))
