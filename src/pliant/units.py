"""The unit map: which entries of the parameters feed each hidden unit, and which read it (found by `pliant.poking`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Entries:
    """Which entries of one parameter belong to which unit.

    Args:
        codes: the unit's index for every entry of the parameter, -1 for none.
        size: the number of units.

    >>> rows = Entries(torch.tensor([[0, 0], [1, 1], [-1, -1]]), size=2)
    >>> rows.mask(torch.tensor([False, True]))
    tensor([[False, False],
            [ True,  True],
            [False, False]])
    >>> rows.sums(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    tensor([3., 7.])
    """

    def __init__(self, codes: Tensor, size: int):
        self.codes, self.size = codes, size
        self._block = _block(codes, size)

    @property
    def outputs(self) -> int:
        """The axis of a reading weight along which the outputs run: the first, but of a weight `(units, outputs)`.

        >>> [Entries(codes, size=2).outputs for codes in (torch.tensor([[0, 1]]), torch.tensor([[0, 0], [1, 1]]))]
        [0, 1]
        """
        codes = self.codes
        return int(codes.ndim == 2 and bool((codes == codes[:, :1]).all()) and not bool((codes == codes[:1]).all()))

    def by_output(self, values: Tensor) -> Tensor:
        """Values an entry of a reading weight, summed for each output."""
        return values.movedim(self.outputs, 0).flatten(1).sum(1)

    def mask(self, units: Tensor) -> Tensor:
        """Booleans a unit, as booleans an entry."""
        return self.spread(units)

    def spread(self, values: Tensor) -> Tensor:
        """Values a unit, as values an entry; 0 where an entry belongs to none."""
        padded = torch.cat([values, values.new_zeros(1)])
        return padded[self.codes.to(values.device)]

    def magnitudes(self, values: Tensor) -> Tensor:
        """Absolute values an entry, summed over each unit's entries."""
        if self._block is not None and values.ndim == 2 and 1 in self._block[1]:
            return values.abs().sum(1 - self._block[0])  # a seventh of the time of vector_norm
        return self.sums(values.abs())

    def mixed(self, values: Tensor, weights: Tensor) -> Tensor | None:
        """Values an entry, mixed among units: new[k] = sum over units l of weights[k, l] values[l].

        None where the entries of the units do not lie alike, so that nothing says which go together.

        >>> rows = Entries(torch.tensor([[0], [1]]), size=2)
        >>> rows.mixed(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 10.0], [0.0, 1.0]]))
        tensor([[21.],
                [ 2.]])
        """
        if self._block is None:
            return None
        axis, shape, inner = self._block
        parts = values.unflatten(axis, shape).movedim(axis + inner, -1)
        return (parts @ weights.mT).movedim(-1, axis + inner).flatten(axis, axis + 1)

    def sums(self, values: Tensor) -> Tensor:
        """Values an entry, summed over each unit's entries."""
        if self._block is not None:
            axis, shape, inner = self._block
            parts = values.unflatten(axis, shape)
            unit = axis + inner
            return parts.sum([d for d in range(parts.ndim) if d != unit])
        codes = torch.where(self.codes < 0, self.size, self.codes).flatten().to(values.device)
        return values.new_zeros(self.size + 1).index_add(0, codes, values.flatten())[: self.size]


def _block(codes: Tensor, size: int) -> tuple[int, tuple[int, int], int] | None:
    """The axis along which the codes are 0, 0, 1, 1, ... or 0, 1, ..., 0, 1, ..., if they are: sums are then cheap."""
    for axis, length in enumerate(codes.shape):
        if length % size:
            continue
        order = torch.arange(size)
        for inner, layout in enumerate((order.repeat_interleave(length // size), order.repeat(length // size))):
            shape = [1] * codes.ndim
            shape[axis] = length
            if torch.equal(codes, layout.reshape(shape).expand_as(codes)):
                return axis, (size, length // size) if inner == 0 else (length // size, size), inner
    return None


@dataclass(frozen=True)
class UnitGroup:
    """Hidden units that belong together: those of one nonlinearity call, or of several that the same weights feed.

    Attributes:
        name: of the first site.
        sites: where the units are active: the name of each site and the axis of its activations that the units run
            along.
        size: number of units.
        incoming: the entries that feed each unit, by parameter; the scales and offsets of normalisers are apart.
        normaliser: the scales and offsets of normalisers that each unit passes through.
        outgoing: the entries that read each unit; with these at 0 the network does not depend on the unit.
        biases: for each reading weight, the name of the bias that follows, where there is one: what could carry a
            unit's mean.
        exact: whether a unit that is silent can be drawn anew, its outgoing entries set to 0, without a change of the
            network's function. False where something else reads the unit (a residual stream) or what feeds it; then
            `outgoing` holds what can be set to 0 without side effects.
        shared_statistics: whether a per-sample normaliser mixes the units, so that drawing one anew moves the others.
    """

    name: str
    sites: tuple[tuple[str, int], ...]
    size: int
    incoming: dict[str, Entries]
    normaliser: dict[str, Entries]
    outgoing: dict[str, Entries]
    biases: dict[str, str]
    exact: bool
    shared_statistics: bool

    def activity(self, activations: Tensors) -> Tensor:
        """What left the units, `(samples, units)`: a sample is an example at a position, at any of the sites."""
        found = [(activations[site], axis) for site, axis in self.sites]
        parts = [h if h.ndim == 2 and axis == 1 else h.movedim(axis, -1).flatten(0, -2) for h, axis in found]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def outgoing_magnitude(self, params: Tensors) -> Tensor:
        """The sum of absolute outgoing weights of each unit, `(units,)`."""
        found = [entries.magnitudes(params[name]) for name, entries in self.outgoing.items()]
        if not found:  # nothing but a residual stream reads them
            return next(iter(params.values())).new_zeros(self.size)
        return found[0] if len(found) == 1 else torch.stack(found).sum(0)

    @cached_property
    def touched(self) -> tuple[str, ...]:
        """Names of the parameters that hold entries of these units."""
        return tuple(dict.fromkeys([*self.incoming, *self.normaliser, *self.outgoing]))
