"""What do changing tasks and looking at networks cost? Ratios measured in one run, the sides in turns.

- the empirical neural tangent kernel of 64 inputs, on P1's convolutional network for 32 x 32 colour images;
- the trace of the two phases (`lyle2024/phases`) with all its columns at every step, against the same training without
  measures: MLP 2 x 256, batch 128, five seeds;
- the batches of each task, switches every 500 steps included, against a training step of five networks 784-128-128-10
  at batch 128; and how much more that is than batches of a task that never changes;
- slowly-changing regression, 20 bits, batch 1, 30 seeds as one population, against one network of 20-5-1 after the
  other in plain PyTorch, a process a core on both sides.

    python benchmarks/tasks.py [--rounds 5] [--only trace]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from turns import Found, Side, heading, line, ms, on_every_core, options, ratio, turns

from pliant.data import load
from pliant.diagnostics import EmpiricalNTK
from pliant.nets import CNN, MLP
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.papers.lyle2024 import phases
from pliant.population import Member, Population
from pliant.run.memory import keep_freed
from pliant.tasks import (
    BitFlipping,
    Composite,
    Growing,
    OffsetNoise,
    PermutedClasses,
    PermutedPixels,
    RandomLabels,
    Task,
    Waves,
)
from pliant.trials import Supervised

SEEDS, BATCH, EVERY, INPUTS = 5, 128, 500, 64
MANY, BITS, FLIPPING, SWITCH, SLOW = 30, 20, 15, 10_000, 1000  # of slowly-changing regression; steps a turn
CHANGING: dict[str, Callable[..., Task]] = {
    "RandomLabels": RandomLabels,
    "PermutedPixels": PermutedPixels,
    "PermutedClasses": PermutedClasses,
    "Composite": Composite,
    "OffsetNoise": partial(OffsetNoise, offset=10.0),
    "Waves": partial(Waves, frequency=1.0),
    "Growing": partial(Growing, begin=200),
}


def kernel() -> dict[str, Side]:
    """All numbers of the kernel of one network."""
    example = torch.randn(1, INPUTS, 3, 32, 32)
    network = Network(CNN((3, 32, 32), 10), example=example[0])
    population = Population(network, F.cross_entropy, [Member(0, Adam())])
    state, y = population.init(), torch.zeros(1, INPUTS, dtype=torch.int64)
    return {"kernel": Side(lambda: population.measure([EmpiricalNTK()], state, example, y))}


def trace() -> dict[str, Side]:
    """Steps of training with the trace of the two phases, and without."""
    settings = phases.Settings(hidden=(256, 256), batch_size=BATCH, every=EVERY, num_tasks=2, dense=EVERY)
    trial = phases.setup(settings).arms["none"].trial
    assert isinstance(trial, Supervised)
    rows = {"watched": trial.start(range(SEEDS)).rows, "bare": replace(trial, measures=()).start(range(SEEDS)).rows}
    return {name: Side(partial(taken, each, 40), 40) for name, each in rows.items()}


def taken(rows: Iterator[Any], number: int) -> None:
    """So many steps."""
    for _ in range(number):
        next(rows)


def batches() -> dict[str, Side]:
    """The batches of a task and the next, task by task, and a step of training on one of them."""
    sizes, data = (1000, BATCH, EVERY, 1000), load("mnist")
    members = [Member(seed, Adam(1e-3)) for seed in range(SEEDS)]
    population = Population(Network(MLP((1, 28, 28), 10, (128, 128))), F.cross_entropy, members)
    state = population.init()
    x, y = torch.randn(SEEDS, BATCH, 1, 28, 28), torch.randint(10, (SEEDS, BATCH))

    def side(task: Task) -> Side:
        stream, number = task.bind(data, list(range(SEEDS))), count()

        def run() -> None:
            start = EVERY * next(number) + EVERY // 2  # a switch in the middle
            for _ in stream.batches(start, start + EVERY):
                pass

        return Side(run, EVERY)

    sides = {"Task": side(Task(*sizes)), **{name: side(kind(*sizes)) for name, kind in CHANGING.items()}}
    return sides | {"step": Side(lambda: [population.step(state, x, y) for _ in range(20)], 20)}


def slowly() -> dict[str, Side]:
    """Steps of slowly-changing regression: 30 seeds at once, and one network in plain PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bits.npz"
        np.savez(path, x=np.zeros((1000, 1, 1, BITS), np.uint8), y=np.zeros(1000, np.float32))
        task = BitFlipping(1000, 1, SWITCH, 1000, flipping=FLIPPING)
        trial = Supervised(task, str(path), partial(MLP, hidden=(5,)), SGD(1e-2), standardize=False, together=MANY)
        rows = trial.start(range(MANY)).rows
    plain = plainly()
    return {"many": Side(partial(taken, rows, SLOW), SLOW * MANY), "one": Side(partial(taken, plain, SLOW), SLOW)}


def plainly() -> Iterator[None]:
    """One network in plain PyTorch, an example of random bits a step, as Dohare et al. 2024 describe it."""
    generator = torch.Generator().manual_seed(0)
    net = MLP(BITS, 1, (5,))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2, fused=True)
    bits = torch.randint(2, (BITS,), generator=generator).float()
    into = torch.randint(2, (100, BITS + 1), generator=generator) * 2.0 - 1
    out = torch.randint(2, (100,), generator=generator) * 2.0 - 1
    threshold = 0.7 * (BITS + 1) - (into < 0).sum(1)
    for step in count():
        if step % SWITCH == 0:
            place = int(torch.randint(FLIPPING, (), generator=generator))
            bits[place] = 1 - bits[place]
        x = torch.randint(2, (1, BITS), generator=generator).float()
        x[0, :FLIPPING] = bits[:FLIPPING]
        y = ((into[:, :-1] @ x[0] + into[:, -1] > threshold).float() @ out).view(1, 1)
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
        yield


def shown(found: Found) -> Iterator[str]:
    """The rows of the table."""
    if "kernel" in found:
        yield line("seconds of the eNTK of 64 inputs, CNN, a member", ms(found, "kernel") / 1e3, 2.0, at_most=True)
    if "watched" in found:
        yield line("trace of the two phases / plain training", ratio(found, "watched", "bare"), 2.0, at_most=True)
    if "step" in found:
        for name in CHANGING:
            share = f"batches of {name} / step ({ratio(found, 'Task', 'step'):.3f} where nothing changes)"
            yield line(share, ratio(found, name, "step"), 0.05, at_most=True)
    if "many" in found:
        yield line("slowly-changing regression, 30 seeds / plain PyTorch", ratio(found, "one", "many"), 40.0)


def main() -> None:
    parts = {"kernel": kernel, "trace": trace, "batches": batches, "slowly": slowly}
    parser = options(__doc__, 5)
    parser.add_argument("--only", choices=parts)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()
    found: Found = {}
    for name, make in parts.items():
        if given.only in (None, name):
            found |= on_every_core(make, given.rounds) if name == "slowly" else turns(make(), given.rounds)
    print(heading(given.rounds))
    print(f"{'tasks, and looking at networks':<62}{'measured':>12}{'goal':>12}")
    print("\n".join(shown(found)))
    print("ms: " + ", ".join(f"{name} {ms(found, name):.3f}" for name in found))


if __name__ == "__main__":
    main()
