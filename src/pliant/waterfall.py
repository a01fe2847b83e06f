"""What leads from one loss to another, a part a mechanism: signed amounts that sum to the difference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pliant.functional.statistics import Interval

UNEXPLAINED = "unexplained"
FRESH, NOW = "fresh networks", "this network"  # the first line and the last


class Bar(NamedTuple):
    """One part, from where the parts above it end to where the next begins."""

    name: str
    start: float
    end: float
    part: Interval


@dataclass(frozen=True)
class Waterfall:
    """The way from the loss of fresh networks to that of another network.

    Args:
        fresh: where it begins.
        parts: what each mechanism adds, with its interval, `"unexplained"` the rest; their means sum to `now - fresh`.
        unit: of all of it.

    >>> fall = Waterfall(0.1, {"units": Interval(0.5, 0.4, 0.6), "unexplained": Interval(-0.1, -0.3, 0.1)}, "nats")
    >>> [(bar.name, bar.start, round(bar.end, 3)) for bar in fall.bars], round(fall.now, 3)
    ([('units', 0.1, 0.6), ('unexplained', 0.6, 0.5)], 0.5)
    """

    fresh: float
    parts: Mapping[str, Interval]
    unit: str

    @property
    def now(self) -> float:
        """Where it ends."""
        return self.fresh + sum(part.mean for part in self.parts.values())

    @property
    def bars(self) -> list[Bar]:
        """The parts end to end: what adds to the loss, the largest first and the unexplained last, then the others."""
        return self.along(sorted(self.parts, key=lambda name: _place(name, self.parts[name])))

    def along(self, names: Iterable[str]) -> list[Bar]:
        """The parts end to end in an order of one's own."""
        found, at = [], self.fresh
        for name in names:
            found.append(Bar(name, at, at + self.parts[name].mean, self.parts[name]))
            at = found[-1].end
        return found

    @property
    def percent(self) -> dict[str, int]:
        """What adds to the loss, in per cent of all that does: whole numbers that sum to 100; empty if nothing does."""
        up = {bar.name: bar.part.mean for bar in self.bars if bar.part.mean > 0}
        exact = {name: 100 * mean / sum(up.values()) for name, mean in up.items()}
        found = {name: math.floor(share) for name, share in exact.items()}
        for name in sorted(exact, key=lambda n: found[n] - exact[n])[: 100 - sum(found.values()) if exact else 0]:
            found[name] += 1
        return found

    @property
    def digits(self) -> int:
        """Decimals that show the differences between its parts."""
        return digits(max(abs(self.now), abs(self.fresh), *(abs(part.mean) for part in self.parts.values())))

    def said(self, part: Interval) -> str:
        """A part with its interval, in words of ASCII.

        >>> Waterfall(0.0, {"units": Interval(0.5, 0.4, 0.6)}, "nats").said(Interval(0.5, 0.4, 0.6))
        '+0.500 [+0.400, +0.600]'
        """
        mean, low, high = (f"{round(end, self.digits) + 0.0:+.{self.digits}f}" for end in part)
        return f"{mean} [{low}, {high}]" if math.isfinite(part.low) else mean

    def amount(self, value: float) -> str:
        """A size with its unit."""
        return f"{abs(value):.{self.digits}f} {self.unit}"

    def shared(self) -> str:
        """What adds to the loss, a per cent of it or more, in one line."""
        return ", ".join(f"{name} {percent} %" for name, percent in self.percent.items() if percent)

    def lines(self, width: int) -> list[str]:
        """A line a bar between the two losses, with its per cent and, where there is room, a bar of characters."""
        percent, bars = self.percent, self.bars
        names = max(len(name) for name in (*self.parts, FRESH))
        sizes = [self.said(bar.part).split(" ", 1) for bar in bars]
        first = max([len(size[0]) for size in sizes] + [len(f"{x:.{self.digits}f}") for x in (self.fresh, self.now)])
        rest = max((len(size[1]) for size in sizes if len(size) > 1), default=0)
        room = min(30, width - (names + first + rest + 11))
        longest = max((abs(bar.part.mean) for bar in bars), default=0) or 1.0
        found = [f"{FRESH:<{names}} {self.fresh:{first}.{self.digits}f}"]
        for bar, (size, *ends) in zip(bars, sizes, strict=True):
            share = f"{percent[bar.name]} %" if bar.name in percent else ""
            drawn = ("#" if bar.part.mean > 0 else "-") * round(room * abs(bar.part.mean) / longest) if room > 5 else ""
            found.append(f"{bar.name:<{names}} {size:>{first}} {''.join(ends):<{rest}} {share:>5}  {drawn}".rstrip())
        return [*found, f"{NOW:<{names}} {self.now:{first}.{self.digits}f}"]


def digits(size: float) -> int:
    """Decimals that show a hundredth of a size.

    >>> digits(2.3), digits(0.5)
    (2, 3)
    """
    return min(6, max(0, 2 - math.floor(math.log10(size)))) if 0 < size < math.inf else 3


def _place(name: str, part: Interval) -> tuple[bool, bool, float]:
    return part.mean <= 0, name == UNEXPLAINED and part.mean > 0, -part.mean
