"""The monitor in other people's loops: training is bitwise the same, and the trackers hold the rows."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import lightning
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import pliant.integrations.lightning
import pliant.integrations.sb3
import pliant.integrations.transformers
from pliant import Monitor
from pliant.diagnostics import DeadUnits, FeatureRanks, ParameterNorm, PredictiveEntropy
from pliant.integrations import sb3
from pliant.monitor import JSONL, MLflow, TensorBoard, WandB
from tests.bitwise import assert_same, streams
from tests.extras.test_sinks import records
from tests.waiting import until

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of others
    pytest.mark.filterwarnings("error:.*gets no more rows"),
]
EXAMPLES = [
    path
    for path in sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
    if "Needs pip install 'pliant[" in path.read_text()
]


def seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


# -- Stable-Baselines3 -------------------------------------------------------------------------------------------------

AGENTS: dict[str, Callable[[], Any]] = {
    "dqn": lambda: DQN(
        "MlpPolicy", "CartPole-v1", learning_starts=100, train_freq=1, target_update_interval=50, seed=0, device="cpu"
    ),
    "ppo": lambda: PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu"),
    "sac": lambda: SAC("MlpPolicy", "Pendulum-v1", learning_starts=100, seed=0, device="cpu", batch_size=16),
}


def learned(name: str, callback: Any = None, steps: int = 400) -> tuple[Any, Any]:
    seed()
    agent = AGENTS[name]()
    agent.learn(steps, callback=callback)
    optimizer = agent.policy.optimizer if hasattr(agent.policy, "optimizer") else agent.actor.optimizer
    return agent, [agent.policy.state_dict(), optimizer.state_dict(), streams(), agent._last_obs.tolist()]


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_learns_bitwise_the_same(name: str) -> None:
    callback = sb3.MonitorCallback(probe=160, every=64)
    _, plain = learned(name)
    agent, watched = learned(name, CallbackList([callback]))
    assert_same(plain, watched)
    assert callback.monitor is not None
    rows = callback.monitor.rows
    assert len(rows) >= 3
    assert rows[0]["step"] < 200
    assert rows[-1]["step"] <= agent.num_timesteps
    assert all(row["relative_update"] > 0 for row in rows)
    assert rows[-1]["norm_ratio"] > 0
    assert agent.logger.name_to_value["pliant/dead"] == rows[-1]["dead"] or name != "dqn"
    assert all(row["learning_rate"] == pytest.approx(agent.learning_rate) for row in rows)


def test_the_loggers_of_agents_get_five_numbers_and_the_learning_rate() -> None:
    for logged in (sb3.LOGGED, ("dead", "churn")):
        seen: set[str] = set()
        callback = sb3.MonitorCallback(probe=160, every=64, logged=logged)

        class Seen(BaseCallback):
            def _on_step(self, seen: set[str] = seen) -> bool:
                seen |= {key for key in self.logger.name_to_value if key.startswith("pliant/")}
                return True

        learned("dqn", CallbackList([callback, Seen()]))
        assert callback.monitor is not None
        assert len(sb3.LOGGED) == 5
        wanted = {f"pliant/{name}" for name in logged if name in callback.monitor.latest}
        assert seen == wanted | {"pliant/learning_rate"}


@pytest.mark.parametrize("name", AGENTS)
def test_references_are_of_agents_as_their_class_draws_them(name: str) -> None:
    """Orthogonal layers of PPO, for one: those that torch draws have another norm."""
    callback = sb3.MonitorCallback(probe=32, every=1, diagnostics=(ParameterNorm(),))
    learned(name, callback)
    assert callback.monitor is not None
    (first,) = [row for row in callback.monitor.rows if "fresh/parameter_norm" in row]
    assert first["fresh/parameter_norm"] == pytest.approx(first["parameter_norm"] / first["norm_ratio"], rel=0.05)


def test_an_agent_is_measured_on_the_first_observations_from_its_beginning_on(tmp_path: Path) -> None:
    met: list[Any] = []

    class Recorded(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            found = super().step(action)
            met.append(found[0])
            return found

    seed()
    agent = DQN("MlpPolicy", Recorded(gymnasium.make("CartPole-v1")), learning_starts=30, seed=0, device="cpu")
    initial = {name: p.detach().clone() for name, p in agent.q_net.named_parameters()}
    sinks = [JSONL(tmp_path / "rows.jsonl")]
    callback = sb3.MonitorCallback(probe=50, every=10, diagnostics=(ParameterNorm(), DeadUnits()), sinks=sinks)
    agent.learn(200, callback=callback)
    monitor = callback.monitor
    assert monitor is not None
    norms = [torch.stack([p.norm() for p in side]).norm() for side in (agent.q_net.parameters(), initial.values())]
    assert monitor.rows[-1]["norm_ratio"] == pytest.approx((norms[0] / norms[1]).item(), rel=1e-6)
    assert monitor._subject.x.args[0].shape == (50, 4)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(monitor.rows)
    rows = len(monitor.rows)
    agent.learn(100, callback=callback, reset_num_timesteps=False)
    assert callback.monitor is monitor
    assert len(monitor.rows) > rows
    given = sb3.MonitorCallback(probe=np.stack(met[:20]), every=10, network=lambda agent: agent.q_net.q_net)
    agent.learn(100, callback=given, reset_num_timesteps=False)
    assert given.monitor is not None
    assert given.monitor.rows


def test_too_few_observations_are_named() -> None:
    with pytest.warns(UserWarning, match="nothing was measured: the agent met less than 10000 observations"):
        learned("dqn", sb3.MonitorCallback(probe=10_000), steps=120)


class Recurrent(RecurrentPPO):
    """Small and quick."""

    def __init__(self) -> None:
        settings = {"n_lstm_layers": 1, "lstm_hidden_size": 16}
        super().__init__(
            "MlpLstmPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu",
            policy_kwargs=settings,
        )  # fmt: skip


def test_a_recurrent_policy_is_measured_and_learns_bitwise_the_same() -> None:
    AGENTS["recurrent"] = Recurrent
    _, plain = learned("recurrent", steps=160)
    callback = sb3.MonitorCallback(probe=48, every=32)
    _, watched = learned("recurrent", callback, steps=160)
    assert_same(plain, watched)
    assert callback.monitor is not None
    assert len(callback.monitor.rows) >= 3
    assert {"dead/mlp_extractor.policy_net.1", "relative_update"} <= set(callback.monitor.latest)


@pytest.mark.parametrize("network", [lambda agent: agent.policy.lstm_actor, lambda agent: agent.policy.action_net])
def test_a_network_that_cannot_be_measured_is_named_and_ends_no_training(network: Any) -> None:
    AGENTS["recurrent"] = Recurrent
    _, plain = learned("recurrent", steps=160)
    callback = sb3.MonitorCallback(probe=48, every=32, network=network)
    with pytest.warns(UserWarning, match="is not measured: .* write MonitorCallback"):
        _, watched = learned("recurrent", callback, steps=160)
    assert_same(plain, watched)
    assert callback.monitor is None


# -- Lightning ---------------------------------------------------------------------------------------------------------


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(8)
        self.layers = nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


X, Y = torch.randn(96, 4, generator=torch.Generator().manual_seed(0)), torch.arange(96) % 3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_lightning_module_trains_bitwise_the_same(precision: Any, tmp_path: Path) -> None:
    def fitted(*callbacks: Any) -> tuple[Any, Any]:
        seed()
        module = Classifier()
        trainer = lightning.Trainer(
            max_epochs=3, accelerator="cpu", precision=precision, callbacks=list(callbacks), default_root_dir=tmp_path,
            logger=lightning.pytorch.loggers.CSVLogger(tmp_path), log_every_n_steps=1, accumulate_grad_batches=2,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True))
        return trainer, [module.state_dict(), trainer.optimizers[0].state_dict(), streams()]

    callback = pliant.integrations.lightning.MonitorCallback((X, Y), loss=F.cross_entropy, every=6, purify=True)
    _, plain = fitted()
    trainer, watched = fitted(callback)
    assert_same(plain, watched)
    assert callback.monitor is not None
    rows = callback.monitor.rows
    assert [row["step"] for row in rows] == [0, 6, 12, 18]
    assert {"dead", "gradient_norm", "relative_update", "learning_rate"} <= set(rows[0])
    logged = {m["step"]: m["pliant/dead"] for m in trainer.logger.experiment.metrics if "pliant/dead" in m}
    logged |= {}
    csv = (Path(trainer.logger.log_dir) / "metrics.csv").read_text()
    assert "pliant/dead" in csv
    assert "pliant/dead/" not in csv


# -- Transformers ------------------------------------------------------------------------------------------------------


def gpt2() -> nn.Module:
    config = GPT2Config(
        vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_language_model_trains_bitwise_the_same(bf16: bool, tmp_path: Path) -> None:
    tokens = torch.randint(64, (64, 16), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]

    def trained(*callbacks: Any) -> tuple[Any, Any]:
        seed()
        model = gpt2()
        args = TrainingArguments(
            str(tmp_path), max_steps=9, per_device_train_batch_size=4, gradient_accumulation_steps=2, use_cpu=True,
            bf16=bf16, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=list(callbacks))
        trainer.train()
        return trainer, [model.state_dict(), trainer.optimizer.state_dict(), streams(), model.training]

    probe = {"input_ids": tokens[:32], "labels": tokens[:32]}
    refused = pliant.integrations.transformers.MonitorCallback(probe)
    with pytest.raises(ValueError, match=r"Dropout .* draws from the global random stream.*purify=True"):
        trained(refused)
    callback = pliant.integrations.transformers.MonitorCallback(probe, every=4, purify=True)
    _, plain = trained()
    trainer, watched = trained(callback)
    assert_same(plain, watched)
    monitor = callback.monitor
    assert monitor is not None
    assert [row["step"] for row in monitor.rows] == [1, 4, 8]
    assert {"dead", "entropy", "gradient_norm", "relative_update", "learning_rate"} <= set(monitor.rows[0])
    model = gpt2()
    model.load_state_dict(trainer.model.state_dict())
    logits = model.eval()(**probe).logits
    expected = torch.distributions.Categorical(logits=logits).entropy().mean().item()
    now = Monitor(trainer.model, probe, diagnostics=(PredictiveEntropy(),), purify=True)(0)
    assert now is not None
    assert now["entropy"] == pytest.approx(expected, rel=1e-6)  # in the precision of the parameters


def test_the_trainers_trackers_have_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    tokens = torch.randint(64, (32, 16), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    args = TrainingArguments(
        "out", max_steps=5, per_device_train_batch_size=4, use_cpu=True, report_to=["tensorboard"],
        save_strategy="no", logging_steps=2, disable_tqdm=True, seed=0,
    )  # fmt: skip
    callback = pliant.integrations.transformers.MonitorCallback(
        {"input_ids": tokens, "labels": tokens}, every=2, purify=True
    )
    trainer = Trainer(model=gpt2(), args=args, train_dataset=data, callbacks=[callback])
    trainer.train()
    assert callback.monitor is not None
    rows = callback.monitor.rows
    history = [one for one in trainer.state.log_history if "pliant/dead" in one]
    assert [(one["step"], one["pliant/entropy"]) for one in history] == [(r["step"], r["entropy"]) for r in rows]
    found: dict[str, dict[int, float]] = {}
    files = list(tmp_path.rglob("events.out.tfevents.*"))
    assert {file.parent.parent for file in files} == {tmp_path / "out" / "runs"}
    assert len({file.parent for file in files}) == 1  # one run, as the Trainer's own
    for file in files:
        read = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in read.Tags()["scalars"]:
            found.setdefault(tag, {}).update({event.step: event.value for event in read.Scalars(tag)})
    assert found["train/pliant/entropy"] == {r["step"]: pytest.approx(r["entropy"], rel=1e-6) for r in rows}
    assert "train/loss" in found
    assert not any("pliant/dead/" in tag for tag in found)


# -- trackers ----------------------------------------------------------------------------------------------------------


def watched(*sinks: Any) -> Monitor:
    """A loop of five measurements."""
    seed()
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    chosen = {DeadUnits(): 2, FeatureRanks(): 4, ParameterNorm(): 2}
    monitor = Monitor(model, (X, Y), optimizer=optimizer, diagnostics=chosen, sinks=sinks)
    for step in range(9):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        monitor(step)
    return monitor


def expected(monitor: Monitor) -> dict[tuple[int, str], float]:
    return {
        (int(row["step"]), f"pliant/{name}"): value
        for row in monitor.rows
        for name, value in row.items()
        if name != "step"
    }


def test_tensorboard_holds_the_rows_as_they_come(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monitor = watched(TensorBoard(tmp_path))  # not closed yet
    read = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    found = {(e.step, tag): e.value for tag in read.Tags()["scalars"] for e in read.Scalars(tag)}
    assert found == {key: np.float32(value) for key, value in expected(monitor).items()}
    monitor.close()


@pytest.mark.parametrize("own", [True, False])
def test_wandb_holds_the_rows(own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = None if own else wandb.init(mode="offline", dir=tmp_path)
    monitor = watched(WandB(tmp_path))
    monitor.close()
    if run is not None:
        assert wandb.run is run  # ours does not end it
        run.log({"loss": 1.0})
        run.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")

    def ended() -> list[Any]:
        read = [Record.FromString(raw) for raw in records(file.read_bytes())]
        return read if read and read[-1].HasField("exit") else []

    read = until(ended)  # wandb's other process writes the end of the file when it gets to it
    histories = [record.history for record in read if record.HasField("history")]
    rows = [{(i.key or i.nested_key[0]): i.value_json for i in history.item} for history in histories]
    found = {
        (int(row["pliant/step"]), name): float(value)
        for row in rows
        for name, value in row.items()
        if name.startswith("pliant/") and name != "pliant/step"
    }
    if own:
        assert found == expected(monitor)
    else:  # what comes between two logs of the run's owner is joined
        assert len(rows) == 1
        assert found == {(8, f"pliant/{name}"): value for name, value in monitor.latest.items() if name != "step"}


@pytest.mark.parametrize("own", [True, False])
def test_mlflow_holds_the_rows(own: bool, tmp_path: Path) -> None:
    import mlflow

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    if own:
        monitor = watched(MLflow(tmp_path))
        monitor.close()
    else:
        mlflow.set_tracking_uri(store)
        mlflow.set_experiment("pliant")
        with mlflow.start_run():
            monitor = watched(MLflow())
            monitor.close()
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("pliant").experiment_id])
    found = {
        (m.step, name): m.value for name in run.data.metrics for m in client.get_metric_history(run.info.run_id, name)
    }
    assert run.info.status == "FINISHED"
    assert found == expected(monitor)


@pytest.mark.parametrize("sinks", [lambda folder: [TensorBoard(folder)], lambda folder: [MLflow(folder)]])
def test_trackers_change_nothing(sinks: Callable[[Path], list[Any]], tmp_path: Path) -> None:
    watched()
    without = streams()
    watched(*sinks(tmp_path)).close()
    assert_same(without, streams())


# -- examples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path) -> None:
    ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "step" in ran.stdout
