"""Units that say little compared with their layer."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pliant.diagnostics._shared import by_site, sites
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import units


@dataclass(frozen=True)
class DormantUnits(Diagnostic):
    """The share of hidden units whose mean size is at most `tau` times their layer's: the quantity ReDo acts on.

    `dormant` over all units (their number is `dormant_count`) and `dormant/<site>`; see
    `pliant.functional.units.dormant`. Values of `tau` in use are 0, 0.025 and 0.1.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> h = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    >>> trace = Trace(h, h, {"act": Site(h, h, h.sign())})
    >>> DormantUnits(tau=0.025).measure(Observation({}, trace=trace))
    {'dormant': tensor(0.5000), 'dormant_count': tensor(1.), 'dormant/act': tensor(0.5000)}
    """

    tau: float

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "dormant 0 to 0.03 (tau 0.1)"
    reference: ClassVar[str] = "sokar2023"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sites(seen)
        return by_site("dormant", {name: units.dormant(site.post, self.tau) for name, site in found.items()}, found)
