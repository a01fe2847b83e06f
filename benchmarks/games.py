"""Is a population of agents in MinAtar faster than an agent a process? Processor time a frame and agent, in turns.

Five double-DQN agents of toolbox/minatar as one population (`QLearning`), and one agent in plain PyTorch: the same
network, loss, optimizer, batch, replay size, update every two frames, emulator and thread. On two cores, five plain
processes and two populations both keep all cores busy: the ratio of the times a frame and agent is what is gained. The
population keeps the memory that it frees, as the workers of a run do.
Needs `pip install 'pliant[minatar]'`.

    python benchmarks/games.py [--rounds 7] [--game breakout] [--layer-norm]
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from turns import Side, apart, heading, line, ms, options, ratio

from pliant.papers.toolbox.minatar import Settings, name, setup
from pliant.rl import MinAtar
from pliant.trials import QLearning

SEEDS, FRAMES = 5, 200


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


def population(game: str, layer_norm: bool) -> dict[str, Side]:
    """Frames of all five games."""
    settings = Settings(games=(game,), agents=("double_dqn",))
    arm = name(game, "double_dqn", "layer_norm" if layer_norm else "none")
    trial = setup(settings).arms[arm].trial
    assert isinstance(trial, QLearning)
    run = replace(trial.soon(), num_steps=1_000_000).start(range(100, 100 + SEEDS))
    rows = iter(run.rows)
    while run.state.step < 1000:
        next(rows)
    return {run.populations[0].mode: Side(lambda: [next(rows) for _ in range(FRAMES)], FRAMES * SEEDS)}


def one(game: str, layer_norm: bool) -> dict[str, Side]:
    """Frames of one agent in plain PyTorch."""
    agent = Plain(game, Settings(games=(game,), agents=("double_dqn",)), layer_norm)
    for _ in range(1000):
        agent.frame(learn=agent.count > 100)
    return {"plain": Side(lambda: [agent.frame(learn=True) for _ in range(FRAMES)], FRAMES)}


def main() -> None:
    parser = options(__doc__, 7)
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--layer-norm", action="store_true")
    given = parser.parse_args()
    settings = given.game, given.layer_norm
    found = apart([(partial(population, *settings), True), (partial(one, *settings), False)], given.rounds)
    (mode,) = found.keys() - {"plain"}
    print(heading(given.rounds))
    print(f"{f'five agents in MinAtar, {given.game}':<62}{'measured':>12}{'goal':>12}")
    print(line(f"frames, a population ({mode}) / one agent in plain PyTorch", ratio(found, "plain", mode), 1.4))
    print(f"ms a frame and agent: population {ms(found, mode):.2f}, plain {ms(found, 'plain'):.2f}")


if __name__ == "__main__":
    main()
