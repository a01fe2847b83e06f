"""For how many steps a probe trains: as few as fresh networks need to learn targets that are not used afterwards."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pliant.network import Network, Params
from pliant.probe.draws import draw, number
from pliant.probe.refit import Start, refit
from pliant.probe.result import LEARNED
from pliant.probe.settings import Training
from pliant.probe.targets import Probe

BUDGETS = (100, 200, 500, 1000, 2000)  # the last is P1's
SHARE = 0.8  # of the constant predictor's loss that fresh networks have to lose
CONTROLS = 3  # targets, each with a fresh network


class Budget(NamedTuple):
    """Steps of each refit, and how they were chosen ("" where they were given).

    >>> Budget(500).note
    ''
    """

    steps: int
    note: str = ""


def chosen(
    network: Network,
    params: Params,
    inputs: Any,
    how: Training,
    probe: Probe,
    steps: int | None,
    batch_size: int,
    seed: int,
) -> Budget:
    """`steps`, or the smallest of `BUDGETS` at which fresh networks have lost `SHARE` of the constant predictor's loss.

    The largest where none suffices; the smallest where fresh networks do not learn in the largest either, as then no
    refit tells anything. Targets and networks are drawn for this alone.
    """
    if steps is not None:
        return Budget(steps)
    starts = []
    for target in range(CONTROLS):
        control = draw(network, params, seed, target, 4)
        starts.append(Start(control, probe.targets(network, control, inputs, number(seed, target, 3))))
    baseline = np.mean([probe.baseline(start.y) for start in starts])
    plain, learned = Training(how.optimizer, how.chain), 0.0
    of = f"of {CONTROLS} control targets, which are not used otherwise"
    for steps in BUDGETS:
        found = refit(network, probe, starts, inputs, plain, steps=steps, batch_size=batch_size, seed=seed, points=2)
        if found.diverged.any():
            return Budget(BUDGETS[0], f"budget {BUDGETS[0]} steps: fresh networks diverge within {steps}")
        learned = max(0.0, 1 - found.scores[:, -1].mean() / baseline)
        if learned >= SHARE:
            tried = ", ".join(map(str, BUDGETS))
            return Budget(
                steps, f"budget {steps} steps, the first of {tried} in which fresh networks learn {SHARE:.0%} {of}"
            )
    if learned >= 1 - LEARNED:
        return Budget(
            BUDGETS[-1], f"budget {BUDGETS[-1]} steps, the most that is tried: fresh networks learn {learned:.0%} {of}"
        )
    return Budget(
        BUDGETS[0], f"budget {BUDGETS[0]} steps: even in {BUDGETS[-1]} fresh networks learn but {learned:.0%} {of}"
    )
