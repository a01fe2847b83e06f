"""Checkpoints as other libraries write them: which tensors are read, which optimizer, and what is never run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pliant.cli import checkpoints, saved


def net(outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, outputs))


def named(prefix: str, model: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def written(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    """As Stable-Baselines3 writes it: beside tensors, JSON with pickles in it."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("data", json.dumps({"policy_class": {":serialized:": "gAWV...", ":type:": "<class>"}}))
        for name, content in members.items():
            made.writestr(name.replace("__", ".") + ".pth", content)
    return path


def stepped(model: nn.Module, *groups: dict[str, Any]) -> dict[str, Any]:
    """The state of an AdamW after a step."""
    optimizer = torch.optim.AdamW(groups or model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return optimizer.state_dict()


class Hostile:
    def __reduce__(self):
        return print, ("it runs",)


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "module._orig_mod.", "agent.q_net."])
def test_prefixes_are_seen_through(tmp_path: Path, prefix: str) -> None:
    model, other = net(), net()
    torch.save({"state_dict": {**named(prefix, model)}, "epoch": 3}, tmp_path / "a.ckpt")
    found = checkpoints.fill(other, saved.read(tmp_path / "a.ckpt"))
    assert found == prefix.replace("_orig_mod.", "").rstrip(".")
    assert equal(model, other)


def test_an_average_is_read_without_its_counter(tmp_path: Path) -> None:
    model, other = net(), net()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save(averaged.state_dict(), tmp_path / "ema.pt")
    assert "n_averaged" in averaged.state_dict()
    assert checkpoints.fill(other, saved.read(tmp_path / "ema.pt")) == "module"
    assert equal(model, other)


def test_of_two_networks_one_has_to_be_named(tmp_path: Path) -> None:
    model, target, other = net(), net(), net()
    path = tmp_path / "agent.pt"
    torch.save({**named("q_net.", model), **named("q_net_target.", target)}, path)
    with pytest.raises(ValueError, match="holds 2 networks that fit --model, under q_net, q_net_target: write --key q"):
        checkpoints.fill(other, saved.read(path))
    for key, wanted in (("q_net", model), ("q_net_target", target)):
        checkpoints.fill(other, saved.read(path, key))
        assert equal(wanted, other)
    with pytest.raises(ValueError, match="expected --key to be one of q_net, q_net_target, got 'qnet'"):
        saved.read(path, "qnet")


def test_a_nested_state_dict_is_found_or_named(tmp_path: Path) -> None:
    actor, critic, other, path = net(), net(1), net(), tmp_path / "agent.pt"
    torch.save({"agent": {"actor": actor.state_dict()}, "step": 7}, path)
    checkpoints.fill(other, saved.read(path))
    assert equal(actor, other)
    torch.save({"agent": {"actor": actor.state_dict(), "critic": critic.state_dict()}, "step": 7}, path)
    with pytest.raises(ValueError, match=r"state dicts under agent.actor, agent.critic: write --key agent.actor"):
        saved.read(path)
    checkpoints.fill(other, saved.read(path, "agent.actor"))
    assert equal(actor, other)
    torch.save({"model": named("net.", actor), "best": {"model": named("net.", critic)}}, path)
    checkpoints.fill(other, saved.read(path, "model.net"))
    checkpoints.fill(other, saved.read(path, "net"))
    assert equal(actor, other)
    assert saved.read(path, "best.model.net").tensors["3.bias"].shape == (1,)
    with pytest.raises(ValueError, match=r"expected --key to be one of model, best.model, got 'worst'"):
        saved.read(path, "worst")


def test_an_archive_gives_the_policy_and_its_optimizer(tmp_path: Path) -> None:
    model, other = net(), net()
    state = stepped(model)
    policy = {**named("q_net.", model), **named("q_net_target.", net())}
    path = archive(tmp_path / "dqn.zip", policy=written(policy), policy__optimizer=written(state))
    checkpoint = saved.read(path, "q_net")
    checkpoints.fill(other, checkpoint)
    assert equal(model, other)
    optimizer, _ = checkpoints.optimizer(checkpoint.optimizers, other)
    torch.testing.assert_close(optimizer.state_dict()["state"], state["state"], rtol=0, atol=0)


def test_of_several_optimizers_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    actor, critic = net(), net(1)
    states = stepped(actor), stepped(critic)
    path = archive(
        tmp_path / "sac.zip", policy=written({**named("actor.", actor), **named("critic.", critic)}),
        actor__optimizer=written(states[0]), critic__optimizer=written(states[1]),
    )  # fmt: skip
    for model, key, state in ((actor, "actor", states[0]), (critic, "critic", states[1])):
        _, taken = checkpoints.optimizer(saved.read(path, key).optimizers, model)
        torch.testing.assert_close(taken["state"], state["state"], rtol=0, atol=0)
    with pytest.raises(ValueError, match="2 optimizers of the checkpoint fit the model: write --optimizer"):
        checkpoints.optimizer([states[0], states[0]], actor)


def test_pickles_in_an_archive_are_never_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = net()
    path = archive(tmp_path / "odd.zip", policy=written(model.state_dict()), pytorch_variables=pickle.dumps(Hostile()))
    assert saved.read(path).tensors.keys() == model.state_dict().keys()
    path = archive(tmp_path / "hostile.zip", policy=written(Hostile()))
    with pytest.raises(ValueError, match=r"policy.pth holds a pickled \S*print, which loading would run: refused"):
        saved.read(path)
    path = archive(tmp_path / "state.zip", policy=written(model.state_dict()), policy__optimizer=written(Hostile()))
    with pytest.raises(ValueError, match=r"policy.optimizer.pth holds a pickled \S*print"):
        saved.read(path)
    assert capsys.readouterr().out == ""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("policy.pth", bytes(1_000_000))
    with pytest.raises(ValueError, match=r"policy.pth expands more than 10 times: refused"):
        saved.read(tmp_path / "bomb.zip")


def test_a_folder_gives_whole_and_sharded_models_and_the_trainers_optimizer(tmp_path: Path) -> None:
    model, other = net(), net()
    parts = [dict(list(model.state_dict().items())[:3]), dict(list(model.state_dict().items())[3:])]
    for number, part in enumerate(parts):
        save_file(part, tmp_path / f"model-{number}.safetensors")
    index = {"weight_map": {name: f"model-{n}.safetensors" for n, part in enumerate(parts) for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoints.fill(other, saved.read(tmp_path))
    assert equal(model, other)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-1.safetensors is not there: fetch all shards"):
        saved.read(tmp_path)
    index["weight_map"]["0.weight"] = "../outside.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names '../outside.safetensors', expected files of the folder"):
        saved.read(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no index of safetensors files"):
        saved.read(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"expected model.safetensors, model.safetensors.index.json or pytorch_model"):
        saved.read(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    decays = [p for name, p in model.named_parameters() if not name.startswith("1.") and "bias" not in name]
    rest = [p for name, p in model.named_parameters() if name.startswith("1.") or "bias" in name]
    state = stepped(model, {"params": decays, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0})
    torch.save(state, tmp_path / "optimizer.pt")
    optimizer, _ = checkpoints.optimizer(saved.read(tmp_path).optimizers, other)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for (name, p), q in zip(other.named_parameters(), model.parameters(), strict=True):
        number = next(i for i, r in enumerate([*decays, *rest]) if r is q)
        assert torch.equal(optimizer.state[p]["exp_avg"], state["state"][number]["exp_avg"]), name


def test_tied_tensors_may_be_saved_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.body, self.head = nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    for left_out in ("embedding.weight", "head.weight"):
        model, other = Tied(), Tied()
        tensors = {name: tensor for name, tensor in model.state_dict().items() if name != left_out}
        save_file(tensors, tmp_path / "model.safetensors")
        checkpoints.fill(other, saved.read(tmp_path))
        assert equal(model, other)
        save_file({f"net.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
        assert checkpoints.fill(other, saved.read(tmp_path)) == "net"


def test_the_state_of_lightning_is_read(tmp_path: Path) -> None:
    model, other = net(), net()
    state = stepped(model)
    torch.save({"state_dict": named("net.", model), "optimizer_states": [state], "loops": {}}, tmp_path / "a.ckpt")
    checkpoint = saved.read(tmp_path / "a.ckpt")
    assert checkpoints.fill(other, checkpoint) == "net"
    optimizer, _ = checkpoints.optimizer(checkpoint.optimizers, other)
    torch.testing.assert_close(optimizer.state_dict()["state"], state["state"], rtol=0, atol=0)
    torch.save({"state_dict": named("net.", model), "optimizer_states": [{"state": {}}]}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"expected an optimizer's state_dict\(\), got state"):
        saved.read(tmp_path / "a.ckpt")
