"""What does each intervention cost a training step? Ratios against no intervention, both in one run, interleaved.

    python benchmarks/interventions.py [--only NAME] [--rounds 7] [--write]

Every arm of the experiment toolbox/cures, with the settings it has there, trains a population of 8 networks
784-256-256-10 at batch 128 (and of 2 small convolutional networks), eagerly, one thread, memory kept as in the workers
of a run. A round takes a few steps of the arm and as many without; the figure is the median of the rounds' ratios. What
is due only every so many steps is timed when it is due and when it is not, and the ratio is that of the average step.
Events cost nothing between events.
Continual backprop is timed alone, too, on 784-100-100-100-10 at batch 1, where the published code takes about 2.1.

`--write` keeps the ratios in src/pliant/interventions/costs.json, which `pliant interventions` shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

import pliant.interventions
from pliant.interventions import Chain, ContinualBackprop
from pliant.nets import CNN, MLP
from pliant.network import Network
from pliant.optim import Adam, Optimizer
from pliant.papers.toolbox.cures import cures
from pliant.population import Member, Population, PopulationState
from pliant.run.memory import keep_freed

COSTS = Path(pliant.interventions.__file__).parent / "costs.json"
GOALS = {  # by the class that the arm adds; the others have none
    "LayerNorm": 1.25,
    "L2": 1.1,
    "L2Init": 1.1,
    "WeightDecay": 1.1,
    "WeightClipping": 1.1,
    "ContinualBackprop": 1.5,
    "ReDo": 1.02,
}
NETS: dict[str, tuple[Callable, tuple[int, ...], int, int, int]] = {  # net, shape, batch, members, steps a round
    "mlp": (lambda: MLP(784, 10, hidden=(256, 256)), (784,), 128, 8, 4),
    "cnn": (lambda: CNN((1, 28, 28), 10, channels=(16, 16), hidden=(64, 64)), (1, 28, 28), 64, 2, 4),
}


class Recipe(NamedTuple):
    """An optimizer with interventions."""

    optimizer: Optimizer
    chain: Chain


class Running:
    """A population that trains on one batch over and over."""

    def __init__(self, arm: Recipe, make: Callable, shape: tuple[int, ...], batch: int, members: int):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(members, batch, *shape, generator=generator)
        self.y = torch.randint(10, (members, batch), generator=generator)
        torch.manual_seed(0)
        module = arm.chain.build(make(), self.x[0])
        chain = [Member(seed, arm.optimizer, arm.chain) for seed in range(members)]
        self.population = Population(Network(module, example=self.x[0]), F.cross_entropy, chain)
        self.state: PopulationState = self.population.init()
        for carried in self.state.interventions:
            if "age" in carried:
                carried["age"].fill_(1000.0)  # units old enough to be replaced
        self.seconds(3)

    def seconds(self, steps: int, at: int | None = None) -> float:
        """The time of one step, over so many; with `at`, each of them as the step of that number."""
        start = time.perf_counter()
        for _ in range(steps):
            if at is not None:
                self.state.step = at
            self.population.step(self.state, self.x, self.y)
        return (time.perf_counter() - start) / steps


def ratio(
    arm: Recipe, plain: Running, make: Callable, shape: tuple, batch: int, members: int, steps: int, rounds: int
) -> float:
    """The time of an average step of the arm in those of a plain one."""
    running = Running(arm, make, shape, batch, members)
    periods = {getattr(i, "every", 1) for i in arm.chain if i.overrides("after_step")} - {1}
    found = []
    for _ in range(rounds):
        without = plain.seconds(steps)
        if periods:
            (every,) = periods
            usual, due = running.seconds(steps, at=0), running.seconds(1, at=every - 1)
            found.append(((every - 1) * usual + due) / every / without)
        else:
            found.append(running.seconds(steps) / without)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="arms whose name, or the class that they add, contains this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()
    warnings.filterwarnings("ignore")
    none = Recipe(Adam(), Chain())
    plains = {name: Running(none, *net[:-1]) for name, net in NETS.items()}
    only = (given.only or "").lower()
    arms = {c.name: c for c in cures() if only in c.name.lower() or only in c.kind.lower()}
    if not arms:
        parser.error(f"{given.only} is no arm of toolbox/cures: write its row in cures() first")
    costs: dict[str, dict[str, float]] = json.loads(COSTS.read_text()) if only else {}
    print(f"{'':28}{'mlp':>8}{'cnn':>8}{'goal':>8}")
    for name, cure in arms.items():
        arm = Recipe(cure.optimizer, Chain(*cure.interventions))
        found = {n: ratio(arm, plains[n], *net, rounds=given.rounds) for n, net in NETS.items()}
        goal = GOALS.get(cure.kind, float("nan"))
        print(f"{name:28}{found['mlp']:8.2f}{found['cnn']:8.2f}{goal:8.2f}", flush=True)
        costs[cure.kind] = {n: round(r, 2) for n, r in found.items()}
    if only in "continualbackprop":
        small = (lambda: MLP(784, 10, hidden=(100, 100, 100)), (784,), 1, 1)
        alone = Recipe(Adam(), Chain(ContinualBackprop()))
        found = ratio(alone, Running(none, *small), *small, steps=200, rounds=given.rounds)
        print(f"continual backprop, one network 784-100-100-100-10 at batch 1: {found:.2f} (goal 1.5)")
    if given.write:
        COSTS.write_text(json.dumps(costs, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
