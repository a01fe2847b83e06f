"""`pliant diagnose` on checkpoints that plain PyTorch wrote."""

# pyright: reportIndexIssue=false, reportOperatorIssue=false
from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pliant import data
from pliant.cli import checkpoints, main

NETS = """
from torch import nn
import torch.nn.functional as F

def build(outputs=10):
    layers = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs)
    return nn.Sequential(*layers)

def smaller():
    return build(5)

def normed():
    layers = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
    return nn.Sequential(*layers)

def failing():
    raise RuntimeError("no weights here")

def number():
    return 3

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = build()

    def forward(self, x):
        return F.dropout(self.body(x))

constant = 5
"""
BUDGET = ["--steps", "100", "--targets", "3", "--lr", "0.01"]  # at which fresh networks learn


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net trained for a moment, the same with units that died and weights that grew, and the digits."""
    folder = tmp_path_factory.mktemp("diagnose")
    (folder / "nets_of_diagnose.py").write_text(NETS)
    digits = data.load("digits")
    x, y = torch.tensor(digits.x_train[:256]).float().flatten(1) / 16, torch.tensor(digits.y_train[:256])
    np.savez(folder / "batch.npz", x=x.numpy(), y=y.numpy())
    np.savez(folder / "few.npz", x=x[:64].numpy())  # which a net learns to the end
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, folder / "healthy.pt")
    save_file(model.state_dict(), folder / "healthy.safetensors")
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias[:28] = -10
            layer.weight *= 2
    torch.save({"model_state_dict": model.state_dict()}, folder / "lost.pt")
    save_file(model.state_dict(), folder / "lost.safetensors")
    torch.save(model, folder / "whole.pt")
    torch.save({"model": {"epoch": 1}}, folder / "empty.pt")
    (folder / "plain.pkl").write_bytes(pickle.dumps({"model": 1}))
    return folder


@pytest.fixture
def here(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)
    monkeypatch.setenv("COLUMNS", "80")
    return files


def call(checkpoint: str, *more: str, model: str = "build", batch: str = "batch.npz") -> int:
    given = ["diagnose", "--checkpoint", checkpoint, "--model", f"nets_of_diagnose:{model}", "--data", batch]
    return main([*given, *more])


@pytest.mark.parametrize(
    ("name", "code", "verdict"),
    [("healthy.pt", 0, "healthy"), ("lost.pt", 1, "lost"), ("lost.safetensors", 1, "lost")],
)
def test_the_exit_code_tells_what_is_lost(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, verdict: str
) -> None:
    budget, batch = (BUDGET, "batch.npz") if verdict == "lost" else (["--steps", "200", "--lr", "0.01"], "few.npz")
    assert call(name, "--probe", "labels", *budget, "--json", batch=batch) == code
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == verdict == found["causes"]["verdict"]
    assert set(found) >= {"measured", "fresh", "weights", "optimizer"}
    if verdict == "lost":
        shares = found["causes"]["shares"]
        assert max(shares, key=shares.get) == "units"
        assert found["measured"]["dead"] > 0.8 > 0.3 > found["fresh"]["dead"]["high"]


def test_the_state_in_the_file_counts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = ["--probe", "labels", "--steps", "20", "--targets", "2", "--json"]
    assert call("healthy.pt", *budget) in (0, 1, 3)
    carried = json.loads(capsys.readouterr().out)
    assert carried["optimizer"] == "Adam, lr=0.001 and the state in the file"
    assert "optimizer state" not in carried["causes"]["idle"]
    assert call("healthy.pt", *budget, "--optimizer", "adam") in (0, 1, 3)
    fresh = json.loads(capsys.readouterr().out)
    assert fresh["optimizer"] == "Adam, lr=0.001 without state: that in the file is left out"
    assert "optimizer state" in fresh["causes"]["idle"]
    assert carried["causes"]["values"]["none"] != fresh["causes"]["values"]["none"]


def test_a_file_alone_gives_norms_and_ranks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--checkpoint", "healthy.safetensors", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    weights = torch.load("healthy.pt", weights_only=True)["model"]
    assert found["verdict"] == "cannot tell"
    for name, tensor in weights.items():
        assert found["weights"][name]["norm"] == pytest.approx(float(tensor.double().norm()), rel=1e-5)
    singular = np.linalg.svd(weights["2.weight"].numpy(), compute_uv=False)
    assert found["weights"]["2.weight"]["singular_values"] == pytest.approx(singular, rel=1e-4, abs=1e-6)
    assert main(["diagnose", "--checkpoint", "healthy.safetensors"]) == 3
    out = capsys.readouterr().out
    assert "cannot tell without --fresh, which needs --model and --data" in out
    assert max(map(len, out.splitlines())) <= 80


def test_all_tables_fit_80_columns(here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = str(tmp_path / "causes.html")
    assert call("lost.pt", "--loss", "cross_entropy", "--fresh", *BUDGET, "--page", page, "--all") == 1
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    said = " ".join(out.split())
    assert re.search(r"lost \d\.\d\d nats \S+ \S+ against fresh networks: units \d+ %", said)
    for part in ("units at dead dormant", "hessian_largest", "ntk_rank", "unexplained", "treat units with: "):
        assert part in said, part
    assert "probe: FreshLabels(classes=10), with Adam, lr=0.01 without state: there is none in the file" in said
    assert (tmp_path / "causes.html").read_text().startswith("<!doctype html>")


def test_the_verdict_comes_first_then_what_departs_from_fresh(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("lost.pt", "--fresh", *BUDGET, "--probe", "labels") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lost ")
    at = next(i for i, line in enumerate(lines) if line.startswith("departs"))
    (dead,) = (line.split() for line in lines[at:] if line.startswith("dead "))
    here_, low, high = float(dead[1]), float(dead[3]), float(dead[5])
    assert here_ > 0.8 > 0.3 > high >= low
    shown = " ".join(lines)
    assert "--all shows all" in shown
    for absent in ("feature_norm_ratio", "units at", "tensor "):
        assert absent not in shown
    assert call("healthy.pt") == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cannot tell without --fresh")
    assert not any(line.startswith("dead") for line in lines)


def test_without_a_loss_nothing_is_differentiated_but_the_kernel(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("healthy.pt", "--json") == 3
    found = json.loads(capsys.readouterr().out)["measured"]
    assert {"dead", "effective_rank", "ntk_rank", "norm_ratio"} <= set(found)
    assert not {"gradient_norm", "hessian_largest", "relative_update", "churn"} & set(found)


def test_prefixes_of_compiled_and_distributed_models_are_accepted(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = torch.load("healthy.pt", weights_only=True)["model"]
    torch.save({f"module._orig_mod.{name}": t for name, t in weights.items()}, tmp_path / "odd.pt")
    found = []
    for name in ("healthy.pt", str(tmp_path / "odd.pt")):
        assert call(name, "--json") == 3
        found.append(json.loads(capsys.readouterr().out)["measured"])
    assert found[0] == found[1]


def test_batch_norm_and_dropout_are_measured_in_eval_and_refitted_by_batches(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
    torch.save(model.state_dict(), tmp_path / "normed.pt")
    budget = ["--probe", "labels", "--steps", "10", "--targets", "2"]
    assert call(str(tmp_path / "normed.pt"), *budget, "--json", model="normed") in (0, 1, 3)
    causes = json.loads(capsys.readouterr().out)["causes"]
    assert np.isfinite(causes["probe"]["curves"]["now"]).all()


@pytest.mark.parametrize(
    "made",
    [
        lambda p: torch.optim.Adam(p, 3e-3, betas=(0.8, 0.99), weight_decay=1e-3),
        lambda p: torch.optim.AdamW(p, 3e-3, weight_decay=1e-3),
        lambda p: torch.optim.SGD(p, 3e-3, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 3e-3),
        lambda p: torch.optim.RMSprop(p, 3e-3, alpha=0.9, centered=True),
    ],
)
def test_an_optimizer_made_from_its_state_takes_the_same_step(made: object) -> None:
    model = nn.Linear(3, 2)
    optimizer = made(model.parameters())  # type: ignore[operator]

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    step(model, optimizer)
    other = nn.Linear(3, 2)
    other.load_state_dict(model.state_dict())
    again, _ = checkpoints.optimizer([copy.deepcopy(optimizer.state_dict())], other)
    assert torch.equal(step(other, again), step(model, optimizer))


def test_states_that_do_not_fit_are_refused() -> None:
    def state(model: nn.Module, kind: type = torch.optim.Adam) -> dict:
        optimizer = kind(model.parameters(), lr=1e-3)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return optimizer.state_dict()

    with pytest.raises(ValueError, match="is of 1 parameters, the model has 2"):
        checkpoints.optimizer([state(nn.Linear(3, 2, bias=False))], nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"exp_avg of shape \(4, 3\) for 'weight' of shape \(2, 3\)"):
        checkpoints.optimizer([state(nn.Linear(3, 4))], nn.Linear(3, 2))
    for kind in (torch.optim.Adagrad, torch.optim.NAdam, torch.optim.RAdam):
        with pytest.raises(ValueError, match="not that of torch's Adam"):
            checkpoints.optimizer([state(nn.Linear(3, 2), kind)], nn.Linear(3, 2))


def test_at_the_end_of_a_schedule_the_rate_before_it_counts_or_nothing_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A cosine to 0 keeps where it began; an optimizer that only has 0 cannot tell, and says which options would."""
    for initial, code in ((1e-2, 1), (None, 3)):
        model = net()
        model.load_state_dict(torch.load("lost.pt", weights_only=True)["model_state_dict"])
        optimizer = torch.optim.Adam(model.parameters(), 0.0)
        if initial:
            optimizer.param_groups[0]["initial_lr"] = initial
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "ended.pt")
        found = call(str(tmp_path / "ended.pt"), "--probe", "labels", "--steps", "100", "--targets", "2")
        out = " ".join(capsys.readouterr().out.split())
        assert found == code, out
        if initial:
            assert "learning rate 0.01, before its schedule (now it is 0); --lr sets another" in out
        else:
            assert "cannot tell: fresh networks did not learn either (loss 2.3" in out
            assert "to tell more, write --lr 0.001 probe:" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.pt"], "--checkpoint nowhere.pt: No such file or directory"),
        (["whole.pt"], "holds a pickled torch.nn.modules.container.Sequential, which loading would run: refused"),
        (["empty.pt"], "with one under model, state_dict, model_state_dict, got dict with 'epoch': int"),
        (["plain.pkl"], "is neither a safetensors file nor a checkpoint of torch"),
        (["nets_of_diagnose.py"], "is neither a safetensors file nor a checkpoint of torch"),
        (["healthy.pt", "--optimiser", "adam"], "unknown argument '--optimiser': did you mean '--optimizer'?"),
        (["healthy.pt", "--loss", "mes"], "unknown loss 'mes': did you mean 'mse'?"),
        (["healthy.pt", "--fresh", "--targets", "1"], "expected --targets to be at least 2, got 1"),
        (["healthy.pt", "--fresh", "--lr", "0"], "expected --lr above 0, got 0.0"),
        (["healthy.pt", "--page", "x.html"], "--page is of no use without --fresh"),
        (["healthy.pt", "--loss", "mse"], "mse needs y of the outputs' shape (256, 10), got (256,)"),
    ],
)
def test_bad_calls_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str) -> None:
    try:
        code = call(*given)
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smaller", "'4.weight' has shape (10, 32), in the model it has shape (5, 32)"),
        ("normed", "the checkpoint does not fit --model"),
        ("failing", "--model nets_of_diagnose:failing fails when called: RuntimeError: no weights here"),
        ("number", "expected a function that returns a module, got int"),
        ("constant", "expected a function, got int"),
        ("nothing", "--model nets_of_diagnose:nothing cannot be imported"),
    ],
)
def test_wrong_models_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], model: str, message: str) -> None:
    assert call("healthy.pt", model=model) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_wrong_batches_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    x, y = np.eye(64, dtype=np.float32), np.zeros(64, int)
    cases = {
        "expected an array x, got inputs": {"inputs": x},
        "the model cannot be called on x of shape (64, 63)": {"x": x[:, 1:]},
        "expected at least 16 samples, got 15": {"x": x[:15]},
        "x holds NaN or infinity": {"x": x * np.nan},
        "got x of 64 and y of 63": {"x": x, "y": y[1:]},
        "all 64 inputs in x are equal, as in the empty replay buffer": {"x": np.zeros_like(x)},
        "holds pickled objects": {"x": np.array([{}] * 64)},
        "--loss cross_entropy needs an array y": {"x": x},
        "got labels 0 to 10 and outputs (64, 10)": {"x": x, "y": np.arange(64) % 11},
        "the model's outputs are not finite on x": {"x": x.astype(float) * 1e300, "y": y},
    }
    for message, arrays in cases.items():
        np.savez(tmp_path / "odd.npz", **arrays)
        assert call("healthy.pt", "--loss", "cross_entropy", batch=str(tmp_path / "odd.npz")) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error


def test_numbers_that_are_not_finite_and_random_outputs_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = torch.load("healthy.pt", weights_only=True)["model"]
    torch.save({f"body.{name}": t for name, t in weights.items()}, tmp_path / "noisy.pt")
    assert call(str(tmp_path / "noisy.pt"), model="Noisy") == 2
    assert "gives other outputs when called again" in capsys.readouterr().err
    torch.save(weights | {"2.bias": torch.full((32,), torch.nan)}, tmp_path / "nan.pt")
    assert call(str(tmp_path / "nan.pt")) == 2
    assert "'2.bias' holds NaN or infinity" in capsys.readouterr().err
