"""Recipes in other people's loops: bitwise what a loop of one's own does with the same recipe and draws."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import polyak_update
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import pliant.integrations.lightning as for_lightning
import pliant.integrations.transformers as for_trainers
from pliant.integrations import sb3
from pliant.integrations._grafting import graft
from pliant.interventions import (
    L2,
    BatchNorm,
    Chain,
    GradientNormPenalty,
    L2Init,
    LayerNorm,
    ReDo,
    ShrinkAndPerturb,
    WeightDecay,
    WeightNorm,
    WeightNormRescale,
)
from tests.bitwise import assert_same

pytestmark = pytest.mark.filterwarnings("ignore")  # of others
AT_TARGETS = ShrinkAndPerturb(0.9, 0.1, event="target_update")


def seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


# -- Stable-Baselines3 -------------------------------------------------------------------------------------------------


def small() -> dict[str, Any]:
    return {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [16, 16]}}  # which agents write into


def replayed() -> dict[str, Any]:
    return {"learning_starts": 40, "train_freq": 1, "batch_size": 16, **small()}


AGENTS: dict[str, Callable[..., Any]] = {
    "dqn": lambda kind=DQN: kind("MlpPolicy", "CartPole-v1", target_update_interval=25, **replayed()),
    "qrdqn": lambda kind=QRDQN: kind("MlpPolicy", "CartPole-v1", target_update_interval=25, **replayed()),
    "sac": lambda kind=SAC: kind("MlpPolicy", "Pendulum-v1", **replayed()),
    "td3": lambda kind=TD3: kind("MlpPolicy", "Pendulum-v1", **replayed()),
    "ppo": lambda kind=PPO: kind("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=16, n_epochs=2, **small()),
    "a2c": lambda kind=A2C: kind("MlpPolicy", "CartPole-v1", n_steps=16, **small()),
}


def all_of(agent: Any) -> list[Any]:
    owners = [agent.policy, getattr(agent, "actor", None), getattr(agent, "critic", None)]
    optimizers = [owner.optimizer.state_dict() for owner in owners if hasattr(owner, "optimizer")]
    return [agent.policy.state_dict(), optimizers, agent._last_obs.tolist(), torch.get_rng_state().tolist()]


def learned(name: str, recipe: Any = None, **kind: type) -> tuple[Any, Any]:
    seed()
    agent = AGENTS[name](**kind)
    callback = None if recipe is None else sb3.RecipeCallback(recipe)
    agent.learn(100, callback=callback)
    return agent, callback


class OwnDQN(DQN):
    """The gradient steps of DQN in a loop of one's own."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        self.policy.set_training_mode(True)
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                best = self.q_net_target(batch.next_observations).max(dim=1).values.reshape(-1, 1)
                wanted = batch.rewards + (1 - batch.dones) * self.gamma * best
            values = torch.gather(self.q_net(batch.observations), dim=1, index=batch.actions.long())
            loss = F.smooth_l1_loss(values, wanted)
            loss = loss + self.keeper.penalty(loss)
            self.policy.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            self.keeper.step()

    def _on_step(self) -> None:
        self._n_calls += 1
        if self._n_calls % 25 == 0:
            polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), 1.0)
            if self.keeper.steps:
                self.keeper.event("target_update", tied=[self.q_net_target])
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)


RECIPES = [
    Chain(L2(1e-2), ReDo(tau=0.1, every=7), AT_TARGETS),
    Chain(GradientNormPenalty(1e-2), WeightNormRescale(), AT_TARGETS),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=["redo", "gradient_norm"])
def test_dqn_with_a_recipe_is_bitwise_a_loop_of_ones_own(recipe: Chain) -> None:
    inside, callback = learned("dqn", recipe)
    seed()
    own = AGENTS["dqn"](kind=OwnDQN)
    own.keeper = recipe.attach(own.q_net, own.policy.optimizer, seed=0)
    own.learn(100)
    assert callback.keepers["q_net"].steps == own.keeper.steps == 60
    assert_same(all_of(inside), all_of(own))
    assert_same(callback.state_dict()["q_net"], own.keeper.state_dict())


def test_dqn_with_layer_norm_is_bitwise_one_that_was_built_with_it() -> None:
    recipe = Chain(LayerNorm(), L2(1e-3), AT_TARGETS)
    inside, _ = learned("dqn", recipe)
    seed()
    own = AGENTS["dqn"](kind=OwnDQN)
    own.q_net = own.policy.q_net = recipe.build(own.q_net, example=torch.zeros(8, 4))
    own.q_net_target = own.policy.q_net_target = recipe.build(own.q_net_target, example=torch.zeros(8, 4))
    own.q_net_target.set_training_mode(False)
    own.policy.optimizer = torch.optim.Adam(own.q_net.parameters(), lr=own.learning_rate)
    own.keeper = recipe.attach(own.q_net, own.policy.optimizer)
    own.learn(100)
    assert any("weight" in name and p.ndim == 1 for name, p in inside.q_net.named_parameters())
    assert_same(all_of(inside), all_of(own))


class OwnSAC(SAC):
    """The gradient steps of SAC in a loop of one's own."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        self.policy.set_training_mode(True)
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            actions, log_prob = self.actor.action_log_prob(batch.observations)
            log_prob = log_prob.reshape(-1, 1)
            coefficient = torch.exp(self.log_ent_coef.detach())
            loss = -(self.log_ent_coef * (log_prob + self.target_entropy).detach()).mean()
            self.ent_coef_optimizer.zero_grad()
            loss.backward()
            self.ent_coef_optimizer.step()
            with torch.no_grad():
                next_actions, next_log_prob = self.actor.action_log_prob(batch.next_observations)
                next_q = torch.cat(self.critic_target(batch.next_observations, next_actions), dim=1)
                next_q = next_q.min(dim=1, keepdim=True).values - coefficient * next_log_prob.reshape(-1, 1)
                wanted = batch.rewards + (1 - batch.dones) * self.gamma * next_q
            loss = 0.5 * sum(F.mse_loss(q, wanted) for q in self.critic(batch.observations, batch.actions))
            loss = loss + self.of_critic.penalty(loss)
            self.critic.optimizer.zero_grad()
            loss.backward()
            self.critic.optimizer.step()
            self.of_critic.step()
            q = torch.cat(self.critic(batch.observations, actions), dim=1).min(dim=1, keepdim=True).values
            loss = (coefficient * log_prob - q).mean()
            loss = loss + self.of_actor.penalty(loss)
            self.actor.optimizer.zero_grad()
            loss.backward()
            self.actor.optimizer.step()
            self.of_actor.step()
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)


def test_sac_with_a_recipe_is_bitwise_a_loop_of_ones_own() -> None:
    recipe = Chain(L2(1e-2), ReDo(tau=0.1, every=9))
    inside, callback = learned("sac", recipe)
    seed()
    own = AGENTS["sac"](kind=OwnSAC)
    own.of_actor = recipe.attach(own.actor, own.actor.optimizer, seed=0, call="get_action_dist_params")
    own.of_critic = recipe.attach(own.critic, own.critic.optimizer, seed=1)
    own.learn(100)
    assert callback.keepers.keys() == {"actor", "critic"}
    assert_same(all_of(inside), all_of(own))
    plain, _ = learned("sac")
    assert not torch.equal(plain.actor.mu.weight, inside.actor.mu.weight)


class OwnPPO(PPO):
    """The gradient steps of PPO in a loop of one's own."""

    def train(self) -> None:
        self.policy.set_training_mode(True)
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                values, log_prob, entropy = self.policy.evaluate_actions(
                    batch.observations, batch.actions.long().flatten()
                )
                gain = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
                ratio = torch.exp(log_prob - batch.old_log_prob)
                clipped = torch.clamp(ratio, 1 - 0.2, 1 + 0.2)
                policy_loss = -torch.min(gain * ratio, gain * clipped).mean()
                value_loss = F.mse_loss(batch.returns, values.flatten())
                loss = policy_loss + self.ent_coef * -torch.mean(entropy) + self.vf_coef * value_loss
                loss = loss + self.keeper.penalty(loss)
                self.policy.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                self.keeper.step()


def test_ppo_with_a_recipe_is_bitwise_a_loop_of_ones_own() -> None:
    recipe = Chain(L2(1e-2), ReDo(tau=0.1, every=3))
    inside, callback = learned("ppo", recipe)
    seed()
    own = AGENTS["ppo"](kind=OwnPPO)
    own.keeper = recipe.attach(own.policy, own.policy.optimizer, call="evaluate_actions")
    own.learn(100)
    assert callback.keepers["policy"].steps == own.keeper.steps == 16
    assert_same(all_of(inside), all_of(own))


@pytest.mark.parametrize("name", AGENTS)
def test_an_empty_recipe_changes_no_agent(name: str) -> None:
    plain, _ = learned(name)
    inside, _ = learned(name, Chain())
    assert type(inside) is type(plain)
    assert "zero_grad" not in vars(inside.policy.optimizer if hasattr(inside.policy, "optimizer") else inside.actor)
    assert_same(all_of(plain), all_of(inside))


@pytest.mark.parametrize("name", AGENTS)
def test_every_moment_reaches_every_agent(name: str, tmp_path: Path) -> None:
    """Built in before the optimizer, in the loss, after the step, and at target updates, in the target, too."""
    recipe = Chain(LayerNorm(), L2(1e-3), ReDo(tau=0.1, every=5), AT_TARGETS)
    agent, callback = learned(name, recipe)
    for network, keeper in callback.keepers.items():
        part = getattr(agent.policy, network, agent.policy)
        owner = part if network in ("actor", "critic") else agent.policy
        held = {p for group in owner.optimizer.param_groups for p in group["params"]}
        assert held == set(part.parameters())
        assert len(owner.optimizer.state) == len(held)
        assert any("LayerNorm" in built for built in part.built_in)
        assert keeper.steps > 0
        target = getattr(agent.policy, f"{network}_target", None)
        assert ("target_update" in keeper.state_dict()["fired"]) == (target is not None)
        if target is not None:
            assert target.state_dict().keys() == part.state_dict().keys()
    agent.save(tmp_path / "agent")
    other = AGENTS[name]()
    again = sb3.RecipeCallback(recipe)
    again.build(other)
    other.set_parameters(tmp_path / "agent")
    assert_same(agent.policy.state_dict(), other.policy.state_dict())
    again.load_state_dict(callback.state_dict(), other)
    assert_same(again.state_dict(), callback.state_dict())


def test_a_network_has_a_recipe_of_its_own_and_mistakes_are_one_line() -> None:
    agent, callback = learned("td3", {"critic": Chain(WeightDecay(0.1))})
    assert callback.keepers.keys() == {"critic"}
    with pytest.raises(ValueError, match="unknown network of TD3 'critics': did you mean 'critic'"):
        agent.learn(1, callback=sb3.RecipeCallback({"critics": Chain(L2(1e-4))}))
    with pytest.raises(ValueError, match=r"has not been trained, .* write callback.build\(agent\)"):
        agent.learn(1, callback=sb3.RecipeCallback(Chain(LayerNorm())))
    with pytest.raises(ValueError, match=r"expected a recipe such as Chain\(L2\(1e-4\)\), got L2"):
        sb3.RecipeCallback(L2(1e-4))
    with pytest.raises(ValueError, match="before training"):
        sb3.RecipeCallback(Chain()).event("task_switch")


def test_running_statistics_of_a_target_are_those_of_the_network_that_was_built() -> None:
    class Normed(BaseFeaturesExtractor):
        def __init__(self, space: Any) -> None:
            super().__init__(space, 4)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x)

    settings = replayed()
    settings["policy_kwargs"]["features_extractor_class"] = Normed
    agent = DQN("MlpPolicy", "CartPole-v1", target_update_interval=25, **settings)
    sb3.RecipeCallback(Chain(WeightNorm())).build(agent)
    ours, theirs = dict(agent.q_net.named_buffers()), dict(agent.q_net_target.named_buffers())
    assert len(agent.batch_norm_stats) == 2
    for held, there in ((agent.batch_norm_stats, ours), (agent.batch_norm_stats_target, theirs)):
        assert {one.data_ptr() for one in held} <= {buffer.data_ptr() for buffer in there.values()}


@pytest.mark.parametrize("member", [LayerNorm(), BatchNorm(), WeightNorm()], ids=lambda m: type(m).__name__)
def test_what_is_grafted_is_what_is_built(member: Any) -> None:
    seed()
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(16, 3)
    built = Chain(member).build(module, x)
    held = {"place": module}
    graft(Chain(member), module, x)
    assert_same(built.state_dict(), held["place"].state_dict())
    assert torch.equal(built(x), held["place"](x))


# -- Lightning ---------------------------------------------------------------------------------------------------------

X, Y = torch.randn(96, 6, generator=torch.Generator().manual_seed(1)), torch.arange(96) % 3


def net() -> nn.Sequential:
    seed()
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


class Automatic(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        return {"loss": F.cross_entropy(self(x), y), "index": index}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Manual(Automatic):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, index)["loss"])
        optimizer.step()


def fitted(module: lightning.LightningModule, callback: Any, folder: Path, **settings: Any) -> Any:
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, **settings,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=16))
    return trainer


@pytest.mark.parametrize(("kind", "accumulate"), [(Automatic, 1), (Automatic, 2), (Manual, 1)])
def test_lightning_with_a_recipe_is_bitwise_a_loop_of_ones_own(kind: type, accumulate: int, tmp_path: Path) -> None:
    recipe = Chain(LayerNorm(), L2(1e-2), ReDo(tau=0.3, every=4))
    callback = for_lightning.RecipeCallback(recipe, example=X[:8])
    module = kind()
    fitted(module, callback, tmp_path, max_epochs=3, accumulate_grad_batches=accumulate)
    model = recipe.build(net(), example=X[:8])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    keeper = recipe.attach(model, optimizer)
    for step in range(18):
        at = 16 * (step % 6)
        loss = F.cross_entropy(model(X[at : at + 16]), Y[at : at + 16])
        ((loss + keeper.penalty(loss)) / accumulate).backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
            keeper.step()
            optimizer.zero_grad()
    assert callback.keeper.steps == 18 // accumulate
    assert_same(module.net.state_dict(), model.state_dict())
    assert not {"training_step", "manual_backward"} & vars(module).keys()


def test_a_run_of_lightning_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    recipe = Chain(L2Init(1e-2), ReDo(tau=0.3, every=5), ShrinkAndPerturb(0.9, 0.1))
    whole = Automatic()
    fitted(whole, for_lightning.RecipeCallback(recipe), tmp_path, max_epochs=4)
    trainer = fitted(Automatic(), for_lightning.RecipeCallback(recipe), tmp_path, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    module, callback = Automatic(), for_lightning.RecipeCallback(recipe)
    trainer = lightning.Trainer(
        accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False, max_epochs=4,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(X, Y), batch_size=16)
    trainer.fit(module, loader, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert callback.keeper.steps == 24
    assert_same(whole.state_dict(), module.state_dict())
    callback.event("task_switch")
    assert "task_switch" in callback.state_dict()["fired"]


def test_lightning_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"write RecipeCallback\(recipe, example=x\)"):
        fitted(Automatic(), for_lightning.RecipeCallback(Chain(LayerNorm())), tmp_path, max_epochs=1)

    class Two(Manual):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.net[0].parameters(), 0.1), torch.optim.SGD(self.net[2].parameters(), 0.1)]

    with pytest.raises(ValueError, match="expected one optimizer of the part that is cared for, got 2"):
        fitted(Two(), for_lightning.RecipeCallback(Chain(L2(1e-4))), tmp_path, max_epochs=1)


# -- Hugging Face ------------------------------------------------------------------------------------------------------

TOKENS = (torch.arange(64).unsqueeze(1) * 5 + torch.arange(8)) % 32


def gpt() -> GPT2LMHeadModel:
    seed()
    config = GPT2Config(
        vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def trained(model: Any, callback: Any, folder: Path, accumulate: int = 1, resume: Any = None, **more: Any) -> list[Any]:
    settings = {"max_steps": 10, "save_strategy": "no", **more}
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=8, learning_rate=1e-2, use_cpu=True, report_to="none",
        lr_scheduler_type="constant", gradient_accumulation_steps=accumulate, logging_strategy="no", disable_tqdm=True,
        optim="adamw_torch", max_grad_norm=1.0, **settings,
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in TOKENS]
    seen: list[Any] = []
    trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[callback])
    handle = model.register_forward_pre_hook(lambda _, a, k: seen.append(k), with_kwargs=True)
    trainer.train(resume_from_checkpoint=resume)
    handle.remove()
    return seen


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trainer_with_a_recipe_is_bitwise_a_loop_of_ones_own(accumulate: int, tmp_path: Path) -> None:
    recipe = Chain(L2Init(1e-2), WeightNormRescale(), ShrinkAndPerturb(0.9, 0.1))
    inside, callback = gpt(), for_trainers.RecipeCallback(recipe, tasks=(4,), fresh=gpt)
    batches = trained(inside, callback, tmp_path, accumulate) + trained(inside, callback, tmp_path, accumulate)
    assert callback.keeper.steps == 20
    assert len(batches) == 20 * accumulate

    model = gpt().train()
    for step in range(20):
        if step % 10 == 0:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
            if step == 0:
                keeper = recipe.attach(model, optimizer, fresh=gpt)
            else:
                keeper.follow(optimizer)
                keeper.event("task_switch")
        if step % 10 == 4:
            keeper.event("task_switch")
        optimizer.zero_grad()
        for part in range(accumulate):
            loss = model(**batches[step * accumulate + part]).loss
            (loss + keeper.penalty(loss) if part == 0 else loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keeper.step()
    assert_same(inside.state_dict(), model.state_dict())


def test_a_trainer_builds_in_before_its_optimizer_and_leaves_losses_as_they_were(tmp_path: Path) -> None:
    batch = {"input_ids": TOKENS[:4], "labels": TOKENS[:4]}
    model, callback = gpt(), for_trainers.RecipeCallback(Chain(WeightNorm(), L2(1e-2)), example=batch)
    before = {name for name, _ in model.named_parameters()}
    trained(model, callback, tmp_path)
    assert {name for name, _ in model.named_parameters()} != before
    model.train()
    a, b = model(**batch).loss, model(**batch).loss
    assert torch.equal(a, b)
    assert a.item() == pytest.approx(
        F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), TOKENS[:4, 1:].flatten()).item()
    )
    with pytest.raises(ValueError, match=r"write RecipeCallback\(recipe, example=batch\)"):
        trained(gpt(), for_trainers.RecipeCallback(Chain(WeightNorm())), tmp_path)
    with pytest.raises(ValueError, match="got another one: make a new callback"):
        trained(gpt(), callback, tmp_path)


def test_a_trainer_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    recipe = Chain(L2Init(1e-2), ShrinkAndPerturb(0.9, 0.1))
    saving = {"save_strategy": "steps", "save_steps": 5}
    whole = gpt()
    trained(whole, for_trainers.RecipeCallback(recipe, tasks=(7,), fresh=gpt), tmp_path, **saving)
    model, callback = gpt(), for_trainers.RecipeCallback(recipe, tasks=(7,), fresh=gpt)
    trained(model, callback, tmp_path, resume=str(tmp_path / "checkpoint-5"))
    assert callback.keeper.steps == 10
    assert_same(whole.state_dict(), model.state_dict())


def test_agents_are_trained_saved_and_loaded_as_the_how_to_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "howto.md").read_text()
    trained, loaded = (
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "DQN(" in block
    )
    names: dict[str, Any] = {}
    exec(trained.replace("100_000", "120"), names)
    before = names["agent"].q_net.state_dict()
    assert "q_net.0.norm.weight" in before
    exec(loaded, names)
    after = names["agent"].q_net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
