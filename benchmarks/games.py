"""Is a population of agents in MinAtar faster than an agent a process? Processor time a frame and agent, in turns.

Five double-DQN agents of toolbox/minatar as one population (`QLearning`), and one agent in plain PyTorch: the same
network, loss, optimizer, batch, replay size, update every two frames, emulator and thread. On two cores, five plain
processes and two populations both keep all cores busy: the ratio of the times a frame and agent is what is gained.
Needs `pip install 'pliant[minatar]'`.

    python benchmarks/games.py [--game breakout] [--layer-norm]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pliant.papers.toolbox.minatar import Settings, name, setup
from pliant.rl import MinAtar
from pliant.trials import QLearning

SEEDS, FRAMES, ROUNDS = 5, 200, 7


class Plain:
    """One agent, as one would write it."""

    def __init__(self, game: str, settings: Settings, layer_norm: bool):
        self.emulator = MinAtar(game).emulator(100)
        channels, *_ = self.emulator.shape
        normal = [nn.LayerNorm((settings.channels, 10, 10)), nn.LayerNorm(settings.hidden)] if layer_norm else []
        first, second = [[one] for one in normal] or [[], []]

        def network() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(channels, settings.channels, 3, padding=1), *first, nn.ReLU(), nn.Flatten(),
                nn.Linear(settings.channels * 100, settings.hidden), *second, nn.ReLU(), nn.Linear(settings.hidden, 6),
            )  # fmt: skip

        self.online, self.target = network(), network()
        self.optimizer = torch.optim.Adam(self.online.parameters(), settings.lr, eps=0.01 / 32, fused=True)
        room, self.settings = settings.capacity, settings
        self.states = torch.zeros(room, *self.emulator.shape, dtype=torch.uint8)
        self.following = torch.zeros_like(self.states)
        self.action, self.reward = torch.zeros(room, dtype=torch.int64), torch.zeros(room)
        self.discount = torch.zeros(room)
        self.count = self.time = self.episode = 0
        self.generator = np.random.default_rng(0)
        self.seen = torch.from_numpy(self.emulator.begin(0))

    def frame(self, learn: bool) -> None:
        with torch.inference_mode():
            action = int(self.online(self.seen[None].float()).argmax())
        if self.generator.random() < self.settings.epsilon:
            action = int(self.generator.integers(6))
        frame = self.emulator.frame(action)
        following, at = torch.from_numpy(frame.observation), self.count % len(self.action)
        self.states[at], self.following[at] = self.seen, following
        self.action[at], self.reward[at], self.discount[at] = action, frame.reward, 0.99 * frame.discount
        self.count, self.seen = self.count + 1, following
        if frame.last:
            self.episode += 1
            self.seen = torch.from_numpy(self.emulator.begin(self.episode))
        self.time += 1
        if learn and self.time % self.settings.learn_period == 0:
            self.update()
        if self.time % self.settings.target_period == 0:
            self.target.load_state_dict(self.online.state_dict())

    def update(self) -> None:
        rows = torch.from_numpy(self.generator.integers(0, min(self.count, len(self.action)), self.settings.batch_size))
        x, following = self.states[rows].float(), self.following[rows].float()
        with torch.no_grad():
            best = self.online(following).argmax(1, keepdim=True)
            goal = self.reward[rows] + self.discount[rows] * self.target(following).gather(1, best)[:, 0]
        loss = F.huber_loss(self.online(x).gather(1, self.action[rows, None])[:, 0], goal)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def population(game: str, settings: Settings, layer_norm: bool) -> Callable[[], None]:
    """A function that plays a frame of all five games."""
    arm = name(game, "double_dqn", "layer_norm" if layer_norm else "none")
    trial = setup(settings).arms[arm].trial
    assert isinstance(trial, QLearning)
    run = replace(trial.soon(), num_steps=1_000_000).start(range(100, 100 + SEEDS))
    rows = iter(run.rows)
    while run.state.step < 1000:
        next(rows)
    print(f"a population of {SEEDS}, {run.populations[0].mode}")
    return lambda: next(rows) and None


def milliseconds(frame: Callable[[], None]) -> float:
    """Of the processor, a frame."""
    start = time.process_time()
    for _ in range(FRAMES):
        frame()
    return 1e3 * (time.process_time() - start) / FRAMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--layer-norm", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(games=(given.game,), agents=("double_dqn",))
    ours = population(given.game, settings, given.layer_norm)
    plain = Plain(given.game, settings, given.layer_norm)
    for _ in range(1000):
        plain.frame(learn=plain.count > 100)
    found: list[tuple[float, float]] = []
    for _ in range(given.rounds):
        found.append((milliseconds(ours) / SEEDS, milliseconds(lambda: plain.frame(learn=True))))
    us, they = (statistics.median(column) for column in zip(*found, strict=True))
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{given.game}, one thread, torch {torch.__version__}, load {load}, medians of {len(found)} rounds")
    print(f"a frame and agent: population {us:.2f} ms, plain {they:.2f} ms: {they / us:.2f} times as fast")
    print(f"frames a second of one core: {1e3 / us:.0f} against {1e3 / they:.0f}")


if __name__ == "__main__":
    main()
