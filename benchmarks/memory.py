"""What does it save to keep the memory that a step frees? Milliseconds and page faults a step, without and with.

Plain PyTorch and populations, Adam, one thread; a process each, which take turns; medians of the rounds.

    python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from pliant.interventions import Chain, LayerNorm
from pliant.nets import CNN, MLP
from pliant.network import Network
from pliant.optim import Adam
from pliant.population import Member, Population
from pliant.run.memory import keep_freed

ROUNDS, SECONDS = 5, 3.0


def mlp() -> nn.Module:
    return MLP(784, 10, hidden=(256, 256))


def cnn() -> nn.Module:
    return CNN((1, 28, 28), 10, channels=(16, 16), hidden=(64, 64))


def plain(make: Callable[[], nn.Module], *shape: int) -> Callable[[], object]:
    """A step of plain PyTorch."""
    x, y = torch.randn(shape), torch.randint(10, shape[:1])
    module = make()
    optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def step() -> None:
        loss = F.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def population(make: Callable[[], nn.Module], chain: Chain, *shape: int) -> Callable[[], object]:
    """A step of a population, eagerly."""
    x, y = torch.randn(shape), torch.randint(10, shape[:2])
    network = Network(chain.build(make(), x[0]), example=x[0])
    members = Population(network, F.cross_entropy, [Member(seed, Adam(), chain) for seed in range(len(x))])
    state = members.init()
    return lambda: members.step(state, x, y)


WORK: dict[str, Callable[[], Callable[[], object]]] = {
    "PyTorch, 784-256-256-10, batch 128": lambda: plain(mlp, 128, 784),
    "PyTorch, convolutions, batch 64": lambda: plain(cnn, 64, 1, 28, 28),
    "8 members of 784-256-256-10": lambda: population(mlp, Chain(), 8, 128, 784),
    "5 members with convolutions": lambda: population(cnn, Chain(), 5, 64, 1, 28, 28),
    "the same with layer norm": lambda: population(cnn, Chain(LayerNorm()), 5, 64, 1, 28, 28),
}


def measured(name: str, keep: bool) -> None:
    """Prints the processor time and the page faults of a step."""
    torch.set_num_threads(1)
    if keep:
        keep_freed()
    step = WORK[name]()
    for _ in range(5):
        step()
    steps, faults = 0, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start, began = time.process_time(), time.monotonic()
    while time.monotonic() - began < SECONDS:
        step()
        steps += 1
    took = time.process_time() - start
    print(1000 * took / steps, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=WORK, help="one of them, in this process")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    if given.work:
        measured(given.work, given.keep)
        return
    print(f"{'':36}{'ms':>8}{'faults':>8}{'ms kept':>9}{'faults':>8}{'ratio':>7}")
    for name in WORK:
        found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for keep, rows in found.items():
                call = [sys.executable, __file__, "--work", name, *(["--keep"] if keep else [])]
                ms, faults = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
                rows.append((float(ms), float(faults)))
        without, kept = ([statistics.median(column) for column in zip(*rows, strict=True)] for rows in found.values())
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(*found.values(), strict=True))
        print(f"{name:36}{without[0]:8.2f}{without[1]:8.0f}{kept[0]:9.2f}{kept[1]:8.0f}{ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
