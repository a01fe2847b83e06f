"""Refits of the probe as a population against a loop over networks in plain PyTorch, and how long `disentangle` takes.

Both on 784-128-128-10, batch 128, Adam; all cores that torch sees. The loop is the ten refits one after the other,
each a module with `torch.optim.Adam`; rounds are interleaved and medians reported. Budgets are 100 steps and the 500
that `disentangle` has, both scored ten times on the way, which costs a population and a loop the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

import pliant
from pliant.causes import REPAIRS
from pliant.network import Network
from pliant.optim import Adam
from pliant.probe import FreshLabels, Start, Training, refit

EXAMPLES, BATCH, TARGETS, ROUNDS = 1000, 128, 10, 5
BUDGETS = (100, 500)  # steps of a refit


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def looped(params: dict, x: torch.Tensor, labels: list[torch.Tensor], steps: int) -> None:
    """The refits one by one, scored as often as the population's."""
    for y in labels:
        module = make()
        module.load_state_dict(params)
        optimizer = torch.optim.Adam(module.parameters())
        for step in range(steps):
            if step % (steps // 10) == 0:
                with torch.no_grad():
                    nn.functional.cross_entropy(module(x), y)
            rows = torch.randint(len(x), (BATCH,))
            loss = nn.functional.cross_entropy(module(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    torch.manual_seed(0)
    network, probe, x = Network(make), FreshLabels(10), torch.randn(EXAMPLES, 784)
    params = network.fresh(0)
    labels = [probe.targets(network, params, x, seed) for seed in range(TARGETS)]
    starts = [Start(params, y) for y in labels]
    for steps in BUDGETS:
        ways: dict[str, Callable[[], object]] = {
            "population": partial(refit, network, probe, starts, x, Training(Adam()), steps=steps, batch_size=BATCH),
            "loop": partial(looped, params, x, labels, steps),
        }
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start, cpu = time.perf_counter(), time.process_time()
                way()
                took[name].append((time.perf_counter() - start, time.process_time() - cpu))
        for i, kind in enumerate(("", " of processor time")):
            ours, theirs = (statistics.median(seconds[i] for seconds in took[name]) for name in ways)
            print(
                f"{TARGETS} refits of {steps} steps, {torch.get_num_threads()} threads: {ours:.2f} s{kind}, in a loop "
                f"{theirs:.2f} s, {theirs / ours:.2f} times as long (goal 1.5)",
                flush=True,
            )

    model = make()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(20):  # a state to carry, and units that are none the worse
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:BATCH]), labels[0][:BATCH]).backward()
        optimizer.step()
    with torch.no_grad():
        model[0].bias[:64] = -1e3  # type: ignore[index]  # so that all five repairs have something to do
    start = time.perf_counter()
    found = pliant.disentangle(model, inputs=x, optimizer=optimizer, probe=probe, repairs=REPAIRS, targets=5, steps=500)
    refits, seconds = 5 * (len(found.values) + 1), time.perf_counter() - start
    print(f"disentangle: {refits} refits of 500 steps in {seconds:.0f} s (goal 120 s)")


if __name__ == "__main__":
    main()
