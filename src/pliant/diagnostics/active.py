"""How much of the hidden layers is in use."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pliant.diagnostics._shared import average, by_site, sites
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import units


@dataclass(frozen=True)
class ActiveUnits(Diagnostic):
    """The fraction of active units (FAU): how often the output of a hidden unit is above 0, over units and batch.

    `active` over all units and `active/<site>`; see `pliant.functional.units.active`. Meant for ReLU: a tanh is above 0
    half of the time whatever it does.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> h = torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    >>> ActiveUnits().measure(Observation({}, trace=Trace(h, h, {"act": Site(h, h, h)})))
    {'active': tensor(0.7500), 'active/act': tensor(0.7500)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "active 0.48 to 0.52"
    reference: ClassVar[str] = "ma2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sites(seen)
        return average("active", {name: units.active(site.post) for name, site in found.items()}, found)


@dataclass(frozen=True)
class DuplicateUnits(Diagnostic):
    """The share of hidden units that say nearly the same as another unit of their site: cosine above `cosine`.

    `duplicate` over all units (their number is `duplicate_count`) and `duplicate/<site>`; see
    `pliant.functional.units.duplicate`. The activations are not centred, so that a small batch, or units that are
    always on, make even healthy ones look alike.

    Deviation: the code of Joudaki et al. 2025 counts one unit of each group of clones less.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> h = torch.tensor([[1.0, 2.0, 0.0, 1.0], [2.0, 4.0, 1.0, 0.0]])
    >>> DuplicateUnits().measure(Observation({}, trace=Trace(h, h, {"act": Site(h, h, h)})))
    {'duplicate': tensor(0.5000), 'duplicate_count': tensor(2.), 'duplicate/act': tensor(0.5000)}
    """

    cosine: float = 0.95

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "duplicate 0"
    reference: ClassVar[str] = "joudaki2025"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sites(seen)
        alike = {name: units.duplicate(site.post, self.cosine) for name, site in found.items()}
        return by_site("duplicate", alike, found)
