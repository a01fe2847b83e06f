"""Which mechanism took a network's plasticity: every subset of repairs is made to it, and refitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pliant.adapter import How, bare
from pliant.causes.base import Repair, Repaired, axes
from pliant.causes.curvature import curvature
from pliant.causes.folding import moved
from pliant.causes.repairs import EVERY
from pliant.causes.result import Causes
from pliant.functional.shapley import EXACT, Coalition, coalitions, orders, prefixes
from pliant.interventions.base import Draw
from pliant.modules import NORMALISERS
from pliant.network import Network, Params
from pliant.optim import Optimizer
from pliant.probe.budget import chosen
from pliant.probe.draws import draw, number
from pliant.probe.measure import checked, pure, refuse_nonfinite, report
from pliant.probe.padding import masked
from pliant.probe.refit import Start, refit
from pliant.probe.settings import Training, training
from pliant.probe.targets import Probe, Taken, outputs

ORDERS = 6  # of many repairs, for each target
CURVATURE = "curvature"  # evidence of no repair's own


def disentangle(
    model: nn.Module,
    *,
    inputs: Any,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Optimizer | Training,
    fresh: Callable[[], nn.Module] | None = None,
    probe: Probe | None = None,
    repairs: Sequence[Repair] = EVERY,
    actions: Tensor | None = None,
    targets: int = 5,
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int = 128,
    purify: bool = False,
    call: How | None = None,
    mask: Tensor | None = None,
    orders: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Causes:
    """What each mechanism took of a network's plasticity: units, norms, output layer, optimizer state, ...

    Every subset of the repairs is made to a copy of the network, each result is refitted to fresh targets as in
    `plasticity`, all of them at once; what a mechanism took is the Shapley value of its repair, in the probe's unit.
    Of many repairs it is estimated, from other orders of the repairs for each target, so that intervals over targets
    hold the error of the estimate, too.
    With what all repairs together leave unexplained, the parts sum to the difference from fresh networks. The
    optimizer's state is carried into the refits where there is one, as the user's own training would. The model is
    never touched, nor are its hooks called.

    Args:
        model: what is measured; a module without dropout and running statistics (else `purify`).
        inputs: the probe's inputs, a tensor (or a tree of tensors) with samples first.
        optimizer: that of the main task, or several in a list: torch's SGD, Adam, AdamW, RMSprop, Muon, or ours. It is
            read only; each parameter group trains as its own settings say.
        fresh: a function that builds an untrained network; without it, layers are drawn anew by `reset_parameters`.
        probe: the targets; P1's sines if None.
        repairs: applied in this order; those that change something are made in all subsets, where these are more than
            6 in 6 random orders of each target's own.
        actions: the taken action of every input, `(samples,)`: then only that output is fitted.
        targets: how many, each with a fresh network of its own.
        steps: of each refit; if None, chosen on control targets, as in `plasticity`.
        lr: learning rate of the refits; if None, the optimizer's, as in `plasticity`.
        batch_size: of the refits.
        purify: measure a copy without dropout, with batch normalisation by each batch.
        call: what the model computes where that is not its `forward` (an agent without one): the name of another
            method, or a function of the model and its inputs, as in `call=lambda agent, x: agent.actor(x)`.
        mask: of sequences, `(samples, tokens)` and boolean: False at padding, which is left out of the probe, where the
            network answers for each token, and of what repairs and evidence look at.
        orders: how many random orders of the repairs each target has (even numbers are steadier), instead of all
            subsets: at most 2 + orders (repairs - 1) refits a target. Two, and more targets, take fewer refits for
            intervals as narrow.
        seed: of targets, fresh networks, repairs and minibatches.
        on_progress: told how many populations of refits are done, of how many.

    Raises `ValueError` where these do not fit.

    Source: ours; the question is P2's title, the probe P1's.

    >>> from pliant.causes import REPAIRS
    >>> from pliant.optim import Adam
    >>> from pliant.probe import FreshLabels
    >>> _ = torch.manual_seed(1)  # one fresh network in ten has a unit that is linear on 32 inputs
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    >>> x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    >>> few = {"repairs": REPAIRS, "targets": 3, "steps": 20}
    >>> causes = disentangle(model, inputs=x, optimizer=Adam(1e-2), probe=FreshLabels(2), **few)
    >>> [repair.name for repair in causes.repairs]
    ['norm growth', 'output layer', 'target scale']
    """
    network, params = pure(model, inputs, fresh, purify, optimizer, call)
    how = training(optimizer, bare(model), lr=lr)
    probe = checked(probe, targets)
    if mask is not None:
        probe, mask = masked(probe, mask, network, params, inputs)
    if actions is not None:
        probe = Taken(probe, actions)
    network = network.padded(mask)
    found = disentangled(
        network, params, inputs, how, probe, repairs=repairs, targets=targets, steps=steps,
        batch_size=batch_size,
        num_orders=orders, seed=seed, on_progress=on_progress,
    )  # fmt: skip
    return replace(found, evidence=found.evidence | {CURVATURE: curvature(network, params, inputs, probe, seed)})


def disentangled(
    network: Network,
    params: Params,
    inputs: Any,
    how: Training,
    probe: Probe,
    *,
    repairs: Sequence[Repair] = EVERY,
    targets: int = 5,
    steps: int | None = None,
    batch_size: int = 128,
    num_orders: int | None = None,
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
    budget = chosen(network, params, inputs, how, probe, steps, batch_size, seed)
    now = Repaired(params, how.moments)
    with torch.no_grad():
        mended = [r.repair(network, now, inputs, _draw(seed, 0, i)) for i, r in enumerate(repairs)]
        acting = tuple(r for r, after in zip(repairs, mended, strict=True) if not _same(now, after))
        few = ORDERS if num_orders is None and len(acting) > EXACT else num_orders
        drawn = [] if few is None else [orders(len(acting), few, number(seed, t, 5)) for t in range(targets)]
        wanted = [prefixes(of_target) for of_target in drawn] or [coalitions(len(acting))] * targets
        starts, places = [], []
        for target in range(targets):
            made = _made(network, now, inputs, repairs, acting, wanted[target], seed, target)
            control = Repaired(draw(network, params, seed, target), {})
            places.append({c: len(starts) + i for i, c in enumerate(wanted[target])})
            for state in (*made, control):
                y = probe.targets(network, state.params, inputs, number(seed, target, 0))
                starts.append(Start(state.params, y, state.moments))
        trace = network.trace(params, inputs, axes(network))
        fresh = draw(network, params, seed, 0)
        evidence = {repair.name: repair.evidence(network, now, inputs, trace, fresh) for repair in repairs}
        before = outputs(network, params, inputs)
        changed = {
            r.name: moved(before, outputs(network, after.params, inputs), network.mask)
            for r, after in zip(repairs, mended, strict=True)
        }
    none, every = frozenset(), frozenset(range(len(acting)))
    fresh_at = [max(at.values()) + 1 for at in places]
    rows = [*(at[none] for at in places), *(at[every] for at in places), *fresh_at]
    found = refit(
        network, probe, starts, inputs, how, steps=budget.steps, batch_size=batch_size, seed=seed, curves=rows,
        on_progress=on_progress,
    )  # fmt: skip
    final = found.scores[:, -1]
    made_of = sorted({c for each in wanted for c in each}, key=lambda c: (len(c), sorted(c)))
    values = {c: np.array([final[at[c]] if c in at else np.nan for at in places]) for c in made_of}
    baseline = np.array([probe.baseline(starts[at[none]].y) for at in places])
    curves = type(found)(found.steps, found.scores[rows], found.diverged[rows])
    probed = report(curves, ("now", "repaired"), probe, baseline, targets, how, budget)
    idle = tuple(r.name for r in repairs if r not in acting)
    has = ("LayerNorm",) if any(isinstance(layer, NORMALISERS) for layer in network.module.modules()) else ()
    return Causes(acting, idle, values, probed, evidence, changed, drawn, has)


def coalitions_at_most(repairs: int) -> int:
    """How many sets of so many repairs a target may be refitted after; fewer where some find nothing to do.

    >>> coalitions_at_most(5), coalitions_at_most(10), coalitions_at_most(20)
    (32, 64, 116)
    """
    exact = 2 ** min(repairs, EXACT)
    return exact if repairs <= EXACT else max(exact, 2 + ORDERS * (repairs - 1))


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
