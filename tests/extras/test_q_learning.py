"""One update of `QLearning` beside that of Stable-Baselines3's DQN, on transitions of which some end an episode."""

# pyright: reportMissingImports=false
from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from torch import nn

from pliant.interventions.base import write
from pliant.nets import MLP
from pliant.optim import Adam
from pliant.rl import Experience, Frame
from pliant.trials import QLearning

GAMMA, LR = 0.97, 1e-3


@dataclass(frozen=True)
class Poles:
    """Of the shape of CartPole; nothing is played."""

    limit: int = 10

    def emulator(self, seed: int) -> Any:
        return Still()


class Still:
    shape, scale, num_actions, num_controls = (4,), 1.0, 2, 0

    def begin(self, episode: int) -> np.ndarray:
        return np.zeros(4, np.float32)

    def frame(self, action: int) -> Frame:
        return Frame(np.zeros(4, np.float32))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_update_with_ends_of_episodes_equals_that_of_stable_baselines3() -> None:
    """In float64: Huber loss, Adam, a target network of other parameters. Our loss is twice a Huber loss, so that our
    epsilon of Adam is twice theirs."""
    agent = DQN(
        "MlpPolicy", "CartPole-v1", learning_rate=LR, gamma=GAMMA, batch_size=64, buffer_size=1000, seed=0,
        max_grad_norm=1e9, policy_kwargs={"net_arch": [16, 16], "activation_fn": nn.ReLU}, learning_starts=300,
        train_freq=1, target_update_interval=10_000,
    )  # fmt: skip
    agent.learn(300)
    agent.policy.double()
    with torch.no_grad():
        for p in agent.q_net_target.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    batch = agent.replay_buffer.sample(64)
    x, following = batch.observations.double(), batch.next_observations.double()
    reward, done = batch.rewards[:, 0].double(), batch.dones[:, 0].double()
    assert 0 < done.sum() < 64
    trial = QLearning(
        Poles(), partial(MLP, hidden=(16, 16)), Adam(LR, eps=2e-8), num_steps=10, begin=5, double=False, gamma=GAMMA,
        batch_size=64,
    )  # fmt: skip
    run = trial.start([0], dtype=torch.float64)
    (population,), state = run.populations, run.state
    names = list(state.learner.params)

    def theirs(net: Any) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone()[None] for name, p in zip(names, net.q_net.parameters(), strict=True)}

    write(state.learner.params, theirs(agent.q_net))
    write(state.target, theirs(agent.q_net_target))
    before = {name: p.clone() for name, p in state.learner.params.items()}
    drawn = Experience(
        x[None], batch.actions[:, 0].long()[None], reward[None], GAMMA * (1 - done)[None], following[None], np.zeros(1)
    )
    population.step(state.learner, *trial._batch(population, state, drawn, 1.0))

    agent.replay_buffer.sample = lambda *args, **kwargs: batch._replace(  # type: ignore[method-assign]
        observations=x, next_observations=following, rewards=reward[:, None], dones=done[:, None]
    )
    agent.policy.optimizer = torch.optim.Adam(agent.q_net.parameters(), LR, eps=1e-8)
    for net in (agent.q_net, agent.q_net_target):
        net.features_extractor = nn.Identity()
        net.extract_features = lambda observations, extractor: observations
    agent.train(gradient_steps=1, batch_size=64)
    for (name, p), other in zip(state.learner.params.items(), agent.q_net.q_net.parameters(), strict=True):
        torch.testing.assert_close(p[0], other.detach(), atol=1e-12, rtol=1e-10, msg=name)
        assert (p - before[name]).abs().max() > 0.5 * LR
