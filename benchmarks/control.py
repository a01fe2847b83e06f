"""How fast does soft actor-critic learn? Against Stable-Baselines3's, one agent each, one thread, in turns.

Networks of three hidden layers of 256 units, batch 256, an update a step, float32, the same numbers; 17 numbers are
observed and 6 control, as in the cheetah of DeepMind Control. The body shows random numbers, so that updates are what
takes time; each agent in a process of its own, and pliant's keeps the memory that it frees, as the workers of a run do.
Needs `pip install 'pliant[sb3]'`.

    python benchmarks/control.py [--rounds 7]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium  # pyright: ignore[reportMissingImports]
import numpy as np
from stable_baselines3 import SAC as Theirs  # pyright: ignore[reportMissingImports]
from turns import Side, apart, heading, line, ms, options, ratio

from pliant.rl import Frame
from pliant.trials import SAC

FEATURES, CONTROLS, STEPS, BEGIN, CAPACITY, UNITS = 17, 6, 1000, 300, 10_000, (256, 256, 256)
UPDATES = 30  # a turn


@dataclass(frozen=True)
class Noise:
    """A body that shows random numbers, whatever it is told."""

    limit: int = STEPS

    def emulator(self, seed: int) -> Shown:
        return Shown(seed)


class Shown:
    """It, under way."""

    shape, scale, num_actions, num_controls = (FEATURES,), 1.0, 0, CONTROLS

    def __init__(self, seed: int):
        self.seen = np.random.default_rng(seed).standard_normal((STEPS, FEATURES)).astype(np.float32)
        self.taken = 0

    def begin(self, episode: int) -> np.ndarray:
        self.taken = 0
        return self.seen[0]

    def frame(self, action: Any) -> Frame:
        self.taken += 1
        return Frame(self.seen[self.taken], float(action[0]), last=self.taken == STEPS - 1)


class Body(gymnasium.Env):
    """The same, as Stable-Baselines3 takes it."""

    def __init__(self) -> None:
        self.body = Shown(0)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (CONTROLS,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        return self.body.begin(0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        frame = self.body.frame(action)
        assert frame.observation is not None
        return frame.observation, frame.reward, False, frame.last, {}


def ours() -> dict[str, Side]:
    """Steps of pliant's agent, an update each."""
    run = SAC(Noise(), num_steps=10**9, begin=BEGIN, capacity=CAPACITY).start([0])
    rows = iter(run.rows)
    while run.state.step <= BEGIN:
        next(rows)
    return {"ours": Side(lambda: [next(rows) for _ in range(UPDATES)], UPDATES)}


def theirs() -> dict[str, Side]:
    """Steps of theirs."""
    made = Theirs(
        "MlpPolicy", Body(), learning_rate=3e-4, buffer_size=CAPACITY, learning_starts=BEGIN, batch_size=256, tau=0.005,
        gamma=0.99, train_freq=1, gradient_steps=1, policy_kwargs={"net_arch": list(UNITS)}, seed=0, verbose=0,
    )  # fmt: skip
    made.learn(BEGIN + 1)
    return {"theirs": Side(lambda: made.learn(UPDATES, reset_num_timesteps=False), UPDATES)}


def main() -> None:
    given = options(__doc__, 7).parse_args()
    found = apart([(ours, True), (theirs, False)], given.rounds)
    print(heading(given.rounds))
    print(f"{'soft actor-critic, 3 x 256, batch 256':<62}{'measured':>12}{'goal':>12}")
    print(line("updates a second / those of Stable-Baselines3", ratio(found, "theirs", "ours"), 1.2))
    print("ms of a step with its update: " + ", ".join(f"{name} {ms(found, name):.2f}" for name in found))


if __name__ == "__main__":
    main()
