"""What a waterfall of causes says in words: what serves a network well, what stays unexplained, and what to do."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from pliant.causes.base import Repair
from pliant.causes.repairs import EVERY
from pliant.waterfall import UNEXPLAINED, Waterfall

TREATED = 10  # per cent: what takes less is not worth a treatment
SHOWN = (  # what toolbox/prescription found, held to its kept run by tests/papers/test_prescription.py
    "how far this helps, in 16 situations (toolbox/prescription): of the constant predictor's loss the cures of the "
    "two largest parts together gave back 0.39, that of the largest alone 0.23, LayerNorm() with L2() whatever the "
    "causes 0.32, the best single cure of eight 0.47"
)


def remarks(fall: Waterfall, repairs: Iterable[Repair] = EVERY) -> list[str]:
    """Sentences about what the bars do not say by themselves, one each.

    A repair costs, and its mechanism helps, only where the interval lies below 0.

    >>> from pliant.functional.statistics import Interval
    >>> parts = {"units": Interval(2.0, 1.9, 2.1), "optimizer state": Interval(-0.45, -0.5, -0.4)}
    >>> remarks(Waterfall(0.1, parts, "nats"))
    ["keeping the optimizer's state helps here: clearing it costs 0.45 nats"]
    """
    known, found = {repair.name: repair for repair in repairs}, []
    for name, part in fall.parts.items():
        if name in known and part.high < 0:
            repair = known[name]
            found.append(f"keeping {repair.kept} helps here: {repair.undone} costs {fall.amount(part.mean)}")
    rest = fall.parts.get(UNEXPLAINED)
    if rest is not None and rest.high < 0:
        found.append(f"what it has learned helps: with all repairs made it is {fall.amount(rest.mean)} better than new")
    if rest is not None and rest.low > 0 and fall.percent.get(UNEXPLAINED, 0) >= TREATED:
        found.append(f"{fall.amount(rest.mean)} stay unexplained: no repair here brings them back")
    return found


def treatment(fall: Waterfall, repairs: Iterable[Repair] = EVERY, has: Collection[str] = ()) -> list[str]:
    """What to do, a line for each mechanism that surely took something, and a tenth of it or more; the largest first.

    `has` names the interventions that the network was trained with; nothing is advised twice.

    >>> from pliant.functional.statistics import Interval
    >>> treatment(Waterfall(0.1, {"units": Interval(2.0, 1.9, 2.1)}, "nats"))
    ['treat units with: LayerNorm(), ReDo(tau=0.0)']
    >>> treatment(Waterfall(0.1, {"units": Interval(2.0, 1.9, 2.1)}, "nats"), has=["LayerNorm"])
    ['treat units with: ReDo(tau=0.0)']
    """
    known, percent = {repair.name: repair for repair in repairs}, fall.percent
    found = [
        f"treat {bar.name} with: {_left(known[bar.name].cure, has) or 'more than ' + known[bar.name].cure}"
        for bar in fall.bars
        if bar.name in known and not bar.part.low <= 0 and percent.get(bar.name, 0) >= TREATED
    ]
    return found or ['no mechanism here surely took it: more targets would tell more, Reset("all") begins anew']


def _left(cure: str, has: Collection[str]) -> str:
    """The interventions of a cure whose names are not among `has`."""
    return ", ".join(one for one in re.split(r", (?![^(]*\))", cure) if one.partition("(")[0] not in has)
