"""How fast do agents in Atari's games learn? Ratios measured in one run, one thread, the sides in turns.

Each library in a process of its own; pliant's keeps the memory that it frees, as the workers of a run do.
A step is a decision: four frames of the emulator, and every fourth time an update on 32 transitions. All play the same
game in the same emulator, Nature's network, Huber loss, Adam, float32:

- pliant's DQN, with gradients clipped as Stable-Baselines3 clips them, against Stable-Baselines3's DQN, which has no
  double DQN; double DQN, which computes one more forward pass an update, against the same;
- pliant's DQN, without clipping as in CleanRL's, against a plain loop of ours that stands in for CleanRL's: one agent,
  its networks, stacks of frames in a replay of arrays, torch's Adam. CleanRL itself is not run: its own code wants
  packages of older versions.
- the same double DQN with channels last, and in bfloat16 as well (`pliant.nets.Cast`): other numbers, faster.

And the share of a Rainbow step that drawing by priority takes: the sums, and a step with it against one without.
Needs `pip install 'pliant[atari,sb3]'`.

    python benchmarks/atari.py [--rounds 7] [--game pong] [--only rainbow]
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from turns import Found, Side, apart, heading, line, ms, options, ratio, turns

from pliant.heads import Scalar
from pliant.interventions import Chain
from pliant.nets import Cast, Nature
from pliant.optim import Adam, Clipped
from pliant.papers.emulators import Emulated
from pliant.rl import Atari, Emulator, Priorities
from pliant.run.memory import keep_freed
from pliant.trials import QLearning
from pliant.trials.building import Net

LR, CLIP, EPSILON, GAMMA, BATCH, PERIOD = 1e-4, 10.0, 0.05, 0.99, 32, 4  # PERIOD: decisions an update
REPEAT, STACK, CAPACITY, TARGET, MINIMUM = 4, 4, 4000, 10_000, 100  # TARGET, MINIMUM: in decisions
DECISIONS = 100  # a turn


def pliant(game: str, clipped: bool = True, double: bool = False, net: Net = Nature) -> Side:
    """Decisions of pliant's agent."""
    adam = Adam(LR)
    trial = QLearning(
        Atari(game), net, Clipped(adam, CLIP) if clipped else adam, 10**9, head=Scalar(clip=1.0), double=double,
        gamma=GAMMA, begin=REPEAT * MINIMUM, epsilon=EPSILON, decay=1, batch_size=BATCH, learn_period=REPEAT * PERIOD,
        target_period=REPEAT * TARGET, capacity=CAPACITY, stack=STACK, clip=1.0,
    )  # fmt: skip
    return frames(trial)


def frames(trial: QLearning) -> Side:
    """Decisions of an agent that has begun to learn."""
    run = trial.start([0])
    rows = iter(run.rows)
    while run.state.step <= trial.begin + REPEAT * PERIOD:
        next(rows)
    return Side(lambda: [next(rows) for _ in range(REPEAT * DECISIONS)], DECISIONS)


class Game:
    """The emulator for whoever takes stacks: of the latest frames, the oldest first, and zeros behind at the start."""

    def __init__(self, game: str):
        self.emulator: Emulator = Atari(game).emulator(0)
        self.shape, self.actions = (STACK, *self.emulator.shape[1:]), self.emulator.num_actions
        self.stack, self.episode, self.seen = np.zeros(self.shape, np.uint8), -1, 0

    def begin(self) -> np.ndarray:
        self.episode, self.seen = self.episode + 1, 1
        self.stack = np.zeros(self.shape, np.uint8)
        self.stack[0] = self.emulator.begin(self.episode)[0]
        return self.stack

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """The next stack, the reward clipped, and whether the episode is over."""
        frame = self.emulator.frame(action)
        while frame.observation is None:
            frame = self.emulator.frame(action)
        if self.seen < STACK:
            self.stack = self.stack.copy()
            self.stack[self.seen] = frame.observation[0]
        else:
            self.stack = np.concatenate([self.stack[1:], frame.observation])
        self.seen += 1
        return self.stack, float(np.clip(frame.reward, -1, 1)), frame.last


def plain(game: str) -> Side:
    """Decisions of an agent in plain PyTorch, written as CleanRL writes its agents: all in one loop."""
    world, rng = Game(game), np.random.default_rng(0)
    online = Nature(world.shape, world.actions)
    target, optimizer = copy.deepcopy(online), torch.optim.Adam(online.parameters(), LR)
    states, following = (np.zeros((CAPACITY, *world.shape), np.uint8) for _ in range(2))
    actions, rewards, dones = (np.zeros(CAPACITY, kind) for kind in (np.int64, np.float32, np.float32))

    def decisions() -> Iterator[None]:
        seen, step = world.begin(), 0
        while True:
            if rng.random() < EPSILON:
                action = int(rng.integers(world.actions))
            else:
                action = int(online(torch.from_numpy(seen)[None] / 255.0).argmax(1))
            after, reward, over = world.step(action)
            at = step % CAPACITY
            states[at], following[at], actions[at], rewards[at], dones[at] = seen, after, action, reward, over
            seen, step = world.begin() if over else after, step + 1
            if step > MINIMUM:
                if step % PERIOD == 0:
                    rows = rng.integers(0, min(step, CAPACITY), BATCH)
                    with torch.no_grad():
                        best = target(torch.from_numpy(following[rows]) / 255.0).max(1).values
                        goal = torch.from_numpy(rewards[rows]) + GAMMA * best * (1 - torch.from_numpy(dones[rows]))
                    values = online(torch.from_numpy(states[rows]) / 255.0)
                    taken = values.gather(1, torch.from_numpy(actions[rows])[:, None])[:, 0]
                    loss = F.smooth_l1_loss(taken, goal)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                if step % TARGET == 0:
                    target.load_state_dict(online.state_dict())
            yield

    made = decisions()
    for _ in range(MINIMUM + PERIOD):
        next(made)
    return Side(lambda: [next(made) for _ in range(DECISIONS)], DECISIONS)


def sb3(game: str) -> Side:
    """Decisions of Stable-Baselines3's agent."""
    import gymnasium  # pyright: ignore[reportMissingImports]
    from stable_baselines3 import DQN  # pyright: ignore[reportMissingImports]

    class Shown(gymnasium.Env):
        def __init__(self) -> None:
            self.world = Game(game)
            self.observation_space = gymnasium.spaces.Box(0, 255, self.world.shape, np.uint8)
            self.action_space = gymnasium.spaces.Discrete(self.world.actions)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
            return self.world.begin(), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            return *self.world.step(int(action)), False, {}

    made = DQN(
        "CnnPolicy", Shown(), learning_rate=LR, buffer_size=CAPACITY, learning_starts=MINIMUM, batch_size=BATCH,
        train_freq=PERIOD, gradient_steps=1, target_update_interval=TARGET, exploration_initial_eps=EPSILON,
        exploration_final_eps=EPSILON, max_grad_norm=CLIP, gamma=GAMMA, seed=0, verbose=0,
    )  # fmt: skip
    made.learn(MINIMUM + PERIOD)
    return Side(lambda: made.learn(DECISIONS, reset_num_timesteps=False), DECISIONS)


def ours(game: str) -> dict[str, Side]:
    """pliant's agents."""
    torch.manual_seed(0)
    fast: Callable[..., Net] = partial(partial, Cast, net=Nature, channels_last=True)
    return {
        "pliant": pliant(game),
        "pliant, not clipped": pliant(game, clipped=False),
        "double": pliant(game, double=True),
        "double, channels last": pliant(game, double=True, net=fast()),
        "double, channels last, bfloat16": pliant(game, double=True, net=fast(bfloat16=True)),
    }


def theirs(game: str) -> dict[str, Side]:
    """The other agents."""
    torch.manual_seed(0)
    return {"sb3": sb3(game), "plain": plain(game)}


def rainbow(game: str) -> dict[str, Side]:
    """Rainbow's decisions with transitions drawn by priority and uniformly, and the time that the sums take of them."""
    settings = Emulated(games=(game,), minimum=MINIMUM, evaluation=0, capacity=CAPACITY)
    trial = replace(settings.trial(game, "rainbow", Chain()).soon(), num_steps=10**9)
    return {"prioritised": frames(trial), "uniform": frames(replace(trial, prioritised=None))}


def sums(side: Side, rounds: int) -> float:
    """The share of a side's time in the methods of `Priorities`."""
    spent, depth = 0.0, 0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal spent, depth
            depth, start = depth + 1, time.process_time()
            try:
                return method(*args)
            finally:
                depth -= 1
                spent += 0.0 if depth else time.process_time() - start

        return call

    kept = {name: getattr(Priorities, name) for name in ("sample", "set", "follow")}
    shares = []
    try:
        for name, method in kept.items():
            setattr(Priorities, name, timed(method))
        for _ in range(rounds):
            spent, start = 0.0, time.process_time()
            side.run()
            shares.append(spent / (time.process_time() - start))
    finally:
        for name, method in kept.items():
            setattr(Priorities, name, method)
    return statistics.median(shares)


def main() -> None:
    parser = options(__doc__, 7)
    parser.add_argument("--game", default="pong")
    parser.add_argument("--only", choices=("dqn", "rainbow"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()
    found: Found = {}
    print(heading(given.rounds))
    print(f"{f'{given.game}, Nature network, batch 32, an update in 4 decisions':<62}{'measured':>12}{'goal':>12}")
    if given.only != "rainbow":
        found |= apart([(partial(ours, given.game), True), (partial(theirs, given.game), False)], given.rounds)
        print(line("DQN / Stable-Baselines3's", ratio(found, "sb3", "pliant"), 1.4))
        print(line("double DQN / Stable-Baselines3's DQN", ratio(found, "sb3", "double"), 1.4))
        print(line("DQN / a plain loop in place of CleanRL's", ratio(found, "plain", "pliant, not clipped"), 1.0))
        for name in ("double, channels last", "double, channels last, bfloat16"):
            print(f"{f'{name} / double':<62}{ratio(found, 'double', name):>12.3g}")
    if given.only != "dqn":
        both = rainbow(given.game)
        found |= turns(both, given.rounds)
        share = sums(both["prioritised"], given.rounds)
        print(line("prioritised replay, share of a Rainbow step", share, 0.03, at_most=True))
        print(f"{'a step with it / one without':<62}{ratio(found, 'prioritised', 'uniform'):>12.3g}")
    print("ms a decision: " + ", ".join(f"{name} {ms(found, name):.2f}" for name in found))


if __name__ == "__main__":
    main()
