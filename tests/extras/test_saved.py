"""`pliant diagnose` on what Stable-Baselines3, Lightning and Transformers have saved themselves."""

from __future__ import annotations

import base64
import json
import pickle
import zipfile
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import transformers
from stable_baselines3 import DQN, PPO, SAC
from torch import nn

from pliant.cli import main

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("saved")]  # the libraries' own
NETS = """
import lightning
import torch
import transformers
from stable_baselines3 import DQN, PPO, SAC
from torch import nn

def ppo():
    return PPO("MlpPolicy", "CartPole-v1", device="cpu").policy

def actor_and_critic(policy, x):
    return torch.cat([policy.get_distribution(x).distribution.logits, policy.predict_values(x)], 1)

def q_net():
    return DQN("MlpPolicy", "CartPole-v1", device="cpu").q_net

def actor():
    return SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16, 16]}, device="cpu").actor

def mean(actor, x):
    return actor(x, deterministic=True)

def body():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

def gpt2():
    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20, n_positions=8)
    return transformers.GPT2LMHeadModel(config)
"""
SHORT = ["--steps", "20", "--targets", "2", "--json"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "saved_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def diagnosed(capsys: pytest.CaptureFixture[str], path: str, model: str, x: np.ndarray, *more: str) -> dict:
    np.savez("x.npz", x=x)
    given = ["diagnose", "--checkpoint", path, "--model", f"saved_nets:{model}", "--data", "x.npz", *SHORT, *more]
    capsys.readouterr()
    assert main(given) in (0, 1, 3)
    return json.loads(capsys.readouterr().out)


def first_weight(found: dict) -> dict:
    return next(iter(found["weights"].values()))


def test_agents_of_stable_baselines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=1, device="cpu").learn(64)
    agent.save("ppo.zip")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    found = diagnosed(capsys, "ppo.zip", "ppo", x, "--call", "saved_nets:actor_and_critic")
    assert found["optimizer"].endswith("and the state in the file")
    norm = agent.policy.mlp_extractor.policy_net[0].weight.norm().item()
    assert found["weights"]["mlp_extractor.policy_net.0.weight"]["norm"] == pytest.approx(norm)

    deep = DQN("MlpPolicy", "CartPole-v1", learning_starts=10, batch_size=8, device="cpu").learn(40)
    deep.save("dqn.zip")
    found = diagnosed(capsys, "dqn.zip", "q_net", x, "--key", "q_net")
    assert found["optimizer"].endswith("and the state in the file")
    assert first_weight(found)["norm"] == pytest.approx(deep.q_net.q_net[0].weight.norm().item())

    soft = SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [16, 16]}, device="cpu")
    soft.learn(20).save("sac.zip")
    found = diagnosed(capsys, "sac.zip", "actor", x[:, :3], "--key", "actor", "--call", "saved_nets:mean")
    assert found["optimizer"].endswith("and the state in the file")
    assert found["weights"]["mu.weight"]["norm"] == pytest.approx(soft.actor.mu.weight.norm().item())


def test_a_hostile_pickle_in_an_archive_runs_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Hostile:
        def __reduce__(self):
            return Path.touch, (here / "it_ran",)

    DQN("MlpPolicy", "CartPole-v1", device="cpu").save("dqn.zip")
    with zipfile.ZipFile("dqn.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    hostile = base64.b64encode(pickle.dumps(Hostile())).decode()
    content = json.loads(members["data"])
    content["policy_class"][":serialized:"] = content["lr_schedule"][":serialized:"] = hostile
    members |= {"data": json.dumps(content).encode(), "pytorch_variables.pth": pickle.dumps(Hostile())}
    with zipfile.ZipFile("dqn.zip", "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    found = diagnosed(capsys, "dqn.zip", "q_net", x, "--key", "q_net")
    assert found["measured"]["dead"] < 1
    assert not (here / "it_ran").exists()


class Lit(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


def test_a_checkpoint_of_lightning(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(32, 4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.arange(32) % 3), 16)
    model = Lit()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=1, default_root_dir=here, **quiet)
    trainer.fit(model, loader)
    (path,) = here.glob("checkpoints/*.ckpt")
    found = diagnosed(capsys, str(path), "body", x.numpy())
    assert found["under"] == "net"
    assert found["optimizer"] == "AdamW, lr=0.001 and the state in the file"
    assert first_weight(found)["norm"] == pytest.approx(model.net[0].weight.norm().item())


def test_a_folder_of_transformers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import Trainer, TrainingArguments

    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    x = torch.randint(0, 20, (32, 8))
    rows = [{"input_ids": row, "labels": row} for row in x]
    settings = TrainingArguments(
        "run", max_steps=3, per_device_train_batch_size=8, save_steps=3, report_to=[], use_cpu=True, weight_decay=0.1,
        disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, settings, train_dataset=rows).train()
    found = diagnosed(capsys, "run/checkpoint-3", "gpt2", x.numpy())
    assert found["optimizer"].startswith("AdamW, lr=")
    assert found["optimizer"].endswith("and the state in the file")
    assert found["weights"]["transformer.wte.weight"]["norm"] == pytest.approx(
        model.transformer.wte.weight.norm().item()
    )
    model.save_pretrained("sharded", max_shard_size="5KB")
    assert len(list(here.glob("sharded/*.safetensors"))) > 1
    assert diagnosed(capsys, "sharded", "gpt2", x.numpy())["measured"] == found["measured"]
