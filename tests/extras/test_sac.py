"""One update of `SAC` beside that of Stable-Baselines3's; an agent in DeepMind Control that is stopped and goes on."""

# pyright: reportMissingImports=false
from __future__ import annotations

import math
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC as Theirs
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from pliant.interventions.base import write
from pliant.nets import MLP
from pliant.optim import Adam
from pliant.rl import DMC, Experience, Push
from pliant.run import tree
from pliant.trials import SAC, Steps, When
from pliant.trials.sac import Agents
from tests.bitwise import assert_same

GAMMA, LR, BATCH, CONTROLS = 0.97, 1e-3, 32, 1


class Still(gymnasium.Env):
    """Of the shape of `Push`; nothing is played."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (CONTROLS,), np.float32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*:UserWarning")
def test_two_updates_equal_those_of_stable_baselines3(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, with the same noise: critics, actor, temperature and targets. Theirs adds 1e-6 in the logarithm of
    the slope of tanh; here it does not."""
    agent = Theirs(
        "MlpPolicy", Still(), learning_rate=LR, gamma=GAMMA, batch_size=BATCH, buffer_size=100, seed=0, tau=0.05,
        ent_coef="auto_0.3", policy_kwargs={"net_arch": [16, 12], "activation_fn": nn.ReLU},
    )  # fmt: skip
    agent.set_logger(Logger(None, []))
    agent.policy.double()
    agent.actor.action_dist.epsilon = 0.0
    for net in (agent.actor, agent.critic, agent.critic_target):  # theirs makes float32 of observations
        net.extract_features = lambda observations, extractor: observations
    assert agent.log_ent_coef is not None
    agent.log_ent_coef = torch.tensor([math.log(0.3)], dtype=torch.float64, requires_grad=True)
    agent.ent_coef_optimizer = torch.optim.Adam([agent.log_ent_coef], lr=LR)
    for part in (agent.actor, agent.critic):
        part.optimizer = torch.optim.Adam(part.parameters(), lr=LR)

    trial = SAC(
        Push(), num_steps=10, net=partial(MLP, hidden=(16, 12)), actor=Adam(LR), critic=Adam(LR), temperature=Adam(LR),
        gamma=GAMMA, tau=0.05, begin=5, batch_size=BATCH, capacity=100, alpha=0.3,
    )  # fmt: skip
    run = trial.start([0], dtype=torch.float64)
    state, ours = run.state, Agents(trial, *run.populations, run.state)
    generator = np.random.default_rng(0)

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal(shape))

    with torch.no_grad():  # targets of other parameters, so that they show
        for p in agent.critic_target.parameters():
            p.add_(0.1 * drawn(*p.shape))
    head = [p for layer in (agent.actor.mu, agent.actor.log_std) for p in layer.parameters()]
    trunk = list(agent.actor.latent_pi.parameters())

    def actor() -> list[Tensor]:
        return [*trunk, torch.cat([head[0], head[2]]), torch.cat([head[1], head[3]])]

    def critics(net: Any) -> list[Tensor]:
        return [torch.stack(pair) for pair in zip(*(q.parameters() for q in net.q_networks), strict=True)]

    def assert_equal() -> None:
        pairs = [
            *zip(state.actor.params.values(), [p[None] for p in actor()], strict=True),
            *zip(state.critics.params.values(), critics(agent.critic), strict=True),
            *zip(state.target.values(), critics(agent.critic_target), strict=True),
            (state.log_alpha["log_alpha"], agent.log_ent_coef),
        ]
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs.detach(), atol=1e-10, rtol=1e-8)

    write(state.actor.params, dict(zip(state.actor.params, [p.detach()[None] for p in actor()], strict=True)))
    for mine, theirs in ((state.critics.params, agent.critic), (state.target, agent.critic_target)):
        write(mine, dict(zip(mine, [p.detach() for p in critics(theirs)], strict=True)))
    assert_equal()

    for _ in range(2):
        x, following, action, reward = drawn(BATCH, 2), drawn(BATCH, 2), drawn(BATCH, CONTROLS).tanh(), drawn(BATCH, 1)
        done = torch.from_numpy(generator.integers(0, 2, (BATCH, 1)).astype(float))
        noise = drawn(2 * BATCH, CONTROLS)
        before = {name: p.clone() for name, p in tree.tensors(state).items() if "params" in name or "alpha" in name}
        ours.learn(
            Experience(
                x[None], action[None], reward.T, GAMMA * (1 - done).T, following[None], np.zeros((1, BATCH))
            ),
            noise[None],
        )  # fmt: skip
        halves = iter(noise.split(BATCH))
        monkeypatch.setattr(
            torch.distributions.Normal, "rsample", lambda law, *shape, halves=halves: law.loc + law.scale * next(halves)
        )
        batch = agent.replay_buffer
        batch.sample = lambda *args, found=(x, action, following, done, reward), **kwargs: _Batch(*found)  # type: ignore[method-assign]
        agent.train(gradient_steps=1, batch_size=BATCH)
        assert_equal()
        assert all((tree.tensors(state)[name] != p).any() for name, p in before.items() if "initial" not in name)


class _Batch:
    discounts = None

    def __init__(self, *found: Tensor):
        self.observations, self.actions, self.next_observations, self.dones, self.rewards = found


def test_an_agent_in_deepmind_control_that_is_stopped_goes_on_bitwise() -> None:
    trial = SAC(
        DMC("cartpole_swingup", repeat=2), num_steps=140, net=partial(MLP, hidden=(8,)), begin=60, batch_size=8,
        learn_period=2, capacity=60, measures=(Steps(When(every=35)),),
    )  # fmt: skip
    run = trial.start([0, 1])
    rows = [row for row in run.rows if row]
    for stop in (41, 103):
        first = trial.start([0, 1])
        for _ in first.rows:
            if first.state.step == stop:
                break
        kept, numbers = {k: t.clone() for k, t in tree.tensors(first.state).items()}, tree.numbers(first.state)
        second = trial.start([0, 1])
        tree.fill(second.state, kept, numbers)
        again = [row for row in second.rows if row]
        assert_same(tree.tensors(second.state), tree.tensors(run.state))
        assert tree.numbers(second.state) == tree.numbers(run.state)
        assert torch.equal(again[-1]["batch_loss"], rows[-1]["batch_loss"])


def test_tasks_with_actions_to_choose_from_are_refused() -> None:
    from pliant.rl import MinAtar

    with pytest.raises(ValueError, match="expected actions that are arrays of numbers, got some to choose from: MinA"):
        SAC(MinAtar("breakout"), num_steps=10, begin=5, batch_size=2).start([0])
