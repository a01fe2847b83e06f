"""How fast do agents on the classification MDPs learn? Ratios measured in one run, the sides in turns, on all cores.

- environment steps a second with a random policy, a population of 64, on one core;
- a population of eight DQN agents against eight networks of the same shape in supervised training;
- against a DQN loop in plain PyTorch, a process a core: same network, batch and replay;
- against Stable-Baselines3's DQN on the Gymnasium environment, eight seeds: as many updates an environment step, the
  share of a core as one population against one agent after the other, each in a process of its own, of which ours keeps
  the memory that it frees, as the workers of a run do (`pip install 'pliant[sb3]'`);
- the size of a replay.

    python benchmarks/mdp.py [--rounds 7]
"""

from __future__ import annotations

import copy
import importlib.util
import os
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F
from turns import Side, apart, heading, line, ms, on_every_core, options, ratio

from pliant.data import load
from pliant.functional.draws import draw
from pliant.nets import MLP
from pliant.network import Network
from pliant.optim import Adam
from pliant.population import Member, Population
from pliant.rl import Replay, TrueLabel
from pliant.rl.mdp import NUM_DRAWS
from pliant.trials import ValueLearning

DATA, IMAGES, HIDDEN, BATCH, MEMBERS, SEEDS = "mnist", 1000, (128, 128), 128, 8, 8
CAPACITY, STEPS = 100_000, 100  # transitions of a replay; optimizer steps a turn


def environment(members: int = 64, steps: int = 1000) -> Side:
    """Environment steps of a random policy."""
    world = TrueLabel(IMAGES).bind(load(DATA), list(range(members)))
    numbers = torch.from_numpy(draw(0, "benchmark").random((steps, members, 1, NUM_DRAWS + 1)))

    def run() -> None:
        image = world.begin(numbers[0])
        for each in numbers:
            _, image = world.step(image, (each[..., -1] * world.num_states).long(), each)

    return Side(run, steps * members)


def agents(members: int) -> Side:
    """Steps of a population of agents, each an environment step and an update."""
    trial = ValueLearning(
        TrueLabel(IMAGES), DATA, partial(MLP, hidden=HIDDEN), Adam(1e-3), 10**9, batch_size=BATCH, target_period=1000,
        capacity=CAPACITY, together=members,
    )  # fmt: skip
    rows = trial.start(list(range(members))).rows
    return Side(lambda: [next(rows) for _ in range(STEPS)], STEPS * members)


def supervised(members: int) -> Side:
    """Steps of as many networks that learn ten numbers of each image, on the same batches again and again."""
    everyone = [Member(seed, Adam(1e-3)) for seed in range(members)]
    population = Population(Network(MLP((1, 28, 28), 10, HIDDEN)), F.mse_loss, everyone, compile=True)
    state, x, y = population.init(), torch.randn(members, BATCH, 1, 28, 28), torch.randn(members, BATCH, 10)
    return Side(lambda: [population.step(state, x, y) for _ in range(STEPS)], STEPS * members)


def plain() -> Side:
    """Steps of one DQN agent in plain PyTorch, images as bytes and the replay as indices of them."""
    torch.manual_seed(0)
    data, rng = load(DATA), np.random.default_rng(0)
    images = torch.from_numpy(np.array(data.x_train[:IMAGES]))
    labels = torch.from_numpy(np.array(data.y_train[:IMAGES]))
    net = MLP((1, 28, 28), 10, HIDDEN)
    target, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    replay = torch.zeros(4, CAPACITY, dtype=torch.long)
    filled, seen = 1000, int(rng.integers(IMAGES))
    replay[0, :filled] = torch.from_numpy(rng.integers(0, IMAGES, filled))
    replay[3, :filled] = torch.from_numpy(rng.integers(0, IMAGES, filled))
    taken = 0

    def step() -> None:
        nonlocal filled, seen, taken
        if taken % 1000 == 0:
            target.load_state_dict(net.state_dict())
        with torch.no_grad():
            greedy = int(net(data.standardize(images[seen : seen + 1])).argmax())
        action = int(rng.integers(10)) if rng.random() < 0.1 else greedy
        following = int(rng.integers(IMAGES))
        replay[:, filled % CAPACITY] = torch.tensor([seen, action, int(action == int(labels[seen])), following])
        filled, seen, taken = filled + 1, following, taken + 1
        x, actions, reward, after = replay[:, torch.from_numpy(rng.integers(0, min(filled, CAPACITY), BATCH))]
        with torch.no_grad():
            goal = reward + 0.99 * target(data.standardize(images[after])).max(1).values
        loss = F.mse_loss(net(data.standardize(images[x])).gather(1, actions[:, None])[:, 0], goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Side(lambda: [step() for _ in range(STEPS)], STEPS)


def sb3() -> Side:
    """Steps of one agent of Stable-Baselines3, each an environment step and an update."""
    import gymnasium  # pyright: ignore[reportMissingImports]
    from stable_baselines3 import DQN  # pyright: ignore[reportMissingImports]

    from pliant.integrations.environments import ClassificationEnv

    env = gymnasium.wrappers.FlattenObservation(ClassificationEnv(TrueLabel(IMAGES), DATA))
    made = DQN(
        "MlpPolicy", env, batch_size=BATCH, buffer_size=CAPACITY, learning_starts=1000, train_freq=1, gradient_steps=1,
        target_update_interval=1000, policy_kwargs={"net_arch": list(HIDDEN)}, seed=0, verbose=0,
    )  # fmt: skip
    made.learn(1001)
    return Side(lambda: made.learn(STEPS, reset_num_timesteps=False), STEPS)


def there(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def sides() -> dict[str, Side]:
    """What is compared on every core at once."""
    return {
        "environment": environment(),
        "agents": agents(MEMBERS),
        "supervised": supervised(MEMBERS),
        "plain": plain(),
    }


def share() -> dict[str, Side]:
    """A core's share of the seeds, as one population."""
    return {"share": agents(max(1, SEEDS // len(os.sched_getaffinity(0))))}


def theirs() -> dict[str, Side]:
    """One agent of Stable-Baselines3."""
    return {"sb3": sb3()}


def main() -> None:
    parser = options(__doc__, 7)
    given = parser.parse_args()
    found = on_every_core(sides, given.rounds)
    if there("stable_baselines3"):
        found |= apart([(share, True), (theirs, False)], given.rounds)
    replay = Replay.empty(1, CAPACITY)
    held = sum(t.nbytes for t in vars(replay).values() if isinstance(t, torch.Tensor))
    print(heading(given.rounds, len(os.sched_getaffinity(0))))
    print(f"{'agents on a classification MDP, MLP 2 x 128, batch 128':<62}{'measured':>12}{'goal':>12}")
    print(line("environment steps a second, one core", 1e3 / ms(found, "environment"), 1e6))
    print(line("agent-steps / member-steps of supervised training", ratio(found, "supervised", "agents"), 0.55))
    print(line("agent-steps / those of plain PyTorch, a process a core", ratio(found, "plain", "agents"), 1.5))
    if "sb3" in found:
        print(line("agent-steps / those of Stable-Baselines3, 8 seeds", ratio(found, "sb3", "share"), 3.0))
    else:
        print("against Stable-Baselines3: not installed (pip install 'pliant[sb3]')")
    print(line("MB of a replay of 100,000 transitions", held / 1e6, 4.0, at_most=True))
    print("ms of a step: " + ", ".join(f"{name} {ms(found, name):.2f}" for name in found if name != "environment"))


if __name__ == "__main__":
    main()
