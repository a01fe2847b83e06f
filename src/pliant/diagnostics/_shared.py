"""What the diagnostics have in common: asking for what they need, and naming columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from pliant.diagnostics.base import Observation
from pliant.functional.precision import wide
from pliant.sites import Site

T = TypeVar("T")
FINITE = WeakIdKeyDictionary()  # of each matrix that lives: its version, and whether all its numbers are finite


def given(value: T | None, field: str) -> T:
    """`value`, or a `ValueError` that says which field of the observation was left out."""
    if value is None:
        raise ValueError(f"expected an observation with {field}, got None: write Observation(..., {field}=...)")
    return value


def sites(seen: Observation) -> dict[str, Site]:
    """The sites that a sample reached: of an expert without tokens nothing is known, and nothing is counted."""
    return {name: site for name, site in given(seen.trace, "trace").sites.items() if len(site.pre)}


def by_site(name: str, verdicts: dict[str, Tensor], read: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """The share of units with a verdict among all units (`name`), at each site (`name/site`), and their number.

    `read` holds what each site's verdicts were read from: where that is not finite, all three are NaN.

    >>> verdicts = {"1": torch.tensor([True]), "3": torch.tensor([True, False, False])}
    >>> read = {"1": [torch.ones(2, 1)], "3": [torch.ones(2, 3)]}
    >>> {name: value.item() for name, value in by_site("dead", verdicts, read).items()}
    {'dead': 0.5, 'dead_count': 2.0, 'dead/1': 1.0, 'dead/3': 0.3333333432674408}
    """
    shares = average(name, {site: units.float() for site, units in verdicts.items()}, read)
    whole, count = shares.pop(name), torch.cat(list(verdicts.values())).sum()
    return {name: whole, f"{name}_count": torch.where(whole.isnan(), torch.nan, count), **shares}


def average(name: str, values: dict[str, Tensor], read: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """The mean of a number a unit over all units (`name`) and at each site (`name/site`).

    `read` holds what each site's numbers were read from: where that is not finite, the means are NaN.

    >>> one = torch.ones(1)
    >>> average("size", {"1": torch.tensor([1.0]), "3": torch.tensor([2.0, 4.0, 5.0])}, {"1": [one], "3": [one]})
    {'size': tensor(3.), 'size/1': tensor(1.), 'size/3': tensor(3.6667)}
    """
    if not values:
        raise ValueError("expected samples that reach a nonlinearity, got none: take another batch")
    known = {site: torch.where(finite(*read[site]), units, torch.nan) for site, units in values.items()}
    each = {f"{name}/{site}": units.mean() for site, units in known.items()}
    return {name: torch.cat(list(known.values())).mean(), **each}


def finite(*matrices: Tensor) -> Tensor:
    """Whether all numbers are: a scalar. The largest and the smallest tell, at a tenth of the time that all take.

    Ten diagnostics ask of the same matrices: each is looked through once.
    """
    return torch.stack([_finite(m) for m in matrices]).all()


def _finite(m: Tensor) -> Tensor:
    version = 0 if m.is_inference() else m._version  # it may have been written to since
    if m not in FINITE or FINITE[m][0] != version:
        FINITE[m] = version, torch.stack([m.amax(), m.amin()]).isfinite().all()
    return FINITE[m][1]


def widened(seen: Observation) -> Observation:
    """With the network, and what it is run on, in float32 where its parameters are of half precision.

    In half precision, derivatives of single examples and second derivatives are noise. A network that runs in its own
    precision alone is measured in that, with a warning.
    """
    network, _ = given(seen.network, "network"), given(seen.x, "x")
    if all(wide(p) is p for p in seen.params.values()):
        return seen
    fields = ("params", "gradients", "x", "y")
    found = seen._replace(**{field: tree_map(_wide, getattr(seen, field)) for field in fields})
    try:
        with torch.no_grad():
            output = network(found.params, found.x)
            if seen.loss is not None and seen.y is not None:
                seen.loss(output, found.y)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"the network runs in half precision alone, and so do its derivatives: {reason}", stacklevel=3)
        return seen
    return found


def _wide(leaf: Any) -> Any:
    return wide(leaf) if isinstance(leaf, Tensor) else leaf


def by_tensor(name: str, number: Callable[..., Tensor], *dicts: dict[str, Tensor]) -> dict[str, Tensor]:
    """A number of all tensors together (`name`) and of each tensor (`name/tensor`).

    >>> by_tensor("largest", lambda d: max(t.max() for t in d.values()), {"a": torch.ones(2), "b": torch.zeros(3)})
    {'largest': tensor(1.), 'largest/a': tensor(1.), 'largest/b': tensor(0.)}
    """
    each = {f"{name}/{key}": number(*({key: tensors[key]} for tensors in dicts)) for key in dicts[0]}
    return {name: number(*dicts), **each}
