"""Units that lost their nonlinearity."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pliant.diagnostics._shared import by_site, given, sites
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import units


@dataclass(frozen=True)
class LinearizedUnits(Diagnostic):
    """The share of hidden units that are affine on the batch and alive: "zombie" units, which no dead count sees.

    `linearized` is by variance explained: 1 - R^2 <= `tolerance`. The paper gives no formula, so two other definitions
    stand beside it: `linearized_by_sign` (on one linear branch for all samples; `linearized_by_sign_99`: for 99 %) and
    `linearized_by_slope` (the slope's standard deviation is at most 0.01). See `pliant.functional.units`. Each over all
    units, their number as `<name>_count`, and by site as `<name>/<site>`. Dead units count in none.

    Small inputs to smooth nonlinearities read as linearized, in networks that were never trained, too: 1 - R^2 of a
    tanh falls with the fourth power of its input's size, and is below `tolerance` from 0.2 on down, where a ReLU is as
    bent as ever. That is no loss, as weights that grow bend it again: compare with fresh networks on the same batch,
    which a monitor measures as `fresh/linearized`, or with `LinearizedAtUnitSize`. This one stands first, as it is what
    P2 speaks of and what the network computes as it is: these units add no expressivity now, whatever the reason.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> a = torch.tensor([[1.0, -1.0], [2.0, 1.0], [4.0, 3.0]])
    >>> trace = Trace(a, a, {"act": Site(a, a.relu(), (a > 0).float())})
    >>> found = LinearizedUnits().measure(Observation({}, trace=trace))
    >>> found["linearized"], found["linearized_by_sign"]
    (tensor(0.5000), tensor(0.5000))
    """

    tolerance: float = 1e-3

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "linearized 0 to 0.01"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sites(seen)
        affine = {name: units.linearized(s.pre, s.post, s.slope, self.tolerance) for name, s in found.items()}
        beside = {name: units.off_branch(s.pre, s.slope) for name, s in found.items()}
        slope = {name: units.slope_linear(s.slope) for name, s in found.items()}
        return (
            by_site("linearized", affine, found)
            | by_site("linearized_by_sign", {name: share <= 0 for name, share in beside.items()}, found)
            | by_site("linearized_by_sign_99", {name: share <= 0.01 for name, share in beside.items()}, found)
            | by_site("linearized_by_slope", slope, found)
        )


@dataclass(frozen=True)
class LinearizedAtUnitSize(Diagnostic):
    """The share of hidden units that are still affine, and alive, once their inputs on the batch are of unit size.

    Each unit's inputs are divided by their root mean square, so that they have unit variance where their mean is 0, and
    its nonlinearity is asked what it does on these: affine if 1 - R^2 <= `tolerance`, as in `LinearizedUnits`. Scale
    alone no longer counts: small inputs to a tanh read 0 here, while a unit whose inputs all lie on one side of a bend
    is as linear as before. Of ReLU and leaky ReLU, which know no scale, both read the same. Over all units, their
    number as `linearized_at_unit_size_count`, and by site. It takes a forward pass of its own.

    >>> import torch
    >>> from torch import nn
    >>> from pliant.network import Network
    >>> network = Network(nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1)))
    >>> x = 0.01 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> params = network.params() | {"0.bias": torch.zeros(4)}
    >>> seen = Observation(params, trace=network.trace(params, x), network=network, x=x)
    >>> [d.measure(seen)[name].item() for d, name in (
    ...     (LinearizedUnits(), "linearized"), (LinearizedAtUnitSize(), "linearized_at_unit_size"))]
    [1.0, 0.0]
    """

    tolerance: float = 1e-3

    needs: ClassVar[frozenset[str]] = frozenset({"network", "x"})
    healthy: ClassVar[str] = "linearized_at_unit_size 0 to 0.01"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        network, x = given(seen.network, "network"), given(seen.x, "x")
        found = sites(seen._replace(trace=network.trace(seen.params, x, mask=seen.mask, unit_size=True)))
        affine = {name: units.linearized(s.pre, s.post, s.slope, self.tolerance) for name, s in found.items()}
        return by_site("linearized_at_unit_size", affine, found)
