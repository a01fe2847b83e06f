"""How fast do agents on the classification MDPs learn? Ratios measured in one run; each figure the median over rounds.

- environment steps a second with a random policy, a population of 64, on one core;
- optimizer steps of a population of DQN agents against those of the same networks in supervised training;
- against one plain PyTorch DQN loop a core: same network, batch and replay;
- with Stable-Baselines3 installed, against its DQN on the Gymnasium environment, as many updates an environment step.

    python benchmarks/mdp.py
"""

from __future__ import annotations

import copy
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from pliant.data import load
from pliant.functional.draws import draw
from pliant.nets import MLP
from pliant.network import Network
from pliant.optim import Adam
from pliant.population import Member, Population
from pliant.rl import TrueLabel
from pliant.rl.mdp import NUM_DRAWS
from pliant.trials import ValueLearning

DATA, IMAGES, HIDDEN, BATCH, MEMBERS, STEPS, ROUNDS = "mnist", 1000, (128, 128), 128, 8, 300, 5
GOALS = {"environment": 1e6, "supervised": 0.55, "plain": 1.5, "sb3": 3.0}


def environment() -> float:
    """Environment steps a second of a random policy."""
    members, envs, steps = 64, 1, 2000
    world = TrueLabel(IMAGES).bind(load(DATA), list(range(members)))
    numbers = torch.from_numpy(draw(0, "benchmark").random((steps, members, envs, NUM_DRAWS + 1)))
    image = world.begin(numbers[0])
    start = time.perf_counter()
    for each in numbers:
        _, image = world.step(image, (each[..., -1] * world.num_states).long(), each)
    return steps * members * envs / (time.perf_counter() - start)


def agent(members: int, steps: int = STEPS) -> Callable[[], float]:
    """A function that takes steps of a population of agents and returns member-steps a second."""
    trial = ValueLearning(
        TrueLabel(IMAGES), DATA, partial(MLP, hidden=HIDDEN), Adam(1e-3), 10**9, batch_size=BATCH, target_period=1000,
        together=members,
    )  # fmt: skip
    rows = trial.start(list(range(members))).rows
    next(rows)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            next(rows)
        return steps * members / (time.perf_counter() - start)

    return run


def supervised(members: int) -> Callable[[], float]:
    """The same of a population that learns ten numbers of each image, on the same batches again and again."""
    everyone = [Member(seed, Adam(1e-3)) for seed in range(members)]
    population = Population(Network(MLP((1, 28, 28), 10, HIDDEN)), F.mse_loss, everyone, compile=True)
    state, x, y = population.init(), torch.randn(members, BATCH, 1, 28, 28), torch.randn(members, BATCH, 10)
    population.step(state, x, y)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            population.step(state, x, y)
        return STEPS * members / (time.perf_counter() - start)

    return run


def plain() -> Callable[[], float]:
    """One DQN agent in plain PyTorch: an environment step and an update a step, images as bytes in the replay."""
    torch.manual_seed(0)
    data, rng = load(DATA), np.random.default_rng(0)
    images = torch.from_numpy(np.array(data.x_train[:IMAGES]))
    labels = torch.from_numpy(np.array(data.y_train[:IMAGES]))
    net = MLP((1, 28, 28), 10, HIDDEN)
    target, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    replay = torch.zeros(4, 100_000, dtype=torch.long)
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
        replay[:, filled % 100_000] = torch.tensor([seen, action, int(action == int(labels[seen])), following])
        filled, seen, taken = filled + 1, following, taken + 1
        x, actions, reward, after = replay[:, torch.from_numpy(rng.integers(0, min(filled, 100_000), BATCH))]
        with torch.no_grad():
            goal = reward + 0.99 * target(data.standardize(images[after])).max(1).values
        loss = F.mse_loss(net(data.standardize(images[x])).gather(1, actions[:, None])[:, 0], goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def run() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        return STEPS / (time.perf_counter() - start)

    step()
    return run


def sb3(seed: int, steps: int, queue: Any) -> None:
    """Trains one agent of Stable-Baselines3 and hands over the seconds of its updates."""
    import gymnasium  # type: ignore[import-not-found]
    from stable_baselines3 import DQN  # type: ignore[import-not-found]

    from pliant.integrations.environments import ClassificationEnv

    torch.set_num_threads(1)
    env = gymnasium.wrappers.FlattenObservation(ClassificationEnv(TrueLabel(IMAGES), DATA, seed))
    made = DQN(
        "MlpPolicy", env, batch_size=BATCH, buffer_size=10_000, learning_starts=1000, train_freq=1, gradient_steps=1,
        target_update_interval=1000, policy_kwargs={"net_arch": list(HIDDEN)}, seed=seed, verbose=0,
    )  # fmt: skip
    made.learn(1001)
    start = time.perf_counter()
    made.learn(steps, reset_num_timesteps=False)
    queue.put(steps / (time.perf_counter() - start))


def together(make: Callable[[], Callable[[], float]], barrier: Any, queue: Any) -> None:
    """The median rate of one process, all of them in step."""
    torch.set_num_threads(1)
    run, found = make(), []
    run()
    for _ in range(ROUNDS):
        barrier.wait()
        found.append(run())
    queue.put(statistics.median(found))


def on_all_cores(make: Callable[[], Callable[[], float]], cores: int) -> float:
    """The sum of the rates of a process a core."""
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(cores)
    processes = [context.Process(target=together, args=(make, barrier, queue)) for _ in range(cores)]
    for process in processes:
        process.start()
    total = sum(queue.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def sb3_on_all_cores(seeds: int, cores: int, steps: int = 1000) -> float:
    """Agent-steps a second of Stable-Baselines3: `seeds` agents, as many at once as cores."""
    context, busy = multiprocessing.get_context("spawn"), 0.0
    for first in range(0, seeds, cores):
        queue = context.Queue()
        some = [context.Process(target=sb3, args=(s, steps, queue)) for s in range(first, min(first + cores, seeds))]
        for process in some:
            process.start()
        found = [queue.get() for _ in some]
        busy += steps / min(found)
        for process in some:
            process.join()
    return seeds * steps / busy


def main() -> None:
    torch.set_num_threads(1)
    cores = multiprocessing.cpu_count()
    steps = statistics.median(environment() for _ in range(ROUNDS))
    print(f"environment steps a second, one core: {steps:,.0f} (goal {GOALS['environment']:,.0f})")
    run, reference = agent(MEMBERS), supervised(MEMBERS)
    run()
    reference()
    ratios = [run() / reference() for _ in range(ROUNDS)]
    print(f"agents against supervised training: {statistics.median(ratios):.2f} (goal {GOALS['supervised']})")
    ours, theirs = on_all_cores(partial(agent, MEMBERS), cores), on_all_cores(plain, cores)
    print(
        f"against plain PyTorch, {cores} cores: {ours / theirs:.2f} (goal {GOALS['plain']}); {ours:,.0f} agent-steps/s"
    )
    try:
        import stable_baselines3  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("against Stable-Baselines3: not installed (pip install 'pliant[sb3]')")
        return
    ours = on_all_cores(partial(agent, 8 // cores), cores)
    print(f"against Stable-Baselines3, 8 seeds: {ours / sb3_on_all_cores(8, cores):.2f} (goal {GOALS['sb3']})")


if __name__ == "__main__":
    main()
