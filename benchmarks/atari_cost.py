"""What does the Atari sweep of P1-E9 cost? One update and one decision are measured here, and counted.

The network is dqn_zoo's: convolutions of 32 8x8/4, 64 4x4/2, 64 3x3/1, a layer of 512, one output an action; layer norm
before every ReLU in two of the arms, L2 in two. One update is double DQN's: 32 transitions out of a replay of 100,000
frames, the online network on both states, the target network on the next ones, backward, centered RMSProp (pliant's,
with the epsilon in the root, which torch's cannot have). One decision is the online network on one state. The rest is
plain PyTorch, one thread. The emulator is not in it.

    python benchmarks/atari_cost.py [--device cuda]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pliant.experiment import find
from pliant.optim import RMSProp
from pliant.run.store import Store

GAMES, SEEDS = 57, 5
FRAMES = 200e6  # of training, a run
SKIP = 4  # frames a decision
PERIOD = 4  # decisions an update
EVALUATION = 0.5  # frames of evaluation for one of training, as dqn_zoo has it
ACTIONS, STACK, SIDE, BATCH, REPLAY = 18, 4, 84, 32, 100_000
L2 = 1e-5
ROWS, COLUMNS = 200, 70  # a row an iteration of a million frames; as many metrics as swiss_cheese has
ROUNDS, UPDATES, DECISIONS = 9, 10, 100


@dataclass(frozen=True)
class Arm:
    """One of the four arms of the sweep."""

    name: str
    layer_norm: bool
    l2: bool


ARMS = (Arm("none", False, False), Arm("L2", False, True), Arm("layer norm", True, False), Arm("both", True, True))


def network(layer_norm: bool) -> nn.Module:
    """dqn_zoo's torso and head."""
    convolutions = ((STACK, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
    layers: list[nn.Module] = []
    side = SIDE
    for inputs, outputs, kernel, stride in convolutions:
        side = (side - kernel) // stride + 1
        layers.append(nn.Conv2d(inputs, outputs, kernel, stride))
        layers += [nn.LayerNorm([outputs, side, side])] if layer_norm else []
        layers.append(nn.ReLU())
    layers += [nn.Flatten(), nn.Linear(64 * side * side, 512)]
    layers += [nn.LayerNorm(512)] if layer_norm else []
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(512, ACTIONS))


class Replay:
    """Single frames, from which stacked states are gathered by index."""

    def __init__(self, device: str):
        self.frames = torch.randint(256, (REPLAY, SIDE, SIDE), dtype=torch.uint8, device=device)
        self.device = device

    def sample(self) -> tuple[Tensor, ...]:
        """States, actions, rewards, discounts and next states of a batch."""
        at = torch.randint(REPLAY - STACK - 1, (BATCH, 1), device=self.device) + torch.arange(STACK, device=self.device)
        action = torch.randint(ACTIONS, (BATCH, 1), device=self.device)
        reward = torch.randn(BATCH, device=self.device).sign()
        return self.frames[at], action, reward, torch.full_like(reward, 0.99), self.frames[at + 1]


def updates(arm: Arm, replay: Replay) -> Callable[[], None]:
    """A function that does one update."""
    online, target = network(arm.layer_norm).to(replay.device), network(arm.layer_norm).to(replay.device)
    parameters = list(online.parameters())
    params = {str(place): p.detach() for place, p in enumerate(parameters)}
    optimizer = RMSProp(2.5e-4, alpha=0.95, eps=0.0, eps_root=0.01 / 32**2, centered=True)
    moments = optimizer.init(params)

    def update() -> None:
        x, action, reward, discount, x_next = replay.sample()
        with torch.no_grad():
            best = online(x_next / 255.0).argmax(1, keepdim=True)
            goal = reward + discount * target(x_next / 255.0).gather(1, best)[:, 0]
        error = F.huber_loss(online(x / 255.0).gather(1, action)[:, 0], goal)
        grads = torch.autograd.grad(error, parameters)
        if arm.l2:  # the gradient of the penalty, in closed form
            torch._foreach_add_(grads, list(params.values()), alpha=2 * L2)
        optimizer.update(params, dict(zip(params, grads, strict=True)), moments)

    return update


def decisions(arm: Arm, replay: Replay) -> Callable[[], None]:
    """A function that chooses one action."""
    online = network(arm.layer_norm).to(replay.device)

    def decide() -> None:
        with torch.inference_mode():
            online(replay.frames[None, :STACK] / 255.0).argmax(1).item()

    return decide


def seconds(step: Callable[[], None], repeats: int, device: str) -> float:
    """Of one call, over `repeats` of them: of the processor's time, or on a GPU of the clock's."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    for _ in range(repeats):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def stored() -> int:
    """Bytes of a run's files, with numbers that cannot be compressed: more than a real run of this size has."""
    experiment = find("lyle2024/swiss_cheese")
    generator = np.random.default_rng(0)
    table = {f"{column}": generator.normal(size=ROWS) for column in range(COLUMNS)}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), experiment, "paper", experiment.tiers["paper"])
        store.write("none", {0: table}, {"mode": "single", "threads": 1, "total_seconds": 1.0, "commit": ""})
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    measure(given.device, given.rounds)


def measure(device: str, rounds: int) -> None:
    """Measures updates and decisions of all arms, and prints what they come to."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    replay = Replay(device)
    steps = [(updates(arm, replay), decisions(arm, replay)) for arm in ARMS]
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in ARMS]
    for number in range(rounds + 1):  # the arms in turn, so that they share what else the machine does
        for (update, decide), (u, d) in zip(steps, found, strict=True):
            taken = seconds(update, UPDATES, device), seconds(decide, DECISIONS, device)
            if number > 0:  # the first warms up
                u.append(taken[0])
                d.append(taken[1])
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{device}, one thread, torch {torch.__version__}, load {load}")
    report(found)


def report(found: list[tuple[list[float], list[float]]]) -> None:
    """Prints what the measured seconds of updates and decisions come to, arm by arm."""
    trained, chosen = FRAMES / SKIP / PERIOD, FRAMES / SKIP * (1 + EVALUATION)
    print(f"a run: {trained / 1e6:.1f} million updates, {chosen / 1e6:.0f} million decisions (a third are evaluation)")
    print(f"medians of {len(found[0][0])} rounds (the fastest):")
    print(f"{'arm':<12}{'update, ms':>18}{'decision, ms':>18}{'hours a run':>14}{'hours, all':>13}")
    total = 0.0
    for arm, (u, d) in zip(ARMS, found, strict=True):
        hours = (trained * statistics.median(u) + chosen * statistics.median(d)) / 3600
        total += GAMES * SEEDS * hours
        cells = [f"{1e3 * statistics.median(one):.2f} ({1e3 * min(one):.2f})" for one in (u, d)]
        print(f"{arm.name:<12}{cells[0]:>18}{cells[1]:>18}{hours:>14.0f}{GAMES * SEEDS * hours:>13,.0f}")
    runs, frames = GAMES * SEEDS * len(ARMS), FRAMES * (1 + EVALUATION)
    print(f"{runs:,} runs: {total:,.0f} hours ({total / 8766:.1f} years), without the emulator")
    print(f"each millisecond that the emulator takes a frame: {runs * frames * 1e-3 / 3600:,.0f} hours more")
    held = sum(p.numel() for p in network(True).parameters())
    arrays, pixels = 4 * 4 * held / 2**20, REPLAY * SIDE * SIDE / 2**20  # online, target and two moments, in float32
    print(f"{held:,} parameters; a checkpoint: {arrays:.0f} MiB, and {pixels:.0f} MiB of replay")
    kept = stored()
    print(f"stored: {kept:,} bytes a run of {ROWS} rows and {COLUMNS} columns, {runs * kept / 2**20:,.0f} MiB for all")


if __name__ == "__main__":
    main()
