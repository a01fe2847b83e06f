"""The list of all interventions: when each acts, what it touches, what it costs, where it comes from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pliant.interventions
from pliant import cite
from pliant.formats import Grid
from pliant.interventions import Intervention, registered
from pliant.interventions.base import MOMENTS

COSTS = Path(pliant.interventions.__file__).parent / "costs.json"  # written by benchmarks/interventions.py


class Entry(NamedTuple):
    """One intervention: the moments at which it acts, and its cost a step relative to none on an MLP and a CNN."""

    name: str
    moments: str
    touches: str
    mlp: float | None
    cnn: float | None
    paper: str
    about: str
    contrib: bool


def entries() -> list[Entry]:
    """All registered interventions, by the moment they act first and by name.

    >>> next(entry for entry in entries() if entry.name == "L2").moments
    'penalty'
    """
    costs = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    found = [_entry(kind, costs.get(kind.__name__, {})) for kind in registered()]
    order = list(MOMENTS.values())
    return sorted(found, key=lambda e: (order.index(e.moments.split(", ")[0]), e.name.lower()))


def _entry(kind: type[Intervention], cost: dict[str, float]) -> Entry:
    own = [word for moment, word in MOMENTS.items() if getattr(kind, moment) is not getattr(Intervention, moment)]
    ratios = cost.get("mlp"), cost.get("cnn")
    paper, about, contrib = cite.short(kind.reference), first_line(kind), ".contrib." in kind.__module__
    return Entry(kind.__name__, ", ".join(own), kind.touches, *ratios, paper, about, contrib)


def grid(some: Sequence[Entry] | None = None) -> Grid:
    """The list, or some of it, as a table."""
    rows = [
        [e.name + ("*" if e.contrib else ""), e.moments, e.touches, _ratio(e.mlp), _ratio(e.cnn), e.paper]
        for e in (entries() if some is None else some)
    ]
    notes = [
        "Cost: time of a training step relative to one without, on 784-256-256-10 (8 members, batch 128) and on a "
        "small CNN (2 members, batch 64), CPU, one thread; events cost nothing between events.",
        "* in pliant.interventions.contrib: young, or not verified against its authors' code; the same tests hold.",
    ]
    return Grid(["name", "moment", "touches", "MLP", "CNN", "paper"], rows, "lpprrp", notes)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def first_line(kind: type) -> str:
    """What a class is, in one line: the first of its docstring.

    >>> first_line(Entry)[:16]
    'One intervention'
    """
    return (inspect.getdoc(kind) or "").split("\n")[0]
