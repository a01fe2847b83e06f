"""What enters the nonlinearities, and how far that moved."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.diagnostics._shared import average, by_site, finite, given, sites
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import preactivations
from pliant.functional.preactivations import Moments


@dataclass(frozen=True)
class PreactivationMoments(Diagnostic):
    """The mean and the variance of a hidden unit's preactivation over the batch, averaged over units.

    `preactivation_mean`, `preactivation_variance` and the same by site as `<name>/<site>`. The numbers of every unit,
    for histograms, come from `unit_moments`.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> a = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> PreactivationMoments().measure(Observation({}, trace=Trace(a, a, {"act": Site(a, a, a)})))
    {'preactivation_mean': tensor(1.), 'preactivation_mean/act': tensor(1.),
     'preactivation_variance': tensor(0.5000), 'preactivation_variance/act': tensor(0.5000)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "preactivation_mean -0.01 to 0.01, preactivation_variance 0.18 to 0.19"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        read, found = sites(seen), unit_moments(seen)
        means = average("preactivation_mean", {site: m.mean for site, m in found.items()}, read)
        return means | average("preactivation_variance", {site: m.variance for site, m in found.items()}, read)


def unit_moments(seen: Observation) -> dict[str, Moments]:
    """Mean and variance of every hidden unit's preactivation, `(units,)` each, by site: for histograms over units.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> a = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> unit_moments(Observation({}, trace=Trace(a, a, {"act": Site(a, a, a)})))["act"].mean
    tensor([2., 0.])
    """
    return {name: preactivations.moments(site.pre) for name, site in sites(seen).items()}


@dataclass(frozen=True)
class PreactivationShift(Diagnostic):
    """How far the mean preactivation of a hidden unit moved since an earlier moment, in its own standard deviations.

    `shift`, averaged over units, and `shift/<site>`. Units that were constant have no scale and are left out; 0 where
    all were. Every unit's number comes from `unit_shifts`; see `pliant.functional.preactivations.z_shift`.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> now, before = torch.tensor([[5.0], [7.0]]), torch.tensor([[1.0], [3.0]])
    >>> traces = [Trace(a, a, {"act": Site(a, a, a)}) for a in (now, before)]
    >>> PreactivationShift().measure(Observation({}, trace=traces[0], earlier=traces[1]))
    {'shift': tensor(4.), 'shift/act': tensor(4.)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace", "earlier"})
    healthy: ClassVar[str] = "shift 0.05 to 0.09 after one step of Adam at 1e-3"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = unit_shifts(seen)
        now, before = sites(seen), sites(seen._replace(trace=given(seen.earlier, "earlier")))
        known = {site: finite(now[site].pre, before[site].pre) for site in found}

        def mean(shifts: Tensor, known: Tensor) -> Tensor:
            return torch.where(known, shifts.nansum() / (~shifts.isnan()).sum().clamp(min=1), torch.nan)

        whole = mean(torch.cat(list(found.values())), torch.stack(list(known.values())).all())
        return {"shift": whole} | {f"shift/{site}": mean(shifts, known[site]) for site, shifts in found.items()}


def unit_shifts(seen: Observation) -> dict[str, Tensor]:
    """How far each hidden unit's mean preactivation moved, `(units,)` by site, NaN for what was constant.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> now, before = torch.tensor([[5.0, 1.0], [7.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> traces = [Trace(a, a, {"act": Site(a, a, a)}) for a in (now, before)]
    >>> unit_shifts(Observation({}, trace=traces[0], earlier=traces[1]))["act"]
    tensor([4., nan])
    """
    now, before = sites(seen), sites(seen._replace(trace=given(seen.earlier, "earlier")))
    return {name: preactivations.z_shift(site.pre, before[name].pre) for name, site in now.items() if name in before}


@dataclass(frozen=True)
class OneSidedUnits(Diagnostic):
    """The share of hidden units whose preactivation has one sign on the whole batch.

    `one_sided` over all units (their number is `one_sided_count`) and `one_sided/<site>`; for a ReLU: dead or always
    on. See `pliant.functional.preactivations.one_sided`.

    >>> import torch
    >>> from pliant.network import Site, Trace
    >>> a = torch.tensor([[1.0, -1.0], [2.0, 1.0]])
    >>> OneSidedUnits().measure(Observation({}, trace=Trace(a, a, {"act": Site(a, a, a)})))
    {'one_sided': tensor(0.5000), 'one_sided_count': tensor(1.), 'one_sided/act': tensor(0.5000)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "one_sided 0 to 0.01"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sites(seen)
        return by_site("one_sided", {name: preactivations.one_sided(site.pre) for name, site in found.items()}, found)
