"""Numbers as text: means with intervals, rounded as far as the interval warrants."""

from __future__ import annotations

import math

from pliant.functional.statistics import Interval
from pliant.results import Results

MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int) -> str:
    """A number with so many decimals, in powers of ten where it is huge, a dash where it is not finite.

    >>> number(0.123, 2), number(1234567.0, 1), number(float("nan"), 2)
    ('0.12', '1.2e6', '–')
    """
    if not math.isfinite(value):
        return "\N{EN DASH}"
    if abs(value) >= 1e5:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{round(value, digits) + 0.0:,.{digits}f}"
    return text.replace("-", MINUS)


def plain(value: float) -> str:
    """A given number, such as a threshold, in full.

    >>> plain(0.5), plain(10.0)
    ('0.5', '10')
    """
    return f"{value:g}".replace("-", MINUS)


def half(found: Interval) -> float:
    """Half the width of an interval."""
    return (found.high - found.low) / 2


def decimals(found: Interval) -> int:
    """How many decimals show two significant digits of the interval, three of the mean where there is none.

    >>> decimals(Interval(0.5, 0.48, 0.52)), decimals(Interval(123.0, 100.0, 146.0))
    (3, 0)
    """
    width = half(found)
    size, significant = (width, 2) if width > 0 and math.isfinite(width) else (abs(found.mean), 3)
    if size == 0 or not math.isfinite(size):
        return 2
    return min(6, max(0, significant - 1 - math.floor(math.log10(size))))


def with_interval(found: Interval) -> str:
    """A mean and the ends of its interval; a dash where a seed has no number, the mean alone for a single seed.

    >>> with_interval(Interval(0.5, 0.48, 0.52)), with_interval(Interval(0.5, float("nan"), float("nan")))
    ('0.500 [0.480, 0.520]', '0.500')
    """
    digits = decimals(found)
    if not math.isfinite(found.low):
        return number(found.mean, digits)
    return f"{number(found.mean, digits)} [{number(found.low, digits)}, {number(found.high, digits)}]"


def diverged(results: Results, arm: str) -> str:
    """Which seeds of an arm diverged and when, "" if none did."""
    at = {seed: step for (name, seed), step in results.diverged().items() if name == arm}
    if len(at) > 5:
        return f"{len(at)} of {len(results.seeds)} seeds diverged, the first at step {min(at.values()):,}"
    if len(at) > 1 and len(set(at.values())) == 1:
        return f"seeds {', '.join(map(str, at))} diverged at step {min(at.values()):,}"
    return ", ".join(f"seed {seed} diverged at step {step:,}" for seed, step in at.items())
