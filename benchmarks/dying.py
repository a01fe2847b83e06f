"""What do dead units cost, when a CPU keeps what they leave in the optimizer? A step with and without, in turns.

Adam's mean gradient of a dead unit decays to some 1e-45, a number that a CPU computes slowly, and stays there. Steps of
a population take it as 0. Here each population is trained twice, with that and without, and timed after 0, 1,000 and
2,000 steps: one thread, memory kept as in the workers of a run; the parameters of both are compared.

    python benchmarks/dying.py [--rounds 7]
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from turns import Side, heading, ms, options, ratio, turns

import pliant.population
from pliant.experiment import find
from pliant.functional.precision import flushed
from pliant.run.memory import keep_freed
from pliant.trials import ValueLearning

ARMS = ("mnist_mlp_scalar_none", "cifar10_mlp_two_hot_none")
SEEDS, AT_ONCE, LATER = 5, 20, (0, 1000, 2000)  # seeds a population; steps a turn; steps before timing


def trained(rows: Iterator[Any], number: int, flush: bool) -> None:
    """So many steps, tiny numbers as 0 or as they are."""
    pliant.population.flushed = flushed if flush else nullcontext
    for _ in range(number):
        next(rows)


def main() -> None:
    given = options(__doc__, 7).parse_args()
    torch.set_num_threads(1)
    keep_freed()
    fig6 = find("lyle2023/fig6")
    arms = fig6.setup(fig6.tiers["laptop"]).arms
    print(heading(given.rounds))
    print(f"{'ms of a step kept, as 0, ratio':<28}" + "".join(f"{f'after {steps:,}':>22}" for steps in LATER))
    for arm in ARMS:
        trial = arms[arm].trial
        assert isinstance(trial, ValueLearning)
        kept, as_0 = (replace(trial, measures=()).start(range(SEEDS)) for _ in range(2))
        line = f"{arm:<28}"
        for steps in LATER:
            sides = {}
            for name, run in {"kept": kept, "as 0": as_0}.items():
                trained(run.rows, steps - run.state.step, name == "as 0")
                sides[name] = Side(partial(trained, run.rows, AT_ONCE, name == "as 0"), AT_ONCE)
            found = turns(sides, given.rounds)
            shown = f"{ms(found, 'kept'):.1f} {ms(found, 'as 0'):.1f}  {ratio(found, 'kept', 'as 0'):.2f}"
            line += f"{shown:>22}"
        after = zip(kept.state.learner.params.values(), as_0.state.learner.params.values(), strict=True)
        print(line + ("" if all(torch.equal(*both) for both in after) else "  other parameters"), flush=True)


if __name__ == "__main__":
    main()
