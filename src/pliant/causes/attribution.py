"""How much of a network's plasticity loss each mechanism explains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from textwrap import fill
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pliant.adapter import How, bare
from pliant.causes.folding import moved
from pliant.causes.repairs import REPAIRS, Repair, Repaired, axes
from pliant.functional.shapley import EXACT, Coalition, coalitions, interactions, orders, prefixes, sampled, shapley
from pliant.functional.statistics import Interval, interval
from pliant.interventions.base import Draw
from pliant.network import Network, Params
from pliant.optim import Optimizer
from pliant.probe.measure import (
    FRESH,
    MARGIN,
    Plasticity,
    Taken,
    checked,
    draw,
    number,
    pure,
    refuse_nonfinite,
    report,
    verdict,
)
from pliant.probe.refit import Start, refit
from pliant.probe.settings import Training, training
from pliant.probe.targets import Probe, outputs

RESAMPLES = 2000
WIDTH = 80  # of the printed report


@dataclass(frozen=True)
class Causes:
    """The loss of plasticity against fresh networks, and what each repair recovers of it.

    Losses count up to that of the best constant predictor: beyond it nothing is left to lose, and a refit that blows up
    would drown all others. `values` and `probed` hold them as they are.

    Attributes:
        repairs: those that changed something, in the order of application.
        idle: names of those that found nothing to repair.
        values: final losses, `(targets,)`, by the repairs made (indices into `repairs`).
        probed: the curves as they are (`"now"`), with all repairs (`"repaired"`) and of fresh networks.
        evidence: numbers about each mechanism in the network as it is, by name of the repair.
        changed: how far each repair alone moved the outputs: the root mean square of the change over theirs, that of
            the output that moved most where there are several.
        orders: of the repairs, where the shares are estimated from some; empty where they are exact.

    >>> from pliant.causes import Norm
    >>> aged, new = np.array([[1.0, 0.9], [1.0, 0.8]]), np.array([[1.0, 0.1], [1.0, 0.0]])
    >>> curves = {"now": aged, "repaired": new, "fresh": new}
    >>> probed = Plasticity(("now", "repaired"), "nats", np.array([0, 9]), curves, np.ones(2), {})
    >>> values = {frozenset(): aged[:, 1], frozenset({0}): new[:, 1]}
    >>> causes = Causes((Norm(),), (), values, probed, {}, {"norm": 0.0})
    >>> causes.shares["norm"].mean, causes.verdict
    (1.0, 'lost')
    """

    repairs: tuple[Repair, ...]
    idle: tuple[str, ...]
    values: dict[Coalition, np.ndarray]
    probed: Plasticity
    evidence: dict[str, dict[str, float]]
    changed: dict[str, float]
    orders: list[tuple[int, ...]] = field(default_factory=list)

    @cached_property
    def lost(self) -> np.ndarray:
        """The final loss on each target less that of a fresh network, both capped, `(targets,)`."""
        return self._capped(self.values[frozenset()]) - self._capped(self.probed.final(FRESH))

    @property
    def gap(self) -> Interval:
        """`lost`, with its interval over targets."""
        return interval(self.lost)

    @property
    def verdict(self) -> str:
        """`"lost"`, `"healthy"` or `"cannot tell"`: see `Plasticity.verdict`."""
        return verdict(self.gap, float(self.probed.baseline.mean()))

    @cached_property
    def recovered(self) -> np.ndarray:
        """What each repair recovers of the loss: its Shapley value, `(repairs, targets)`."""
        gains = {coalition: -self._capped(value) for coalition, value in self.values.items()}
        if not self.repairs:
            return np.zeros((0, len(self.probed.baseline)))
        return sampled(gains, self.orders) if self.orders else shapley(gains, len(self.repairs))

    @cached_property
    def shares(self) -> dict[str, Interval]:
        """Each mechanism's share of the gap, `"unexplained"` the rest, with percentile intervals over targets.

        A ratio of means over targets, which are drawn again with replacement: with few targets intervals are too short.
        Together they are 1. A share is negative where a repair does harm: clearing an optimizer's state that serves the
        network well, say. Shares of a gap that is not there mean nothing: look at `verdict` first.
        """
        lost = self.lost
        parts = np.concatenate([self.recovered, (lost - self.recovered.sum(0))[None]])
        picked = np.random.default_rng(0).integers(len(lost), size=(RESAMPLES, len(lost)))
        with np.errstate(divide="ignore", invalid="ignore"):
            means = parts.mean(1) / lost.mean()
            ratios = parts[:, picked].mean(2) / lost[picked].mean(1)
        low, high = (
            np.percentile(ratios, [2.5, 97.5], axis=1)
            if np.isfinite(ratios).all()
            else np.full((2, len(parts)), np.nan)
        )
        names = [*(repair.name for repair in self.repairs), "unexplained"]
        return {n: Interval(float(m), float(a), float(b)) for n, m, a, b in zip(names, means, low, high, strict=True)}

    @cached_property
    def interactions(self) -> np.ndarray | None:
        """What two repairs recover together beyond each, `(repairs, repairs)`; None where the shares are estimated."""
        if self.orders or not self.repairs:
            return None
        return interactions({c: -self._capped(v).mean() for c, v in self.values.items()}, len(self.repairs))

    def alone(self, index: int) -> float | None:
        """The loss recovered by one repair and no other."""
        there = self.values.get(frozenset({index}))
        return None if there is None else float((self._capped(self.values[frozenset()]) - self._capped(there)).mean())

    def _capped(self, loss: np.ndarray) -> np.ndarray:
        """A network no better than the constant predictor has no plasticity left, however much worse it is."""
        return np.fmin(loss, self.probed.baseline)  # also where the loss is no number

    def told(self, name: str) -> str:
        """The evidence about a repair's mechanism, in a line; empty where there is none."""
        numbers = self.evidence.get(name, {})
        return ", ".join(f"{what.replace('_', ' ')} {_figure(value)}" for what, value in numbers.items())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists, for JSON."""
        return {
            "verdict": self.verdict,
            "gap": self.gap._asdict(),
            "shares": {name: share._asdict() for name, share in self.shares.items()},
            "recovered": {r.name: self.recovered[i].tolist() for i, r in enumerate(self.repairs)},
            "interactions": None if self.interactions is None else self.interactions.tolist(),
            "values": {
                "+".join(self.repairs[i].name for i in sorted(c)) or "none": v.tolist() for c, v in self.values.items()
            },
            "evidence": self.evidence,
            "changed": self.changed,
            "idle": list(self.idle),
            "exact": not self.orders,
            "probe": self.probed.to_dict(),
        }

    @property
    def conclusion(self) -> str:
        """What was lost and what took it, in a sentence."""
        gap, unit = self.gap, self.probed.unit
        ends = f"[{gap.low:+.3f}, {gap.high:+.3f}]"
        if self.verdict != "lost":
            small = gap.low <= 0 and gap.mean <= MARGIN * self.probed.baseline.mean()
            said = "no plasticity lost" if self.verdict == "healthy" else "cannot tell"
            said = "no plasticity lost that these targets can show" if said == "cannot tell" and small else said
            more = "" if self.verdict == "healthy" else "; more targets or steps would tell more"
            return f"{said}: final loss {gap.mean:+.3f} {unit} {ends} against fresh networks{more}"
        parts = [f"{_percent(self.shares[repair.name].mean)} {repair.mechanism}" for repair in self._by_share()]
        left = _percent(self.shares["unexplained"].mean)
        return f"lost {gap.mean:.3f} {unit} {ends} against fresh networks: {', '.join(parts)}; {left} unexplained"

    def _by_share(self) -> list[Repair]:
        return sorted(self.repairs, key=lambda repair: -self.shares[repair.name].mean)

    def __str__(self) -> str:
        if self.verdict != "lost":
            return fill(self.conclusion, WIDTH)
        order = self._by_share()
        lines = [fill(self.conclusion, WIDTH), "", f"{'repair':<14}{'share':>7}  {'95 %':<17}{'alone':>8}{'moved':>8}"]
        for repair in order:
            share, alone = self.shares[repair.name], self.alone(self.repairs.index(repair))
            ends = f"{_percent(share.low)} to {_percent(share.high)}"
            recovers = "" if alone is None else f"{alone:+.3f}"
            moved = f"{self.changed[repair.name]:.2g}"
            lines.append(f"{repair.name:<14}{_percent(share.mean):>7}  {ends:<17}{recovers:>8}{moved:>8}")
        lines.append("")
        for name in self.evidence:
            if told := self.told(name):
                lines.append(fill(f"{name + ':':<14}{told}", WIDTH, subsequent_indent=" " * 14))
        if self.idle:
            lines.append(f"nothing to repair: {', '.join(self.idle)}")
        if order and self.shares[order[0].name].mean > 0:
            lines += ["", f"treat {order[0].mechanism} with: {order[0].cure}"]
        return "\n".join(lines)


def disentangle(
    model: nn.Module,
    *,
    inputs: Any,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Optimizer | Training,
    fresh: Callable[[], nn.Module] | None = None,
    probe: Probe | None = None,
    repairs: Sequence[Repair] = REPAIRS,
    actions: Tensor | None = None,
    targets: int = 5,
    steps: int = 500,
    batch_size: int = 128,
    purify: bool = False,
    call: How | None = None,
    orders: int = 32,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Causes:
    """Which mechanism took how much of a network's plasticity: units, norms, head, optimizer, target scale.

    Every subset of the repairs is made to a copy of the network, each result is refitted to fresh targets as in
    `plasticity`, all of them at once; a repair's share is its Shapley value over the gap to fresh networks, and what
    all repairs together leave is unexplained. The optimizer's state is carried into the refits where there is one, as
    the user's own training would. The model is never touched, nor are its hooks called.

    Args:
        model: what is measured; a module without dropout and running statistics (else `purify`).
        inputs: the probe's inputs, a tensor (or a tree of tensors) with samples first.
        optimizer: that of the main task, or several in a list: torch's SGD, Adam, AdamW, RMSprop, Muon, or ours. It is
            read only; each parameter group trains as its own settings say.
        fresh: a function that builds an untrained network; without it, layers are drawn anew by `reset_parameters`.
        probe: the targets; P1's sines if None.
        repairs: applied in this order; up to 6 in all subsets, more by random orders.
        actions: the taken action of every input, `(samples,)`: then only that output is fitted.
        targets: how many, each with a fresh network of its own.
        steps: of each refit.
        batch_size: of the refits.
        purify: measure a copy without dropout, with batch normalisation by each batch.
        call: what the model computes where that is not its `forward` (an agent without one): the name of another
            method, or a function of the model and its inputs, as in `call=lambda agent, x: agent.actor(x)`.
        orders: how many random orders, with more than 6 repairs.
        seed: of targets, fresh networks, repairs and minibatches.
        on_progress: told how many populations of refits are done, of how many.

    Raises `ValueError` where these do not fit.

    Source: ours; the question is P2's title, the probe P1's.

    >>> from pliant.optim import Adam
    >>> from pliant.probe import RandomLabels
    >>> _ = torch.manual_seed(1)  # one fresh network in ten has a unit that is linear on 32 inputs
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    >>> x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    >>> causes = disentangle(model, inputs=x, optimizer=Adam(1e-2), probe=RandomLabels(2), targets=3, steps=20)
    >>> [repair.name for repair in causes.repairs], causes.idle
    (['norm', 'head', 'target scale'], ('units', 'optimizer'))
    """
    network, params = pure(model, inputs, fresh, purify, optimizer, call)
    how = training(optimizer, bare(model))
    probe = checked(probe, targets)
    if actions is not None:
        probe = Taken(probe, actions)
    return disentangled(
        network, params, inputs, how, probe, repairs=repairs, targets=targets, steps=steps, batch_size=batch_size,
        num_orders=orders, seed=seed, on_progress=on_progress,
    )  # fmt: skip


def disentangled(
    network: Network,
    params: Params,
    inputs: Any,
    how: Training,
    probe: Probe,
    *,
    repairs: Sequence[Repair] = REPAIRS,
    targets: int = 5,
    steps: int = 500,
    batch_size: int = 128,
    num_orders: int = 32,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Causes:
    """`disentangle` of a network at some parameters, for who has both already."""
    checked(probe, targets)
    if isinstance(repairs, (str, Repair)) or not all(isinstance(repair, Repair) for repair in repairs):
        raise ValueError(f"expected a sequence of repairs, got {repairs!r}: write repairs=(Units(), Norm())")
    if len({repair.name for repair in repairs}) < len(repairs):
        raise ValueError(f"expected repairs of different names, got {', '.join(r.name for r in repairs)}")
    refuse_nonfinite(network, {"the model": params}, inputs)
    now = Repaired(params, how.moments)
    with torch.no_grad():
        mended = [r.repair(network, now, inputs, _draw(seed, 0, i)) for i, r in enumerate(repairs)]
        acting = tuple(r for r, after in zip(repairs, mended, strict=True) if not _same(now, after))
        chosen = orders(len(acting), num_orders, seed) if len(acting) > EXACT else []
        wanted = prefixes(chosen) if chosen else coalitions(len(acting))
        starts = []
        for target in range(targets):
            made = _made(network, now, inputs, repairs, acting, wanted, seed, target)
            control = Repaired(draw(network, params, seed, target), {})
            for state in (*made, control):
                y = probe.targets(network, state.params, inputs, number(seed, target, 0))
                starts.append(Start(state.params, y, state.moments))
        trace = network.trace(params, inputs, axes(network))
        fresh = draw(network, params, seed, 0)
        evidence = {repair.name: repair.evidence(network, now, inputs, trace, fresh) for repair in repairs}
        before = outputs(network, params, inputs)
        changed = {
            r.name: moved(before, outputs(network, after.params, inputs))
            for r, after in zip(repairs, mended, strict=True)
        }
    width = len(wanted) + 1
    places = [wanted.index(frozenset()), wanted.index(frozenset(range(len(acting)))), width - 1]
    rows = [target * width + place for place in places for target in range(targets)]
    found = refit(
        network, probe, starts, inputs, how, steps=steps, batch_size=batch_size, seed=seed, curves=rows,
        on_progress=on_progress,
    )  # fmt: skip
    final = found.scores[:, -1].reshape(targets, width)
    values = {coalition: final[:, i] for i, coalition in enumerate(wanted)}
    baseline = np.array([probe.baseline(starts[target * width + places[0]].y) for target in range(targets)])
    curves = type(found)(found.steps, found.scores[rows], found.diverged[rows])
    probed = report(curves, ("now", "repaired"), probe, baseline, targets)
    idle = tuple(r.name for r in repairs if r not in acting)
    return Causes(acting, idle, values, probed, evidence, changed, chosen)


def _made(
    network: Network,
    now: Repaired,
    x: Any,
    repairs: Sequence[Repair],
    acting: Sequence[Repair],
    wanted: Sequence[Coalition],
    seed: int,
    target: int,
) -> list[Repaired]:
    """The network after each coalition of repairs, made in their order; draws depend on the target alone."""
    done = {frozenset(): now}

    def after(coalition: Coalition) -> Repaired:
        if coalition not in done:
            last = max(coalition)
            place = list(repairs).index(acting[last])
            done[coalition] = acting[last].repair(network, after(coalition - {last}), x, _draw(seed, target, place))
        return done[coalition]

    return [after(coalition) for coalition in wanted]


def _draw(seed: int, target: int, place: int) -> Draw:
    return Draw(number(seed, target, 2), 0, place)


def _same(a: Repaired, b: Repaired) -> bool:
    if a is b:
        return True
    if a.moments.keys() != b.moments.keys() or any(not torch.equal(p, b.params[n]) for n, p in a.params.items()):
        return False
    return all(torch.equal(t, b.moments[kind][n]) for kind, group in a.moments.items() for n, t in group.items())


def _figure(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{round(100 * share) + 0:d} %" if np.isfinite(share) else "-"
