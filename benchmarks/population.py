"""How fast does a population train, against plain eager PyTorch? Ratios of member-steps per second, one run.

Both sides: one process a core, one thread each, the same batches, warm. Plain PyTorch trains one network after another
with its fused optimizer. The sides alternate, all cores in step; each figure is the median over rounds.

    python benchmarks/population.py
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from pliant.nets import MLP
from pliant.network import Network
from pliant.optim import SGD, Adam, Optimizer
from pliant.population import Member, Population


@dataclass(frozen=True)
class Case:
    """A network, a batch and a population; `goal` is what the ratio should reach."""

    name: str
    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    batch: int
    members: int
    goal: float
    differing: bool = False
    sgd: bool = False
    steps: int = 40

    def optimizers(self) -> list[Optimizer]:
        scale = [1 + 0.1 * m * self.differing for m in range(self.members)]
        return [SGD(1e-2 * s) if self.sgd else Adam(1e-3 * s) for s in scale]

    def flops(self) -> int:
        """Multiplications and additions of the matrix products of one step; the first layer needs no input gradient."""
        sizes = [self.inputs, *self.hidden, self.outputs]
        layers = [2 * self.batch * a * b for a, b in itertools.pairwise(sizes)]
        return 3 * sum(layers) - layers[0]


CASES = (
    Case("784-128-128-10, 8 members, equal", 784, (128, 128), 10, 128, 8, goal=1.2),
    Case("784-128-128-10, 8 members, differing", 784, (128, 128), 10, 128, 8, goal=1.0, differing=True),
    Case("784-512-512-10, 8 members", 784, (512, 512), 10, 128, 8, goal=1.0, steps=10),
    Case("20-5-1, batch 1, SGD, 30 members", 20, (5,), 1, 1, 30, goal=20.0, sgd=True, steps=400),
    Case("784-128-128-10, one network", 784, (128, 128), 10, 128, 1, goal=0.95, steps=200),
    Case("784-512-512-10, one network", 784, (512, 512), 10, 128, 1, goal=0.95, steps=60),
)


def population_rate(case: Case, compile: bool) -> Any:
    """A function that takes `case.steps` steps of the population and returns member-steps per second."""
    loss = F.mse_loss if case.outputs == 1 else F.cross_entropy
    network = Network(MLP(case.inputs, case.outputs, hidden=case.hidden))
    members = [Member(seed, optimizer) for seed, optimizer in enumerate(case.optimizers())]
    population = Population(network, loss, members, compile=compile)
    state = population.init()
    x, y = batches(case)
    population.step(state, x, y)
    assert population.mode == ("single" if case.members == 1 else "compiled" if compile else "vmap"), population.mode

    def run() -> float:
        start = time.perf_counter()
        for _ in range(case.steps):
            population.step(state, x, y)
        return case.steps * case.members / (time.perf_counter() - start)

    return run


def plain_rate(case: Case) -> Any:
    """The same for one plain module after another; returns steps per second of one."""
    loss_of = F.mse_loss if case.outputs == 1 else F.cross_entropy
    module = MLP(case.inputs, case.outputs, hidden=case.hidden)
    kind = torch.optim.SGD if case.sgd else torch.optim.Adam
    optimizer = kind(module.parameters(), lr=1e-3, fused=True)
    xs, ys = batches(case)
    x, y = xs[0].clone(), ys[0].clone()

    def run() -> float:
        start = time.perf_counter()
        for _ in range(case.steps):
            optimizer.zero_grad()
            loss_of(module(x), y).backward()
            optimizer.step()
        return case.steps / (time.perf_counter() - start)

    return run


def matrix_rate() -> Any:
    """Floating-point operations per second of a large float32 matrix product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(10):
            a @ b
        return 10 * 2 * 1024**3 / (time.perf_counter() - start)

    return run


def batches(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.members, case.batch, case.inputs, generator=generator)
    if case.outputs == 1:
        return x, torch.randn(case.members, case.batch, 1, generator=generator)
    return x, torch.randint(case.outputs, (case.members, case.batch), generator=generator)


def worker(barrier: Any, results: Any, rounds: int) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for case in CASES:
        sides = {
            "plain": plain_rate(case),
            "eager": population_rate(case, compile=False),
            "pliant": population_rate(case, compile=case.members > 1),
            "matrix": matrix_rate(),
        }
        for run in sides.values():
            run()
        for _ in range(rounds):
            for side, run in sides.items():
                barrier.wait()
                results.put((case.name, side, run()))


def memory(members: int) -> None:
    """Prints the peak resident memory of a population of 64."""
    case = Case("", 784, (128, 128), 10, 128, members, goal=0, steps=5)
    population_rate(case, compile=False)()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{members} members of 784-128-128-10: {peak:.2f} GB peak")


def main(rounds: int = 9) -> None:
    cores = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(cores), context.SimpleQueue()
    workers = [context.Process(target=worker, args=(barrier, results, rounds), daemon=True) for _ in range(cores)]
    for process in workers:
        process.start()
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(cores * rounds * 4 * len(CASES)):
        name, side, rate = results.get()
        rates.setdefault((name, side), []).append(rate)
    print(f"{cores} processes, torch {torch.__version__}; member-steps per second and core, medians of {rounds} rounds")
    print(f"{'':38} {'plain':>8} {'pliant':>8} {'ratio':>6} {'goal':>5} {'eager':>6} {'of matrix rate':>14}")
    for case in CASES:
        at = {side: statistics.median(rates[case.name, side]) for side in ("plain", "eager", "pliant", "matrix")}
        share = at["pliant"] * case.flops() / at["matrix"]
        print(
            f"{case.name:38} {at['plain']:8.0f} {at['pliant']:8.0f} {at['pliant'] / at['plain']:6.2f} {case.goal:5.2f} "
            f"{at['eager'] / at['plain']:6.2f} {share:14.0%}"
        )
    process = context.Process(target=memory, args=(64,))
    process.start()
    process.join()


if __name__ == "__main__":
    main()
