"""Units that pass no gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pliant.diagnostics._shared import by_site, sites
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import units


@dataclass(frozen=True)
class DeadUnits(Diagnostic):
    """The share of hidden units whose nonlinearity passes no gradient on any sample of the batch.

    `dead` over all units (their number is `dead_count`) and `dead/<site>`; |slope| <= `tolerance` on every sample, see
    `pliant.functional.units.dead`. A convolution's unit is a channel, its samples run over the positions too.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1)))
    >>> params = net.params() | {"0.weight": torch.ones(2, 1), "0.bias": torch.tensor([-4.0, -8.0])}
    >>> x = torch.tensor([[3.0], [5.0], [7.0]])
    >>> DeadUnits().measure(Observation(params, trace=net.trace(params, x)))
    {'dead': tensor(0.5000), 'dead_count': tensor(1.), 'dead/1': tensor(0.5000)}
    """

    tolerance: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "dead 0"
    reference: ClassVar[str] = "lyle2023"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sites(seen)
        return by_site("dead", {name: units.dead(site.slope, self.tolerance) for name, site in found.items()}, found)


@dataclass(frozen=True)
class InactiveUnits(Diagnostic):
    """Two other counts of units that published code calls dead: silent on nearly all inputs, and constant.

    `silent` (|h| < 1e-7 on more than 95 % of the samples) and `constant` (standard deviation below 0.001), each over
    all units, their number as `<name>_count`, and by site as `<name>/<site>`. Compare them with `dead`, which asks
    whether a gradient passes: see `pliant.functional.units`.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> h = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.5, 2.0]])
    >>> found = InactiveUnits().measure(Observation({}, trace=Trace(h, h, {"act": Site(h, h, h)})))
    >>> found["silent_count"], found["constant_count"]
    (tensor(1.), tensor(2.))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "silent 0 to 0.02, constant 0"
    reference: ClassVar[str] = "joudaki2025"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sites(seen)
        silent = by_site("silent", {name: units.silent(site.post) for name, site in found.items()}, found)
        return silent | by_site("constant", {name: units.constant(site.post) for name, site in found.items()}, found)
