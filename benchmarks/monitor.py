"""What does a monitor cost a training loop? Processor time relative to the same loop without, interleaved.

784-256-256-10 at batch 128 and the convolutional network of benchmarks/interventions.py at batch 64, Adam, one thread;
the economy tier, whose ranks are of the penultimate layer, on a probe of two samples a feature. Plain and watched loops
alternate in short blocks; what one measurement adds (with the copy of the parameters a step before) is timed apart, and
the ratio is that of `every` steps with one measurement, a tenth of them with all that is due every tenth time. Figures
are medians over rounds. Goals: 1.10 at every=100 and 1.01 at every=1,000.

    python benchmarks/monitor.py [--rounds 21] [--probe 512] [--by-diagnostic]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pliant.monitor import Monitor
from pliant.nets import CNN, MLP

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {  # net, shape, batch, probe
    "mlp": (lambda: MLP(784, 10, hidden=(256, 256)), (784,), 128, 512),
    "cnn": (lambda: CNN((1, 28, 28), 10, channels=(16, 16), hidden=(64, 64)), (1, 28, 28), 64, 128),
}
EVERY, STEPS = 100, 20  # of the monitor; timed at once


class Loop:
    """A network that trains on one batch over and over."""

    def __init__(self, name: str, probe: int | None, **settings: Any):
        make, shape, batch, default = NETS[name]
        torch.manual_seed(0)
        self.model, self.step = make(), 0
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.x, self.y = torch.randn(batch, *shape), torch.randint(10, (batch,))
        size = probe or default
        x, y = torch.randn(size, *shape), torch.randint(10, (size,))
        self.monitor = Monitor(self.model, (x, y), **settings) if settings else None

    def seconds(self, steps: int) -> float:
        """The processor time of so many steps."""
        start = time.process_time()
        for _ in range(steps):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()
            if self.monitor is not None:
                self.monitor(self.step)
            self.step += 1
        return time.process_time() - start


def cost(name: str, probe: int | None, rounds: int, **settings: Any) -> tuple[float, float, float, float]:
    """Milliseconds of a plain step, of a call that measures nothing, and of what a measurement adds to a step.

    The latter twice: with what is always due, and with what is due every tenth time, too.
    """
    plain, watched = Loop(name, probe), Loop(name, probe, every=EVERY, **settings)
    plain.seconds(3), watched.seconds(3)
    monitor = watched.monitor
    assert monitor is not None

    def measured(loop: Loop, before: int, steps: int) -> float:
        loop.step = before
        loop.seconds(1)  # comes up to here
        return loop.seconds(steps)

    found = []
    for n in range(1, rounds + 1):
        start = 100 * n * EVERY
        step = plain.seconds(STEPS) / STEPS
        idle = measured(watched, start + 1, STEPS) / STEPS
        usual = (
            measured(watched, start + EVERY - 2, 2) - 2 * idle
        )  # a step that copies the parameters, one that measures
        tenth = measured(watched, start + 10 * EVERY - 2, 2) - 2 * idle
        begin = time.process_time()
        for i in range(50):
            monitor(start + 10 * EVERY + 1 + i)
        found.append((step, (time.process_time() - begin) / 50, usual, tenth))
    return tuple(1000 * statistics.median(side) for side in zip(*found, strict=True))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--probe", type=int, help="samples; otherwise two a feature")
    parser.add_argument("--by-diagnostic", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    print(f"torch {torch.__version__}, one thread, medians of {given.rounds} rounds; goals 1.10 and 1.01")
    print(f"{'ms':20}{'a step':>8}{'a call':>8}{'usual':>8}{'tenth':>8}{'every=100':>11}{'every=1000':>12}")
    for name in NETS:
        step, call, usual, tenth = cost(name, given.probe, given.rounds, tier="economy")
        extra = 0.9 * usual + 0.1 * tenth
        ratios = [1 + (call + extra / every) / step for every in (100, 1000)]
        print(f"{name:20}{step:8.2f}{call:8.3f}{usual:8.1f}{tenth:8.1f}{ratios[0]:11.3f}{ratios[1]:12.3f}", flush=True)
        if given.by_diagnostic:
            watched = Loop(name, given.probe, tier="economy").monitor
            assert watched is not None
            for diagnostic in watched._schedule:
                _, _, usual, _ = cost(name, given.probe, given.rounds, diagnostics=(diagnostic,))
                print(f"  {type(diagnostic).__name__:34}{usual:8.1f}", flush=True)


if __name__ == "__main__":
    main()
