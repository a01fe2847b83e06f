"""The list of all diagnostics: what each reads, what it needs and costs, where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pliant import cite
from pliant.diagnostics import Diagnostic, Observation, registered
from pliant.formats import Grid
from pliant.report.cookbook import first_line

COSTS = {"economy": "one forward pass", "business": "one backward pass", "full": "more than that"}


class Entry(NamedTuple):
    """One diagnostic: the fields of `Observation` it needs, and what it reads on a freshly drawn network."""

    name: str
    about: str
    needs: list[str]
    cost: str
    healthy: str
    paper: str


def entries() -> list[Entry]:
    """All registered diagnostics, by cost and name.

    >>> next(entry for entry in entries() if entry.name == "Churn").needs
    ['trace', 'earlier']
    """
    return sorted(map(_entry, registered()), key=lambda e: (list(COSTS).index(e.cost), e.name.lower()))


def _entry(kind: type[Diagnostic]) -> Entry:
    needs = [field for field in Observation._fields if field in kind.needs]
    return Entry(kind.__name__, first_line(kind), needs, kind.cost, kind.healthy, cite.short(kind.reference))


def grid(some: Sequence[Entry] | None = None) -> Grid:
    """The list, or some of it, as a table."""
    listed = entries() if some is None else some
    rows = [[e.name, e.about, ", ".join(e.needs), e.cost, e.healthy, e.paper] for e in listed]
    notes = [
        f"Cost: {', '.join(f'{name} is {what}' for name, what in COSTS.items())}.",
        "At the start: the smallest and the largest of ten freshly drawn networks 784-256-256-10 (ReLU), on 512 "
        "standard normal inputs (64 at full cost) with random labels. Compare with a fresh network of your own.",
    ]
    return Grid(["name", "what it is", "needs", "cost", "at the start", "paper"], rows, "lpllpl", notes)
