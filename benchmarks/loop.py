"""When is a loop over the members of a population faster than `vmap`? A step of both, for what `Gradients` decides.

Networks of one or two convolutions and of none, some batch sizes, 2 to 8 members, Adam; one thread, memory kept as in
the workers of a run; the two take turns, medians of the rounds' ratios. `MFLOP` are those of the convolutions in the
forward pass of one member.

    python benchmarks/loop.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pliant.modules import convolution_flops
from pliant.nets import CNN, MLP
from pliant.network import Network
from pliant.optim import Adam
from pliant.population import Member, Population, PopulationState
from pliant.run.memory import keep_freed

ROUNDS, STEPS = 11, 3
NETS: dict[str, tuple[Callable, tuple[int, ...], tuple[int, ...]]] = {  # net, shape of an input, batch sizes
    "784-64-64-10": (lambda: MLP(784, 10, hidden=(64, 64)), (784,), (16, 128)),
    "784-256-256-10": (lambda: MLP(784, 10, hidden=(256, 256)), (784,), (16, 128)),
    "16, 16 channels of 28 x 28": (
        lambda: CNN((1, 28, 28), 10, channels=(16, 16), hidden=(64, 64)), (1, 28, 28), (8, 32, 64, 128)
    ),
    "16, 32 channels of 32 x 32": (lambda: CNN((3, 32, 32), 10, channels=(16, 32), hidden=(64,)), (3, 32, 32), (8, 32)),
    "32, 64 channels of 32 x 32": (
        lambda: CNN((3, 32, 32), 10, channels=(32, 64), hidden=(128,)), (3, 32, 32), (8, 32)
    ),
}  # fmt: skip


class Way:
    """A population that trains on one batch over and over, under `vmap` or in a loop."""

    def __init__(self, make: Callable, x: Tensor, y: Tensor, mode: str):
        torch.manual_seed(0)
        network = Network(make(), example=x[0])
        self.population = Population(network, F.cross_entropy, [Member(seed, Adam()) for seed in range(len(x))])
        gradients = self.population._gradients
        gradients._faster_apart = lambda *_: mode == "loop"  # type: ignore[method-assign]
        self.state: PopulationState = self.population.init()
        self.x, self.y = x, y
        self.seconds()
        assert self.population.mode == mode

    def seconds(self) -> float:
        start = time.process_time()
        for _ in range(STEPS):
            self.population.step(self.state, self.x, self.y)
        return (time.process_time() - start) / STEPS


def main() -> None:
    torch.set_num_threads(1)
    keep_freed()
    generator = torch.Generator().manual_seed(0)
    print(f"{'':28}{'batch':>6}{'members':>8}{'MFLOP':>7}{'ms vmap':>9}{'ms loop':>9}{'vmap/loop':>10}")
    for name, (make, shape, batches) in NETS.items():
        for batch in batches:
            flops = convolution_flops(make(), torch.randn(batch, *shape, generator=generator)) / 1e6
            for members in (2, 3, 5, 8):
                x = torch.randn(members, batch, *shape, generator=generator)
                y = torch.randint(10, (members, batch), generator=generator)
                ways = [Way(make, x, y, mode) for mode in ("vmap", "loop")]
                took = [[way.seconds() for way in ways] for _ in range(ROUNDS)]
                vmapped, looped = (1000 * statistics.median(seconds) for seconds in zip(*took, strict=True))
                ratio = statistics.median(a / b for a, b in took)
                print(f"{name:28}{batch:6}{members:8}{flops:7.1f}{vmapped:9.2f}{looped:9.2f}{ratio:10.2f}", flush=True)


if __name__ == "__main__":
    main()
