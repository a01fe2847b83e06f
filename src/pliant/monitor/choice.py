"""Which diagnostics a monitor measures, and how often."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping

from pliant.diagnostics import (
    Diagnostic,
    DuplicateUnits,
    FeatureOffset,
    LinearizedAtUnitSize,
    OutputBiasNorm,
    TargetOffset,
    WeightRanks,
    registered,
)

TIERS = ("economy", "business", "full")
RARER = (
    WeightRanks,
    FeatureOffset,
    OutputBiasNorm,
    DuplicateUnits,
    LinearizedAtUnitSize,
)  # the dear ones among the cheap
Schedule = dict[Diagnostic, int]


def schedule(
    diagnostics: Iterable[Diagnostic] | Mapping[Diagnostic, int] | None,
    tier: str | None,
    every: int,
    absent: set[str],
    classes: bool = False,
) -> Schedule:
    """Each diagnostic with its period in steps; what needs something `absent` is left out, aloud if it was asked for.

    With neither diagnostics nor tier, the economy tier, and the business tier where there is a loss. Of what nobody
    asked for by name, `RARER` is due only every tenth time, and targets that are classes have no offset.
    """
    if tier is not None and tier not in TIERS:
        raise ValueError(f"expected a tier of {', '.join(TIERS)}, got {tier!r}")
    if diagnostics is not None and tier is not None:
        raise ValueError("expected diagnostics or a tier, got both: leave one of them out")
    if diagnostics is None:
        costs = TIERS[: TIERS.index(tier or "business") + 1]
        ready = [cls for cls in registered() if cls.cost in costs and _complete(cls)]
        ready = [cls for cls in ready if not (classes and cls is TargetOffset)]
        diagnostics = {cls(): every * (10 if cls in RARER else 1) for cls in ready}
        asked = tier in ("business", "full")
    else:
        asked = True
    if isinstance(diagnostics, (str, type, Diagnostic)):
        raise ValueError(f"expected several diagnostics, got {diagnostics!r}: write diagnostics=(DeadUnits(),)")
    periods = dict(diagnostics) if isinstance(diagnostics, Mapping) else dict.fromkeys(diagnostics, every)
    for diagnostic, period in periods.items():
        if not isinstance(diagnostic, Diagnostic):
            raise ValueError(f"expected diagnostics such as DeadUnits(), got {diagnostic!r}")
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise ValueError(f"expected a number of steps of at least 1, got every={period!r}")
    if not periods:
        raise ValueError("expected at least one diagnostic, got none: write diagnostics=(DeadUnits(),)")
    missing = {d: sorted(d.needs & absent) for d in periods if d.needs & absent}
    if missing and asked:
        what = "; ".join(f"{type(d).__name__} needs {', '.join(needs)}" for d, needs in missing.items())
        warnings.warn(f"left out: {what}: write Monitor(model, probe=(x, y), loss=loss)", stacklevel=3)
    return {diagnostic: period for diagnostic, period in periods.items() if diagnostic not in missing}


def _complete(cls: type[Diagnostic]) -> bool:
    """Whether it can be made without arguments."""
    return all(
        f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        for f in dataclasses.fields(cls)
    )
