"""Units of bounded nonlinearities that sit on their flat ends."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pliant.diagnostics._shared import by_site, sites
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import units


@dataclass(frozen=True)
class SaturatedUnits(Diagnostic):
    """The share of hidden units that are flat on all but a small share of the batch; dead ones are among them.

    `saturated` over all units (their number is `saturated_count`) and `saturated/<site>`; |slope| > `tolerance` on at
    most `share` of the samples, see `pliant.functional.units.saturated`. Meant for bounded nonlinearities; the papers
    give no values.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> a = torch.tensor([[9.0, 0.1], [-9.0, 9.0], [8.0, 0.2], [0.1, -0.1]])
    >>> trace = Trace(a, a, {"act": Site(a, a.tanh(), 1 - a.tanh() ** 2)})
    >>> SaturatedUnits(tolerance=1e-3, share=0.25).measure(Observation({}, trace=trace))
    {'saturated': tensor(0.5000), 'saturated_count': tensor(1.), 'saturated/act': tensor(0.5000)}
    """

    tolerance: float
    share: float

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "saturated 0 (tanh)"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sites(seen)
        flat = {name: units.saturated(site.slope, self.tolerance, self.share) for name, site in found.items()}
        return by_site("saturated", flat, found)
