"""What the probe found, and what that says of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pliant.functional.statistics import Interval, interval
from pliant.waterfall import digits

FRESH = "fresh"
MARGIN = 0.05  # of the constant predictor's loss: what is lost below it does not matter
LEARNED = 0.8  # of the constant predictor's loss: where fresh networks end above it, the probe says nothing
Moment = Literal["early", "final", "area"]


@dataclass(frozen=True)
class Plasticity:
    """What the probe found: one curve a target for every checkpoint and for fresh networks.

    `plasticity`, `increase` and `verdict` count losses up to that of the constant predictor: beyond it nothing is left
    to lose, and one refit that blows up would drown all others. Curves are as they are.

    Attributes:
        names: of the checkpoints; `"fresh"` is the control.
        unit: of all losses.
        steps: `(points,)`, the optimizer steps after which the losses were taken.
        curves: losses by name, `(targets, points)`.
        baseline: the loss of the best constant predictor, `(targets,)`.
        diverged: how many refits lost their finite loss, by name.
        lr: learning rate of the refits, NaN where it is not known.
        notes: how budget and learning rate were chosen, a sentence each.

    >>> curves = {"now": np.array([[1.0, 0.5], [1.0, 0.7]]), "fresh": np.array([[1.0, 0.1], [1.0, 0.2]])}
    >>> found = Plasticity(("now",), "nats", np.array([0, 10]), curves, np.ones(2), {"now": 0, "fresh": 0})
    >>> round(found.increase("now").mean, 2), found.verdict("now")
    (0.45, 'cannot tell')
    """

    names: tuple[str, ...]
    unit: str
    steps: np.ndarray
    curves: dict[str, np.ndarray]
    baseline: np.ndarray
    diverged: dict[str, int]
    lr: float = math.nan
    notes: tuple[str, ...] = ()

    def initial(self, name: str) -> np.ndarray:
        """The loss before the first step, `(targets,)`."""
        return self.curves[name][:, 0]

    def early(self, name: str) -> np.ndarray:
        """The loss after a tenth of the budget, `(targets,)`: a long one hides that a network learns more slowly."""
        return self.curves[name][:, 1]

    def final(self, name: str) -> np.ndarray:
        """The loss after the budget, `(targets,)`."""
        return self.curves[name][:, -1]

    def area(self, name: str) -> np.ndarray:
        """The mean height of the curve, `(targets,)`: the area under it over the number of steps."""
        return self._area(self.curves[name])

    def plasticity(self, name: str) -> Interval:
        """P = baseline - E[final loss], with its interval over targets (P1 eq. 4; there the loss is not capped)."""
        return interval(self.baseline - self._capped(name)[:, -1])

    def lost(self, name: str, of: Moment = "final") -> np.ndarray:
        """The loss less that of a fresh network on the same target, both capped, `(targets,)`."""
        at = {"early": lambda c: c[:, 1], "final": lambda c: c[:, -1], "area": self._area}[of]
        return at(self._capped(name)) - at(self._capped(FRESH))

    def increase(self, name: str, of: Moment = "final") -> Interval:
        """The mean of `lost` with its interval over targets: the loss of plasticity, as P1 plots it."""
        return interval(self.lost(name, of))

    @property
    def learned(self) -> bool:
        """Whether fresh networks learned the probe: none diverged, and they end below `LEARNED` of the baseline."""
        ends = self.final(FRESH)
        return self.diverged[FRESH] == 0 and bool(ends.mean() <= LEARNED * self.baseline.mean())

    def verdict(self, name: str) -> str:
        """`"lost"`, `"healthy"` or `"cannot tell"`, of the interval of `increase` and a margin.

        Lost where the interval lies above 0 and its mean above the margin, healthy where it ends below the margin. The
        margin, 5 % of the constant predictor's loss, is ours. Neither where fresh networks did not learn the probe.
        """
        gap, margin = self.increase(name), MARGIN * float(self.baseline.mean())
        if self.learned and gap.low > 0 and gap.mean > margin:
            return "lost"
        return "healthy" if self.learned and gap.high < margin else "cannot tell"

    def instead(self, name: str) -> dict[str, float]:
        """Settings that would tell more, by name, any one of them; empty where the verdict is known."""
        if self.verdict(name) != "cannot tell":
            return {}
        if self.learned:
            return {"targets": 2 * len(self.baseline)}
        if not self.lr > 0:
            return {"lr": 1e-3}
        if self.diverged[FRESH] or self.final(FRESH).mean() > self.initial(FRESH).mean():
            return {"lr": float(f"{self.lr / 10:.1g}")}
        return {"steps": 10 * int(self.steps[-1]), "lr": float(f"{10 * self.lr:.1g}")}

    def conclusion(self, name: str) -> str:
        """What the probe says of a checkpoint, in a sentence."""
        gap, verdict, unit, of = self.increase(name), self.verdict(name), self.unit, digits(self.baseline.mean())
        known = f"{gap.mean:+.{of}f} {unit} [{gap.low:+.{of}f}, {gap.high:+.{of}f}]"
        if verdict == "lost":
            return f"lost {gap.mean:.{of}f} {unit} [{gap.low:.{of}f}, {gap.high:.{of}f}] against fresh networks"
        if self.diverged[FRESH]:
            return f"cannot tell: {self.diverged[FRESH]} of {len(self.baseline)} fresh networks diverged"
        if not self.learned:
            either = " either" if self.final(name).mean() > LEARNED * self.baseline.mean() else ""
            reached = f"loss {self.final(FRESH).mean():.3f} of {self.baseline.mean():.3f}"
            return f"cannot tell: fresh networks did not learn{either} ({reached})"
        if verdict == "cannot tell":
            return f"cannot tell: final loss {known} against fresh networks, which allows for a loss and for none"
        if gap.high < 0 and -gap.mean > MARGIN * self.baseline.mean():
            return f"healthy: what it has learned helps, {-gap.mean:.{of}f} {unit} better than new"
        said, early = f"healthy: final loss {known} against fresh networks", self.increase(name, "early")
        if early.low > 0 and early.mean > MARGIN * self.baseline.mean():
            after = f"{self.steps[1]} of {self.steps[-1]} steps"
            said += f"; but it learns more slowly, {early.mean:+.{of}f} {unit} after {after}"
        return said

    def advice(self, name: str, write: str = "{}={:g}") -> str:
        """The line to write where the verdict is not known, else empty; `write` is how a setting is written."""
        return " or ".join(write.format(*setting) for setting in self.instead(name).items())

    def _capped(self, name: str) -> np.ndarray:
        """The curve, at most that of the constant predictor: also where it is infinite or no number."""
        return np.fmin(self.curves[name], self.baseline[:, None])

    def _area(self, curve: np.ndarray) -> np.ndarray:
        return np.trapezoid(curve, self.steps, axis=1) / self.steps[-1]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists, for JSON; None where a loss is not finite."""
        moments: tuple[Moment, ...] = ("early", "final", "area")
        return {
            "unit": self.unit,
            "steps": self.steps.tolist(),
            "lr": self.lr if math.isfinite(self.lr) else None,
            "notes": list(self.notes),
            "baseline": self.baseline.tolist(),
            "diverged": self.diverged,
            "curves": {name: [_finite(row) for row in curve] for name, curve in self.curves.items()},
            "fresh_learned": self.learned,
            "increase": {name: {m: self.increase(name, m)._asdict() for m in moments} for name in self.names},
            "verdict": {name: self.verdict(name) for name in self.names},
            "instead": {name: self.instead(name) for name in self.names},
        }

    def __str__(self) -> str:
        after = f"after {self.steps[1]}"
        rows: list[tuple[str, ...]] = [("", "initial", after, "final", "area", "against fresh (95 %)", "")]
        for name in (*self.names, FRESH):
            each = self.initial(name), self.early(name), self.final(name), self.area(name)
            gap = self.increase(name)
            against = f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if name != FRESH else ""
            rows.append((
                name, *(f"{values.mean():.3f}" for values in each), against,
                self.verdict(name) if name != FRESH else "control",
            ))  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        head = f"probe loss ({self.unit}), {len(self.baseline)} targets, {self.steps[-1]} steps"
        ends = [f"{name}: {self.conclusion(name)}" for name in self.names]
        ends += [f"to tell more of {name}, write {advice}" for name in self.names if (advice := self.advice(name))]
        return "\n".join([f"{head}, constant predictor {self.baseline.mean():.3f}", *lines, *self.notes, "", *ends])


def _finite(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
