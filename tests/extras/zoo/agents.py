"""Agents of Stable-Baselines3, after they have learned for a while: their policies keep what they computed last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sb3_contrib import QRDQN, RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import DQN, PPO, SAC
from torch import nn

from pliant import Inputs
from tests.extras.zoo.network import Net


def small(**settings: Any) -> dict[str, Any]:
    return {"net_arch": [16, 16], "activation_fn": nn.ReLU, **settings}


ONCE: dict[str, Any] = {"seed": 0, "device": "cpu"}


def ppo() -> PPO:
    return PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=1, policy_kwargs=small(), **ONCE)


def recurrent_ppo() -> RecurrentPPO:
    settings = small(lstm_hidden_size=8)
    return RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=1, policy_kwargs=settings, **ONCE
    )


def dqn() -> DQN:
    return DQN("MlpPolicy", "CartPole-v1", learning_starts=40, batch_size=16, policy_kwargs=small(), **ONCE)


def qrdqn() -> QRDQN:
    settings = small(n_quantiles=5)
    return QRDQN("MlpPolicy", "CartPole-v1", learning_starts=40, batch_size=16, policy_kwargs=settings, **ONCE)


def sac() -> SAC:
    return SAC("MlpPolicy", "Pendulum-v1", learning_starts=40, batch_size=16, policy_kwargs=small(), **ONCE)


def observations(size: int) -> torch.Tensor:
    return torch.randn(12, size)


def certain(size: int) -> Callable[[], Inputs]:
    return lambda: Inputs((observations(size),), {"deterministic": True})


def network(agent: Callable[[], Any], part: Callable[[Any], nn.Module], inputs: Callable[[], Any], **known: Any) -> Net:
    """A network of an agent after `learn`; fresh ones are those of agents before it."""

    def learned() -> nn.Module:
        trained = agent()
        trained.learn(100)
        return part(trained)

    return Net(learned, inputs, fresh=lambda: part(agent()), dtype=torch.float32, **known)


class FromRest(nn.Module):
    """A recurrent policy whose memory is empty: its states have the samples along their second axis."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, x: torch.Tensor, deterministic: bool = False) -> tuple[torch.Tensor, ...]:
        empty = x.new_zeros(1, len(x), 8), x.new_zeros(1, len(x), 8)
        began = x.new_zeros(len(x))
        return self.policy(x, RNNStates(empty, empty), began, deterministic=deterministic)[:3]


NETWORKS = {
    "sb3-ppo": network(ppo, lambda agent: agent.policy, certain(4), units=(16, 16, 16, 16)),
    "sb3-dqn": network(dqn, lambda agent: agent.q_net, lambda: observations(4), units=(16, 16)),
    "sb3-sac-actor": network(sac, lambda agent: agent.actor, certain(3), units=(16, 16)),
    "sb3-sac-critic": network(
        sac, lambda agent: agent.critic, lambda: Inputs((observations(3), observations(1)), {}), units=(16, 16, 16, 16)
    ),
    "sb3-recurrent-ppo": network(recurrent_ppo, lambda agent: FromRest(agent.policy), certain(4)),
    "sb3-qrdqn": network(qrdqn, lambda agent: agent.quantile_net, lambda: observations(4), units=(16, 16)),
}
