"""A recipe as a callback of Stable-Baselines3."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.policies import ActorCriticPolicy  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.utils import get_parameters_by_name  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pliant.adapter import duplicate
from pliant.integrations._grafting import become, builds, graft, refuse_no_chain
from pliant.interventions import Chain
from pliant.keeper import Keeper
from pliant.sites import Inputs
from pliant.words import unknown

EXAMPLES = 8  # observations that a network is built with: they show shapes


class RecipeCallback(BaseCallback):
    """A recipe at work in an agent: DQN, QR-DQN, SAC, TD3, PPO or A2C.

    Before training, what the recipe builds in is built into the networks and their targets, and the optimizers are made
    anew. Penalties are in the loss, before gradients are clipped; what acts after a step does so right after each
    gradient step, which `every=` counts. A target update is the event `"target_update"`, with the target tied to the
    network, from the first gradient step on; for SAC and TD3 it is soft, at every gradient step, or every
    `policy_delay`-th. Other events are yours: `callback.event("task_switch")` from a callback, a wrapper of the
    environment, or between two calls of `learn`.

    An agent trains, bitwise, as it would in a loop of its own with `loss + keeper.penalty()`, `keeper.step()` and
    `keeper.event("target_update", tied=[target])` in the places that these have.

    To load the zip of an agent with something built in: make the agent, `callback.build(agent)`, then
    `agent.set_parameters(zip)`.

    Args:
        recipe: a chain, or a chain for some of the networks by name: `{"critic": Chain(...)}`. DQN has a `q_net`,
            QR-DQN a `quantile_net`, SAC and TD3 an `actor` and a `critic`, PPO and A2C a `policy`.
        seed: where everything that is drawn comes from; the second network has the next one.

    Attributes:
        keepers: the `Keeper` of each network by name, once training has begun.

    >>> from stable_baselines3 import DQN  # doctest: +SKIP
    >>> agent = DQN("MlpPolicy", "CartPole-v1")  # doctest: +SKIP
    >>> recipe = Chain(LayerNorm(), L2(1e-5), ReDo(tau=0.025, every=1_000))  # doctest: +SKIP
    >>> agent.learn(100_000, callback=RecipeCallback(recipe))  # doctest: +SKIP
    """

    def __init__(self, recipe: Chain | Mapping[str, Chain], *, seed: int = 0):
        super().__init__()
        for chain in recipe.values() if isinstance(recipe, Mapping) else [recipe]:
            refuse_no_chain(chain)
        self.recipe, self.seed = recipe, seed
        self.keepers: dict[str, Keeper] = {}
        self._kind: type | None = None
        self._turn: Keeper | None = None  # whose gradients were cleared last: the next loss is its network's

    def build(self, agent: BaseAlgorithm) -> None:
        """Builds in what the recipe builds in, where that has not been done; `learn` does, too.

        Raises `ValueError` for an agent that is not one of the six, or has been trained without.
        """
        for name, (chain, part) in self._parts(agent).items():
            if not builds(chain) or hasattr(part.module, "built_in"):
                continue
            optimizer = part.owner.optimizer
            if optimizer.state:
                raise ValueError(
                    f"expected an agent that has not been trained, as {chain} is built into its {name}: write "
                    "callback.build(agent) right after the agent is made"
                )
            if getattr(agent.policy, "share_features_extractor", False) and name in ("actor", "critic"):
                raise ValueError(
                    f"the actor and the critic share layers, which {chain} would part: write "
                    "policy_kwargs=dict(share_features_extractor=False)"
                )
            graft(chain, part.module, _example(agent, name), part.call)
            policy = agent.policy
            made = policy.optimizer_class(part.module.parameters(), lr=agent.lr_schedule(1), **policy.optimizer_kwargs)
            part.owner.optimizer = made
            if part.target is not None:
                become(part.target, duplicate(part.module)[0])
                vars(part.target).pop("optimizer", None)
                part.target.set_training_mode(False)
            _renew_statistics(agent, name, part)

    def event(self, name: str) -> None:
        """Something happened: every network's members that answer to it do, with its target tied."""
        if not self.keepers:
            raise ValueError(f"the event {name!r} before training: call agent.learn(..., callback=callback) first")
        told = [n for n, (chain, _) in self._parts(self.model).items() if name in chain.events]
        for network in told or list(self.keepers)[:1]:  # the first one says that nobody answers
            self._tell(network, name)

    def state_dict(self) -> dict[str, Any]:
        """What the keepers hold, to go on with in another process: beside `agent.save(...)`."""
        return {name: keeper.state_dict() for name, keeper in self.keepers.items()}

    def load_state_dict(self, saved: Mapping[str, Any], agent: BaseAlgorithm) -> None:
        """Goes on where `state_dict` was taken, with an agent that was loaded."""
        self._attach(agent)
        for name, state in saved.items():
            if name not in self.keepers:
                raise ValueError(unknown("network", name, list(self.keepers)))
            self.keepers[name].load_state_dict(state)

    # -- what Stable-Baselines3 calls ----------------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        self._attach(self.model)
        if self._kind is not None:  # of a `learn` that was interrupted
            return
        kind = self._kind = type(self.model)

        def around(method: str) -> Callable[..., Any]:
            def call(agent: BaseAlgorithm, *args: Any, **kwargs: Any) -> Any:
                with self._at_work(agent, kind):
                    return getattr(kind, method)(agent, *args, **kwargs)

            return call

        # its class, not its attributes, which `agent.save` would pickle
        methods = [method for method in ("train", "_on_step") if hasattr(kind, method)]
        self.model.__class__ = type(kind.__name__, (kind,), {method: around(method) for method in methods})

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        assert self._kind is not None
        self.model.__class__ = self._kind
        self._kind = None

    # -- at work -------------------------------------------------------------------------------------------------------

    def _parts(self, agent: BaseAlgorithm) -> dict[str, tuple[Chain, _Part]]:
        """The networks that have a chain."""
        parts = _networks(agent)
        if not isinstance(self.recipe, Mapping):
            return {name: (self.recipe, part) for name, part in parts.items()}
        for name in self.recipe:
            if name not in parts:
                raise ValueError(unknown(f"network of {type(agent).__name__}", name, list(parts)))
        return {name: (chain, parts[name]) for name, chain in self.recipe.items()}

    def _attach(self, agent: BaseAlgorithm) -> None:
        if self.keepers:
            return
        self.build(agent)
        for place, (name, (chain, part)) in enumerate(self._parts(agent).items()):
            optimizer = part.owner.optimizer
            keeper = chain.attach(part.module, optimizer, self.seed + place, call=part.call)
            optimizer.register_step_post_hook(lambda *_, keeper=keeper: keeper.step())
            self.keepers[name] = keeper

    def _tell(self, network: str, event: str) -> None:
        target = _networks(self.model)[network].target
        self.keepers[network].event(event, tied=[] if target is None else [target])

    @contextmanager
    def _at_work(self, agent: BaseAlgorithm, kind: type) -> Iterator[None]:
        """While the agent trains: whose turn it is, penalties in losses, and target updates as events."""
        parts = self._parts(agent)
        optimizers = {name: part.owner.optimizer for name, (_, part) in parts.items()}
        homes = [vars(base)["train"].__globals__ for base in kind.__mro__ if "train" in vars(base)]
        home = next((names for names in homes if "polyak_update" in names), {})
        update = home.get("polyak_update")
        answering = {
            name: part.target
            for name, (chain, part) in parts.items()
            if part.target is not None and "target_update" in chain.events
        }

        def clearing(keeper: Keeper, zero_grad: Callable[..., None]) -> Callable[..., None]:
            def cleared(*args: Any, **kwargs: Any) -> None:
                zero_grad(*args, **kwargs)
                self._turn = keeper

            return cleared

        def updated(params: Iterable[Tensor], target_params: Iterable[Tensor], tau: float) -> None:
            targets = list(target_params)
            update(params, targets, tau)  # pyright: ignore[reportOptionalCall]
            for name, target in answering.items():
                if self.keepers[name].steps and targets and targets[0] is next(target.parameters()):
                    self._tell(name, "target_update")

        for name, optimizer in optimizers.items():
            optimizer.zero_grad = clearing(self.keepers[name], optimizer.zero_grad)
        if answering:
            home["polyak_update"] = updated  # it has no hook, and who calls it when differs
        try:
            with _Penalised(self._penalised):
                yield
        finally:
            self._turn = None
            for optimizer in optimizers.values():
                del vars(optimizer)["zero_grad"]
            if answering:
                home["polyak_update"] = update

    def _penalised(self, loss: Tensor) -> Tensor:
        keeper, self._turn = self._turn, None
        if keeper is None or not any(member.overrides("penalty") for member in keeper.chain):
            return loss
        return loss + keeper.penalty(loss)


class _Part(NamedTuple):
    """A network of an agent: how it is called in training, the module that has its optimizer, and its target."""

    module: Any
    call: str | None
    owner: Any
    target: Any


class _Penalised(TorchFunctionMode):
    """Losses get their penalties as `backward` is called on them."""

    def __init__(self, penalised: Callable[[Tensor], Tensor]):
        super().__init__()
        self._penalised = penalised

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.backward:
            args = (self._penalised(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def _networks(agent: BaseAlgorithm) -> dict[str, _Part]:
    policy = agent.policy
    if isinstance(policy, ActorCriticPolicy):
        return {"policy": _Part(policy, "evaluate_actions", policy, None)}
    for name in ("q_net", "quantile_net"):
        if isinstance(getattr(policy, name, None), nn.Module):
            return {name: _Part(getattr(policy, name), None, policy, getattr(policy, f"{name}_target"))}
    if not isinstance(getattr(policy, "critic", None), nn.Module):
        raise ValueError(
            f"expected DQN, QR-DQN, SAC, TD3, PPO or A2C, got {type(agent).__name__}: write its loop with "
            "recipe.attach(model, optimizer)"
        )
    actor, critic = policy.actor, policy.critic
    call = "get_action_dist_params" if hasattr(actor, "get_action_dist_params") else None  # before it draws
    target = getattr(policy, "actor_target", None)
    return {"actor": _Part(actor, call, actor, target), "critic": _Part(critic, None, critic, policy.critic_target)}


def _example(agent: BaseAlgorithm, name: str) -> Any:
    """Inputs of a network, which show their shapes."""
    spaces = copy.deepcopy((agent.observation_space, agent.action_space))
    for space in spaces:
        space.seed(0)
    seen = [[space.sample() for _ in range(EXAMPLES)] for space in spaces]
    dicts = isinstance(seen[0][0], dict)
    together = {k: np.stack([o[k] for o in seen[0]]) for k in seen[0][0]} if dicts else np.stack(seen[0])
    x, _ = agent.policy.obs_to_tensor(together)
    if name not in ("critic", "policy"):
        return x
    like = next(agent.policy.parameters())
    return Inputs((x, like.new_tensor(np.stack(seen[1]))), {})


def _renew_statistics(agent: BaseAlgorithm, name: str, part: _Part) -> None:
    """The running statistics that an agent copies into a target, of networks as they are by now."""
    ours = f"{name}_batch_norm_stats" if hasattr(agent, f"{name}_batch_norm_stats") else "batch_norm_stats"
    if part.target is not None and hasattr(agent, ours):
        setattr(agent, ours, get_parameters_by_name(part.module, ["running_"]))
        setattr(agent, f"{ours}_target", get_parameters_by_name(part.target, ["running_"]))
