"""What the diagnostics have in common: asking for what they need, and naming columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def given(value: T | None, field: str) -> T:
    """`value`, or a `ValueError` that says which field of the observation was left out."""
    if value is None:
        raise ValueError(f"expected an observation with {field}, got None: write Observation(..., {field}=...)")
    return value


def by_site(name: str, verdicts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The share of units with a verdict among all units (`name`), at each site (`name/site`), and their number.

    >>> verdicts = {"1": torch.tensor([True]), "3": torch.tensor([True, False, False])}
    >>> {name: value.item() for name, value in by_site("dead", verdicts).items()}
    {'dead': 0.5, 'dead_count': 2, 'dead/1': 1.0, 'dead/3': 0.3333333432674408}
    """
    count = torch.cat(list(verdicts.values())).sum()
    shares = average(name, {site: units.float() for site, units in verdicts.items()})
    return {name: shares.pop(name), f"{name}_count": count, **shares}


def average(name: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of a number a unit over all units (`name`) and at each site (`name/site`).

    >>> average("size", {"1": torch.tensor([1.0]), "3": torch.tensor([2.0, 4.0, 5.0])})
    {'size': tensor(3.), 'size/1': tensor(1.), 'size/3': tensor(3.6667)}
    """
    sites = {f"{name}/{site}": units.mean() for site, units in values.items()}
    return {name: torch.cat(list(values.values())).mean(), **sites}


def by_tensor(name: str, number: Callable[..., Tensor], *dicts: dict[str, Tensor]) -> dict[str, Tensor]:
    """A number of all tensors together (`name`) and of each tensor (`name/tensor`).

    >>> by_tensor("largest", lambda d: max(t.max() for t in d.values()), {"a": torch.ones(2), "b": torch.zeros(3)})
    {'largest': tensor(1.), 'largest/a': tensor(1.), 'largest/b': tensor(0.)}
    """
    each = {f"{name}/{key}": number(*({key: tensors[key]} for tensors in dicts)) for key in dicts[0]}
    return {name: number(*dicts), **each}
