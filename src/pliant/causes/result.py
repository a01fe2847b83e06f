"""What became of a network's plasticity, and what each mechanism took of it."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from functools import cached_property
from textwrap import fill
from typing import Any

import numpy as np

from pliant.causes.base import UNDEFINED, Repair
from pliant.causes.words import SHOWN, remarks, treatment
from pliant.functional.shapley import Coalition, interactions, sampled, shapley
from pliant.functional.statistics import Interval, interval
from pliant.probe.result import FRESH, MARGIN, Plasticity
from pliant.waterfall import UNEXPLAINED, Waterfall

WIDTH = 80  # of the printed report


@dataclass(frozen=True)
class Causes:
    """The loss of plasticity against fresh networks, and what each mechanism took of it.

    Losses count up to that of the best constant predictor: beyond it nothing is left to lose, and a refit that blows up
    would drown all others. `values` and `probed` hold them as they are.

    Attributes:
        repairs: those that changed something, in the order of application.
        idle: names of those that found nothing to repair.
        values: final losses, `(targets,)`, by the repairs made (indices into `repairs`); NaN where a target's orders do
            not make them.
        probed: the curves as they are (`"now"`), with all repairs (`"repaired"`) and of fresh networks.
        evidence: numbers about each mechanism in the network as it is, by name of the repair; and about its
            `"curvature"`, how sharply the probe's loss bends where the refits begin.
        changed: how far each repair alone moved the outputs: the root mean square of the change over theirs, that of
            the output that moved most where there are several.
        orders: of the repairs, those of each target, where the parts are estimated; empty where they are exact.
        has: interventions that the network has already, which are not advised: `LayerNorm` where it normalises.

    >>> from pliant.causes import Norm
    >>> aged, new = np.array([[1.0, 0.9], [1.0, 0.8]]), np.array([[1.0, 0.1], [1.0, 0.0]])
    >>> curves = {"now": aged, "repaired": new, "fresh": new}
    >>> probed = Plasticity(("now", "repaired"), "nats", np.array([0, 9]), curves, np.ones(2), dict.fromkeys(curves, 0))
    >>> values = {frozenset(): aged[:, 1], frozenset({0}): new[:, 1]}
    >>> causes = Causes((Norm(),), (), values, probed, {}, {"norm growth": 0.0})
    >>> round(causes.parts["norm growth"].mean, 2), causes.shares, causes.verdict
    (0.8, {'norm growth': 1.0}, 'lost')
    """

    repairs: tuple[Repair, ...]
    idle: tuple[str, ...]
    values: dict[Coalition, np.ndarray]
    probed: Plasticity
    evidence: dict[str, dict[str, float]]
    changed: dict[str, float]
    orders: list[list[tuple[int, ...]]] = field(default_factory=list)
    has: tuple[str, ...] = ()

    @property
    def lost(self) -> np.ndarray:
        """The final loss on each target less that of a fresh network, both capped, `(targets,)`."""
        return self.probed.lost("now")

    @property
    def gap(self) -> Interval:
        """`lost`, with its interval over targets."""
        return self.probed.increase("now")

    @property
    def verdict(self) -> str:
        """`"lost"`, `"healthy"` or `"cannot tell"`: see `Plasticity.verdict`."""
        return self.probed.verdict("now")

    @cached_property
    def recovered(self) -> np.ndarray:
        """What each repair recovers of the loss: its Shapley value, `(repairs, targets)`."""
        gains = {coalition: -self._capped(value) for coalition, value in self.values.items()}
        if not self.repairs:
            return np.zeros((0, len(self.probed.baseline)))
        if not self.orders:
            return shapley(gains, len(self.repairs))
        each = [sampled({c: g[t] for c, g in gains.items()}, orders) for t, orders in enumerate(self.orders)]
        return np.stack(each, axis=1)

    @cached_property
    def parts(self) -> dict[str, Interval]:
        """What each mechanism took, in the probe's unit, `"unexplained"` the rest, with intervals over targets.

        Their means sum to that of `gap`. A part is negative where the repair costs plasticity: clearing an optimizer's
        state that serves the network well, say; the rest is where the repaired network is better than a fresh one.

        Student's intervals are for values without long tails. On real refits (`benchmarks/verdicts.py --cover`) 93 to
        96 % of them cover for parts of a network's loss that matter, at 3 to 10 targets; less, down to 89.5 %, where a
        part is next to nothing (0.01 of 2.2 nats) and one target in sixty lies five deviations out.
        """
        each = {repair.name: row for repair, row in zip(self.repairs, self.recovered, strict=True)}
        each[UNEXPLAINED] = self.lost - self.recovered.sum(0)
        return {name: interval(row) for name, row in each.items()}

    @property
    def waterfall(self) -> Waterfall:
        """The way from the loss of fresh networks to that of this one."""
        return Waterfall(float(self._capped(self.probed.final(FRESH)).mean()), self.parts, self.probed.unit)

    @property
    def shares(self) -> dict[str, float]:
        """Of what was taken, without what serves the network well: each mechanism's share; together they are 1.

        Shares of a loss that is not there mean nothing: look at `verdict` first.
        """
        up = {name: part.mean for name, part in self.parts.items() if part.mean > 0}
        return {name: mean / sum(up.values()) for name, mean in up.items()}

    @cached_property
    def interactions(self) -> np.ndarray | None:
        """What two repairs recover together beyond each, `(repairs, repairs, targets)`; None where parts are estimated.

        Above 0 they need each other; below 0 either would do.
        """
        if self.orders or not self.repairs:
            return None
        return interactions({c: -self._capped(v) for c, v in self.values.items()}, len(self.repairs))

    def alone(self, index: int) -> float | None:
        """The loss recovered by one repair and no other; None where some target's orders do not make it alone."""
        alone = frozenset({index})
        if not all(self.refitted(alone)):
            return None
        return float((self._capped(self.values[frozenset()]) - self._capped(self.values[alone])).mean())

    def refitted(self, coalition: Coalition) -> list[bool]:
        """Whether the network with these repairs was refitted, for each target."""
        if not self.orders:
            return [coalition in self.values] * len(self.probed.baseline)
        return [any(coalition == frozenset(o[: len(coalition)]) for o in orders) for orders in self.orders]

    def _losses(self, coalition: Coalition) -> list[float | None]:
        """The final loss with some repairs on each target, None where it was not refitted."""
        pairs = zip(self.values[coalition].tolist(), self.refitted(coalition), strict=True)
        return [loss if there else None for loss, there in pairs]

    def _capped(self, loss: np.ndarray) -> np.ndarray:
        """A network no better than the constant predictor has no plasticity left, however much worse it is."""
        return np.fmin(loss, self.probed.baseline)  # also where the loss is no number

    def told(self, name: str) -> str:
        """The evidence about a repair's mechanism, in a line; empty where there is none."""
        numbers = self.evidence.get(name, {})
        each = (f"{what.replace('_', ' ')} {_figure(value, UNDEFINED.get(what))}" for what, value in numbers.items())
        return ", ".join(each)

    def made(self, coalition: Coalition) -> str:
        """The repairs of a coalition by name, in their order."""
        return " + ".join(self.repairs[i].name for i in sorted(coalition)) or "none"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists, for JSON."""
        return {
            "verdict": self.verdict,
            "gap": self.gap._asdict(),
            "parts": {name: part._asdict() for name, part in self.parts.items()},
            "shares": self.shares,
            "recovered": {r.name: self.recovered[i].tolist() for i, r in enumerate(self.repairs)},
            "interactions": None if self.interactions is None else self.interactions.tolist(),
            "values": {self.made(c): self._losses(c) for c in self.values},
            "evidence": self.evidence,
            "changed": self.changed,
            "idle": list(self.idle),
            "exact": not self.orders,
            "probe": self.probed.to_dict(),
        }

    def to_csv(self) -> str:
        """The final loss of every subset of repairs and of fresh networks on every target, uncapped, as CSV.

        Subsets that a target's orders do not make are left out.
        """
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["repairs", "target", "final_loss", "constant_predictor"])
        finals = {self.made(c): self._losses(c) for c in self.values} | {"a fresh network": self.probed.final(FRESH)}
        for made, values in finals.items():
            pairs = enumerate(zip(values, self.probed.baseline, strict=True))
            rows.writerows([made, i, *pair] for i, pair in pairs if pair[0] is not None)
        return out.getvalue()

    @property
    def conclusion(self) -> str:
        """What was lost and what took it, in a sentence."""
        said = self.probed.conclusion("now")
        return f"{said}: {self.waterfall.shared()}" if self.verdict == "lost" else said

    def remarks(self) -> list[str]:
        """What the bars do not say by themselves, where something was lost: what helps, what needs each other."""
        return [*remarks(self.waterfall, self.repairs), *self._together()] if self.verdict == "lost" else []

    def todo(self, write: str = "{}={:g}") -> list[str]:
        """What to do, a line each; `write` is how a setting is written."""
        if self.verdict == "lost":
            found = treatment(self.waterfall, self.repairs, self.has)
            return [*found, SHOWN] if found[0].startswith("treat") else found
        advice = self.probed.advice("now", write)
        return [f"to tell more, write {advice}" if advice else "nothing to treat"]

    def text(self, width: int = WIDTH, write: str = "{}={:g}") -> str:
        """The report: the verdict, what took how much, and what to do, in lines of so many characters."""
        blocks = [[self.conclusion]]
        if self.verdict == "lost":
            blocks += [self.waterfall.lines(width), self.remarks(), [self._reading()]]
        seen = [f"{name}: {told}" for name in self.evidence if (told := self.told(name))]
        idle = [f"nothing to repair: {', '.join(self.idle)}"] if self.idle and self.verdict == "lost" else []
        blocks += [
            [*(seen if self.verdict == "lost" else []), *idle],
            [self._pace(), *self.probed.notes],
            self.todo(write),
        ]
        wrap = lambda line: line if len(line) <= width else fill(line, width, subsequent_indent="  ")  # noqa: E731
        return "\n\n".join("\n".join(map(wrap, block)) for block in blocks if block)

    def _reading(self) -> str:
        estimated = ", each with random orders of the repairs" if self.orders else ""
        return (
            f"Each line: what one mechanism adds to the final loss (95 % interval over {len(self.probed.baseline)} "
            f"targets{estimated}); from top to bottom they sum up. Per cent: of all that adds."
        )

    def _pace(self) -> str:
        """Loss after a short budget, and the area, beside the final loss."""
        probed, early = self.probed, self.probed.steps[1]
        here, new = (
            [values.mean() for values in (probed.early(name), probed.final(name), probed.area(name))]
            for name in ("now", FRESH)
        )
        what = f"after {early} steps", f"after {probed.steps[-1]}", "area under the curve"
        each = [f"{name} {a:.3g} ({b:.3g} fresh)" for name, a, b in zip(what, here, new, strict=True)]
        return f"loss in {probed.unit}: {', '.join(each)}"

    def _together(self) -> list[str]:
        """Pairs of repairs that surely bring more together than each by itself, and enough to matter."""
        if self.interactions is None:
            return []
        found, fall, least = [], self.waterfall, MARGIN * float(self.probed.baseline.mean())
        for i, j in zip(*np.triu_indices(len(self.repairs), 1), strict=True):
            both = interval(self.interactions[i, j])
            if both.low > 0 and both.mean > least:
                names = f"{self.repairs[i].name} and {self.repairs[j].name}"
                found.append(
                    f"{names} need each other: treating both brings {fall.amount(both.mean)} more than each by itself"
                )
        return found

    def __str__(self) -> str:
        return self.text()


def _figure(value: float, why: str | None) -> str:
    if math.isnan(value):
        return f"undefined ({why})" if why else "undefined"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
