"""The classification MDPs as Gymnasium environments, for the agents of other libraries; needs `gymnasium`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium  # pyright: ignore[reportMissingImports]
import numpy as np
import torch

from pliant.data import load
from pliant.rl import ClassificationMDP
from pliant.rl.mdp import NUM_DRAWS


class ClassificationEnv(gymnasium.Env):
    """A classification MDP over the images of one seed; observations are the images as they are stored.

    `info["state"]` is the state that the observation shows. An episode never ends: whoever needs one wraps it in
    `gymnasium.wrappers.TimeLimit`.

    Args:
        mdp: which one.
        data: a data set's name, or the path of an .npz file.
        seed: of the images that it keeps, and of the states they show; `reset(seed=...)` is that of the transitions.

    >>> from pliant.rl import TrueLabel
    >>> env = ClassificationEnv(TrueLabel(100), "digits")
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, env.step(info["state"])[1]
    ((1, 8, 8), 1.0)
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, mdp: ClassificationMDP, data: str, seed: int = 0):
        images = load(data)
        self._world = mdp.bind(images, [seed])
        integer = images.x_train.dtype == np.uint8
        low, high = (0, 255) if integer else (-np.inf, np.inf)
        self.observation_space = gymnasium.spaces.Box(low, high, images.shape, images.x_train.dtype.type)
        self.action_space = gymnasium.spaces.Discrete(self._world.num_states)
        self._image = torch.zeros(1, 1, dtype=torch.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._image = self._world.begin(self._draws())
        return self._seen()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward, self._image = self._world.step(self._image, torch.tensor([[int(action)]]), self._draws())
        observation, info = self._seen()
        return observation, float(reward), False, False, info

    def _draws(self) -> torch.Tensor:
        return torch.from_numpy(self.np_random.random((1, 1, NUM_DRAWS)))

    def _seen(self) -> tuple[np.ndarray, dict]:
        return self._world.raw(self._image)[0, 0].numpy(), {"state": int(self._world.state(self._image))}
