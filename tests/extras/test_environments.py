"""The classification MDPs as Gymnasium environments, and our update beside that of Stable-Baselines3's DQN."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import DQN
from torch import nn

from pliant.heads import Scalar
from pliant.integrations.environments import ClassificationEnv
from pliant.nets import MLP
from pliant.network import Network
from pliant.optim import Adam
from pliant.population import Member, Population
from pliant.rl import RandomLabel, SparseReward, TrueLabel, picked, td_target

MDPS = [TrueLabel(200), RandomLabel(200), SparseReward(200)]
HEAD, GAMMA, LR = Scalar(clip=1.0), 0.97, 1e-3


@pytest.mark.parametrize("mdp", MDPS, ids=lambda mdp: type(mdp).__name__)
def test_the_environment_is_as_gymnasium_wants_it(mdp) -> None:
    check_env(ClassificationEnv(mdp, "digits"), skip_render_check=True)


def test_its_dynamics_are_those_of_the_mdp() -> None:
    env = ClassificationEnv(SparseReward(200), "digits", seed=3)
    world = SparseReward(200).bind(env._world.data, [3])
    _, info = env.reset(seed=0)
    for step in range(50):
        state, action = info["state"], info["state"] if step % 2 else (info["state"] + 1) % 10
        observation, reward, ended, cut, info = env.step(action)
        assert reward == float(state == action == 9)
        assert not ended
        assert not cut
        if state == action:
            assert info["state"] == (state + 1) % 10
        same = (world.raw(torch.arange(200)[None])[0].numpy() == observation).all((1, 2, 3))
        assert info["state"] in world.states[0].numpy()[same]


def double(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of SB3's batch, as its policy scales them."""
    return tuple(o.double().flatten(1) for o in (batch.observations, batch.next_observations))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_update_equals_that_of_stable_baselines3() -> None:
    """One step of DQN in float64 on the same batch: Huber loss, Adam, a target network of other parameters."""
    env = gymnasium.wrappers.FlattenObservation(ClassificationEnv(TrueLabel(200), "digits"))
    agent = DQN(
        "MlpPolicy", env, learning_rate=LR, gamma=GAMMA, batch_size=32, buffer_size=500, max_grad_norm=1e9, seed=0,
        policy_kwargs={"net_arch": [16, 16], "activation_fn": nn.ReLU, "optimizer_kwargs": {"eps": 1e-8}},
        learning_starts=100, train_freq=1, target_update_interval=10_000,
    )  # fmt: skip
    agent.learn(100)
    agent.policy.double()
    with torch.no_grad():
        for p in agent.q_net_target.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    batch = agent.replay_buffer.sample(32)
    x, following = double(batch)
    action, reward = batch.actions[:, 0].long(), batch.rewards[:, 0].double()

    def ours(module: Any) -> dict[str, torch.Tensor]:
        values = list(module.q_net.parameters())
        names = [name for name, _ in MLP(64, 10, (16, 16)).named_parameters()]
        return {name: p.detach().double().clone()[None] for name, p in zip(names, values, strict=True)}

    def loss(output: torch.Tensor, y: dict[str, torch.Tensor]) -> torch.Tensor:
        return 0.5 * HEAD.loss(picked(HEAD.split(output), y["action"]), y["target"])  # SB3's Huber has the factor

    network = Network(MLP(64, 10, (16, 16)))
    population = Population(network, loss, [Member(0, Adam(LR))], dtype=torch.float64)
    state, before = population.init(ours(agent.q_net)), ours(agent.q_net)
    outputs = HEAD.split(population.outputs(ours(agent.q_net_target), following[None]))
    target = td_target(HEAD, reward[None], GAMMA, outputs)
    population.step(state, x[None], {"action": action[None], "target": target})

    agent.replay_buffer.sample = lambda *args, **kwargs: batch._replace(
        observations=x, next_observations=following, rewards=batch.rewards.double(), dones=batch.dones.double()
    )
    agent.policy.optimizer = torch.optim.Adam(agent.q_net.parameters(), LR, eps=1e-8)
    agent.q_net.features_extractor = nn.Identity()
    agent.q_net_target.features_extractor = nn.Identity()
    agent.q_net.extract_features = agent.q_net_target.extract_features = lambda observations, extractor: observations
    agent.train(gradient_steps=1, batch_size=32)
    for (name, p), theirs in zip(state.params.items(), agent.q_net.q_net.parameters(), strict=True):
        torch.testing.assert_close(p[0], theirs.detach(), atol=1e-12, rtol=1e-10, msg=name)
        assert (p - before[name]).abs().max() > 0.5 * LR
