"""What does a GPU make of it? Populations, Atari's agents, and whether its numbers are those of the CPU.

- steps of populations of 1, 8 and 64 members, eager and compiled, and those of 64 on one thread of the CPU;
- 20 steps in float64 on both devices, and the gradient of the first in float32;
- an update and a decision of double DQN on Atari's images, four arms: `atari_cost.py`, which fills in docs/scale.md.

Under 10 minutes on one GPU; `benchmarks/gpu.sh` runs all of it. Without one it says so. `--device cpu` tries it out.

    python benchmarks/gpu.py [--device cuda] [--seconds 1.5] [--members 1,8,64] [--rounds 3]
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import atari_cost
import torch
from torch import nn
from torch.nn import functional as F
from turns import number, options

from pliant.nets import CNN, MLP
from pliant.network import Network
from pliant.optim import Adam
from pliant.population import Member, Population

SHAPE, BATCH = (1, 28, 28), 128
NETS: dict[str, Callable[[], nn.Module]] = {
    "784-128-128-10": partial(MLP, SHAPE, 10, (128, 128)),
    "784-512-512-10": partial(MLP, SHAPE, 10, (512, 512)),
    "16, 16 channels of 28 x 28": partial(CNN, SHAPE, 10, channels=(16, 16), hidden=(64, 64)),
}
CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}  # of 20 steps, of the first gradient


def population(net: str, members: int, device: str, compile: bool = False, dtype: torch.dtype = torch.float32):
    """A population, its state at the start, and a batch."""
    network = Network(NETS[net](), example=torch.zeros(2, *SHAPE))
    everyone = [Member(seed, Adam(1e-3)) for seed in range(members)]
    made = Population(network, F.cross_entropy, everyone, compile=compile, device=device, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(members, BATCH, *SHAPE, generator=generator, dtype=dtype).to(device)
    return made, made.init(), x, torch.randint(10, (members, BATCH), generator=generator).to(device)


def milliseconds(step: Callable[[], object], seconds: float, device: str) -> float:
    """Of a step, by the clock, over so many seconds; three steps come before."""

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    wait()
    taken, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or taken < 3:
        step()
        taken += 1
        wait()
    return 1e3 * (time.perf_counter() - start) / taken


def populations(device: str, sizes: list[int], seconds: float) -> None:
    """A table of steps."""
    columns = f"{'eager':>9}{'compiled':>9}{'steps/s':>12}{'CPU, eager':>11}{'MiB':>7}"
    print(f"{'ms of a step, batch 128':<32}{'members':>8}{columns}")
    for net in NETS:
        for members in sizes:
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            took, modes = {}, {}
            for compile in (False, True):
                made, state, x, y = population(net, members, device, compile)
                took[compile] = milliseconds(partial(made.step, state, x, y), seconds, device)
                modes[compile] = made.mode
            peak = "" if device == "cpu" else f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"
            compiled = f"{took[True]:.2f}" if modes[True] == "compiled" else modes[True]
            host = ""
            if members == max(sizes) and device != "cpu":
                made, state, x, y = population(net, members, "cpu")
                host = f"{milliseconds(partial(made.step, state, x, y), 0, 'cpu'):.1f}"
            rate = number(1e3 * members / min(took.values()))
            print(f"{net:<32}{members:>8}{took[False]:>9.2f}{compiled:>9}{rate:>12}{host:>11}{peak:>7}", flush=True)


def equal(device: str) -> bool:
    """Whether both devices compute the same; a table of how far they are apart."""
    fine, torch.backends.cudnn.allow_tf32 = True, False  # convolutions with as many digits as on the CPU
    for net in NETS:
        for dtype, steps in ((torch.float64, 20), (torch.float32, 1)):
            ends = []
            for where in ("cpu", device):
                made, state, x, y = population(net, 4, where, dtype=dtype)
                if dtype == torch.float64:
                    for _ in range(steps):
                        made.step(state, x, y)
                    ends.append({name: p.cpu() for name, p in state.params.items()})
                else:
                    ends.append({name: g.cpu() for name, g in made.gradients(state, x, y).items()})
            first, second = ends
            off = max(float((a - second[name]).norm() / a.norm().clamp(min=1e-30)) for name, a in first.items())
            what = f"{steps} steps" if dtype == torch.float64 else "the gradient"
            fine &= off < CLOSE[dtype]
            said = "as on the CPU" if off < CLOSE[dtype] else f"NOT as on the CPU (at most {CLOSE[dtype]:g})"
            print(f"{net:<32}{what} in {str(dtype).removeprefix('torch.')}: {off:.1e} apart, {said}", flush=True)
    return fine


def main() -> int:
    parser = options(__doc__, 3)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--members", default="1,8,64", help="of populations")
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        print(
            "no GPU here (torch.cuda.is_available() is False): nothing was measured; --device cpu tries the script out"
        )
        return 0
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    name = "CPU, one thread" if given.device == "cpu" else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, by the clock")
    populations(given.device, [int(size) for size in given.members.split(",")], given.seconds)
    fine = equal(given.device)
    atari_cost.measure(given.device, given.rounds)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
