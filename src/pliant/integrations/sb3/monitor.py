"""The monitor as a callback of Stable-Baselines3."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pliant.monitor import Monitor
from pliant.sites import Inputs

LOGGED = ("dead", "linearized", "effective_rank", "norm_ratio", "relative_update")


class MonitorCallback(BaseCallback):
    """`pliant.Monitor` on the network of an agent; steps are those of the environment, as in all curves of SB3.

    It measures after a phase of training (for DQN a few gradient steps, for PPO all epochs on a rollout), and the
    *update* is what that phase changed. Five numbers and the learning rate also go to the agent's logger, as
    `pliant/...`; all are in `monitor.rows` and in the sinks.
    A policy that cannot be measured is named in a warning, and trains on. Of recurrent policies, every observation of
    the probe begins an episode of its own; what happens inside an LSTM is not seen.

    Args:
        probe: observations, or a number: so many of the first that the agent meets; measuring starts then.
        network: finds the module in the agent; by default the Q-network, the actor-critic policy or the actor. What its
            forward takes is a batch of observations, and `deterministic=True` if it has that argument.
        logged: the numbers that go to the agent's logger.
        settings: of the `Monitor`: `every`, `diagnostics`, `sinks`, ...

    Attributes:
        monitor: the `Monitor`, once there is a probe.

    >>> from stable_baselines3 import DQN  # doctest: +SKIP
    >>> agent = DQN("MlpPolicy", "CartPole-v1")  # doctest: +SKIP
    >>> agent.learn(10_000, callback=MonitorCallback(probe=512, every=1_000))  # doctest: +SKIP
    """

    def __init__(
        self,
        probe: Any = 512,
        *,
        network: Callable[[BaseAlgorithm], nn.Module] | None = None,
        logged: Sequence[str] = LOGGED,
        **settings: Any,
    ):
        super().__init__()
        self.probe, self.network, self.settings = probe, network or _network, settings
        self.logged = (*logged, "learning_rate")
        self.monitor: Monitor | None = None
        self._initial: dict[str, Tensor] = {}
        self._seen: list[Any] = []
        self._updates = 0
        self._failed = False

    def _on_training_start(self) -> None:
        if self._initial:  # of an earlier call of `learn`
            return
        named = self.network(self.model).named_parameters()
        self._initial = {name: p.detach().clone() for name, p in named}
        if not isinstance(self.probe, int):
            self._begin(self.probe)

    def _on_step(self) -> bool:
        if self.monitor is None and not self._failed:
            self._meet(self.locals["new_obs"])
        self._measure()
        return True

    def _on_training_end(self) -> None:
        if self._failed:
            return
        if self.monitor is None:
            warnings.warn(f"nothing was measured: the agent met less than {self.probe} observations", stacklevel=2)
            return
        self._measure()
        self.monitor.close()

    def _meet(self, observations: Any) -> None:
        self._seen.append(_mapped(np.array, observations))
        leaf = next(iter(observations.values())) if isinstance(observations, dict) else observations
        if len(self._seen) * len(leaf) >= self.probe:
            self._begin(_joined(self._seen, self.probe))
            self._seen.clear()

    def _begin(self, observations: Any) -> None:
        """Makes the monitor; training goes on without, where that cannot be made."""
        network = self.network(self.model)
        self._updates = self.model._n_updates
        try:
            x, _ = self.model.policy.obs_to_tensor(observations)
            inputs = Inputs(*_arguments(self.model, network, x))
            self.monitor = Monitor(
                network,
                inputs,
                **{
                    "initial": self._initial,
                    "optimizer": _optimizer(self.model, network),
                    "fresh": lambda: self.network(_anew(self.model)),
                    **self.settings,
                },
            )
        except Exception as error:
            self._failed = True
            kind = type(network).__name__
            message = f"{kind} is not measured: {error}; write MonitorCallback(network=lambda agent: agent.policy...)"
            warnings.warn(f"{message} for a part of it that takes observations", stacklevel=2)

    def _measure(self) -> None:
        """After every phase of training, at the first step of the environment that follows."""
        if self.monitor is None or self.model._n_updates == self._updates:
            return
        self._updates = self.model._n_updates
        row = self.monitor(self.num_timesteps) or {}
        for name in self.logged:
            if name in row:
                self.logger.record(f"pliant/{name}", row[name])


def _network(agent: BaseAlgorithm) -> nn.Module:
    policy = agent.policy
    found = getattr(policy, "q_net", None) or getattr(policy, "actor", None)
    return found if isinstance(found, nn.Module) else policy


def _anew(agent: BaseAlgorithm) -> BaseAlgorithm:
    """The agent with a policy that is drawn as its class draws one, some layers otherwise than torch would."""
    made = copy.copy(agent)
    kind, settings = type(agent.policy), dict(agent.policy_kwargs)
    if "use_sde" in inspect.signature(kind).parameters:
        settings = {"use_sde": agent.use_sde, **settings}
    made.policy = kind(agent.observation_space, agent.action_space, agent.lr_schedule, **settings).to(agent.device)
    if hasattr(made, "_create_aliases"):
        made._create_aliases()
    return made


def _optimizer(agent: BaseAlgorithm, network: nn.Module) -> torch.optim.Optimizer | None:
    """The optimizer of an agent that holds parameters of the network, if there is one."""
    ours = set(network.parameters())
    for owner in (agent.policy, getattr(agent, "actor", None), getattr(agent, "critic", None)):
        optimizer = getattr(owner, "optimizer", None)
        if optimizer and any(p in ours for group in optimizer.param_groups for p in group["params"]):
            return optimizer
    return None


def _arguments(agent: BaseAlgorithm, network: nn.Module, x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the network is called with: of a recurrent policy, every observation begins an episode of its own."""
    wanted = inspect.signature(network.forward).parameters
    named: dict[str, Any] = {"deterministic": True} if "deterministic" in wanted else {}
    if "lstm_states" in wanted:
        size = len(next(iter(x.values())) if isinstance(x, dict) else x)
        states = agent._last_lstm_states  # type: ignore[attr-defined]
        named["lstm_states"] = tree_map(lambda t: t.new_zeros(t.shape[0], size, t.shape[2]), states)
        named["episode_starts"] = torch.ones(size, device=agent.device)
    return (x,), named


def _mapped(function: Callable[..., Any], *observations: Any) -> Any:
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(o[key] for o in observations)) for key in first}
    return function(*observations)


def _joined(seen: list[Any], size: int) -> Any:
    return _mapped(lambda *parts: np.concatenate(parts)[:size], *seen)
