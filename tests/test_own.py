"""A study of one's own: run, checked and drawn without touching the package; every mistake is one line, beforehand."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pliant.cli import main
from pliant.experiment import Arm, Setup, find
from pliant.interventions import Chain, ShrinkAndPerturb
from pliant.own import Built, function, module
from pliant.run.rehearse import rehearse

ROOT = Path(__file__).parents[1]
Called = Callable[..., tuple[int, str, str]]
PLIANT = [sys.executable, "-c", "import sys; from pliant.cli import main; sys.exit(main())"]

STUDY = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pliant.claims import Claim
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import Chain
from pliant.interventions.base import Change, Intervention
from pliant.optim import Adam
from pliant.plots import Lines
from pliant.tasks import RandomLabels
from pliant.trials import Fit, Supervised

@dataclass(frozen=True)
class Halve(Intervention):
    reference: ClassVar[str] = "lyle2024"
    touches: ClassVar[str] = "weights"
    def after_step(self, network, params, moments, state, seen):
        return Change({name: 0.5 * params[name] for name in network.names})

@dataclass(frozen=True)
class Settings:
    every: int = 4

def net(shape, outputs):
    made = nn.Sequential(nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, outputs))
    nn.init.orthogonal_(made[1].weight, gain=10.0)
    return made

def setup(settings):
    plain = Supervised(RandomLabels(16, 8, settings.every, 2), "mine.npz", net, Adam(1e-2), measures=(Fit(),))
    halved = Supervised(plain.task, plain.data, net, Adam(1e-2), Chain(Halve()), measures=(Fit(),))
    return Setup(
        arms={"plain": Arm("plain", plain), "halved": Arm("halved weights", halved)},
        plots=(Lines("accuracy", "accuracy"),), table=(Column("last", "loss"),),
        claims=(Claim("Halving leaves nothing.", lambda r: r.last("plain", "loss") - r.last("halved", "loss")),),
        deviations=(),
    )

EXPERIMENT = Experiment("mine/study", "A study", "nothing", (), {"laptop": Settings()}, setup)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=generator.normal(size=(20, 3)).astype(np.float32), y=np.arange(20) % 2)
    (tmp_path / "my_study.py").write_text(STUDY)
    return tmp_path


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    """Exit code, output and errors of a call in a folder, in this process, which forgets the folder's modules."""

    def call(folder: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        before = set(sys.modules)
        try:
            code = main(list(arguments))
        finally:
            for name in set(sys.modules) - before:
                if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
                    del sys.modules[name]
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def refused(called: Called) -> Callable[..., str]:
    """The one line of a call."""

    def call(folder: Path, *arguments: str) -> str:
        code, out, error = called(folder, *arguments)
        assert (code, out) == (2, "")
        (line,) = error.strip().splitlines()
        return line

    return call


def test_a_file_with_an_experiment_is_run_checked_and_drawn(folder: Path, called: Called) -> None:
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT / "src")), "OMP_NUM_THREADS": "1"}
    call = [*PLIANT, "run", "my_study.py", "--seeds", "2"]  # as a program of its own
    ran = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "halved weights" in ran.stdout
    code, out, error = called(folder, "check", "my_study.py", "--json")
    assert code in (0, 1), error
    (one,) = json.loads(out)
    assert [claim["text"] for claim in one["claims"]] == ["Halving leaves nothing."]
    code, out, error = called(folder, "report", "my_study.py")
    assert code == 0, error
    assert "A study" in Path(folder / out.strip()).read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import torch\n", "import torhc\n", "ModuleNotFoundError: No module named 'torhc' (my_study.py, line 5)"),
        ("def setup(settings):", "def setup(settings)", "my_study.py cannot be imported: SyntaxError: expected ':'"),
        ("EXPERIMENT =", "EXPERIMNT =", "expected a constant EXPERIMENT, a pliant.experiment.Experiment, in"),
        ('"mine/study"', '"lyle2023/fig1"', "the id 'lyle2023/fig1' is taken"),
        ('"mine/study"', '"../evil"', "expected an id such as mine/study, got '../evil'"),
        ("settings.every, 2", "settings.evry, 2", "AttributeError: 'Settings' object has no attribute 'evry'"),
        ("nn.Linear(3, 8)", "nn.Linear(4, 8)", "arm 'plain'"),
        ("nn.Linear(8, outputs)", "nn.Linear(8, 5)", "expected a network with outputs of shape (4, 2), got (4, 5)"),
        ('"mine.npz"', '"nowhere.npz"', "nowhere.npz"),
        ("0.5 * params[name]", "0.5 * params[nme]", "NameError: name 'nme' is not defined (my_study.py, line"),
        ('Lines("accuracy"', 'Lines("acuracy"', "unknown column 'acuracy': did you mean 'accuracy'?"),
        ('Column("last", "loss")', 'Column("last", "lost")', "unknown column 'lost': did you mean 'loss'?"),
        ('r.last("halved", "loss")', 'r.last("halvd", "loss")', "arm 'halvd' was not run, did you mean 'halved'?"),
        ('r.last("plain", "loss") -', 'r.ends("plain", "loss") -', "expected one number a seed"),
        ("Settings()}, setup)", "Settings()}, lambda s: setup(s))", "cannot be handed to a worker"),
        ("    return Setup(", "    Setup(", "setup: expected a Setup, got NoneType: write return Setup(...)"),
        ('"nothing", ()', '"nothing", ("smith2020",)', "setup: unknown reference 'smith2020'"),
        ('Lines("accuracy", "accuracy")', 'Lines("accuracy", "accuracy", limits=3)', "plot 'accuracy': TypeError: "),
        ('"mine.npz", net, Adam', '"mine.npz", lambda s, o: net(s, o), Adam', "my_study.py: arm 'plain': <function"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line_before_anything_is_trained(
    folder: Path, refused: Callable[..., str], old: str, new: str, message: str
) -> None:
    if old not in STUDY:
        pytest.fail(f"{old!r} is not in the study")
    (folder / "my_study.py").write_text(STUDY.replace(old, new))
    line = refused(folder, "run", "my_study.py", "--seeds", "2")
    assert message in line
    assert line.startswith("pliant: ")
    assert not list(folder.glob("runs/**/*.parquet"))


NETS = """
from torch import nn
def build(shape, outputs):
    made = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], 8), nn.ReLU(), nn.Linear(8, outputs))
    nn.init.orthogonal_(made[1].weight, gain=10.0)
    return made
def whole(): return build((1, 8, 8), 10)
def failing(shape, outputs): raise RuntimeError("no weights here")
def odd(shape): return build(shape, 10)
def nothing(shape, outputs): return 3
def small(shape, outputs): return build(shape, 3)
"""


@pytest.mark.parametrize("name", ["build", "whole"])
def test_a_net_of_the_working_directory_begins_as_its_function_makes_it(
    tmp_path: Path, called: Called, name: str
) -> None:
    (tmp_path / "my_nets.py").write_text(NETS)
    options = ["--tier", "smoke", "--set", f"net=my_nets:{name}", "--set", "every=2", "--seeds", "1"]
    code, _, error = called(tmp_path, "run", "lyle2024/swiss_cheese", "--arms", "none", *options)
    assert code == 0, error
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "batch.npz", x=generator.normal(size=(32, 1, 8, 8)).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(runpy.run_path(str(tmp_path / "my_nets.py"))["whole"]().state_dict(), tmp_path / "net.pt")
    given = ["--checkpoint", "net.pt", "--model", f"my_nets:{name}", "--data", "batch.npz", "--all"]
    code, out, error = called(tmp_path, "diagnose", *given)
    assert code == 3, error
    assert "1.weight" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "my_nets:failing fails when called: RuntimeError: no weights here (my_nets.py, line 8)"),
        (
            "odd",
            "my_nets:odd: expected a function of (input shape, number of outputs), or of nothing, got one",
        ),
        ("nothing", "my_nets:nothing: expected a function that returns a module, got int"),
        ("small", "expected a network with outputs of shape (4, 10), got (4, 3)"),
        ("gone", "pliant: --set net=my_nets:gone cannot be imported: AttributeError"),
    ],
)
def test_a_net_that_does_not_fit_is_named_before_anything_is_trained(
    tmp_path: Path, refused: Callable[..., str], name: str, message: str
) -> None:
    (tmp_path / "my_nets.py").write_text(NETS)
    line = refused(tmp_path, "run", "lyle2023/fig1", "--tier", "smoke", "--set", f"net=my_nets:{name}", "--seeds", "1")
    assert message in line
    assert not list(tmp_path.glob("runs/**/arm=*"))


def test_a_file_is_a_module_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "a_study_of_tests.py").write_text("x = 3\n")
    assert module(tmp_path / "a_study_of_tests.py").x == 3
    monkeypatch.delitem(sys.modules, "a_study_of_tests")
    with pytest.raises(ValueError, match="there is no file"):
        module(tmp_path / "gone.py")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ValueError, match=r"has the name of another module .* call it otherwise"):
        module(tmp_path / "json.py")
    (tmp_path / "my-study.py").write_text("")
    with pytest.raises(ValueError, match=r"such as my_study\.py, got my-study\.py"):
        module(tmp_path / "my-study.py")


NET = """
from torch import nn

def build(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, outputs))
"""


def test_results_from_other_arrays_or_another_net_are_not_taken_as_the_same(
    folder: Path, called: Called, refused: Callable[..., str]
) -> None:
    (folder / "my_module.py").write_text(NET)
    sets = {"data": "mine.npz", "net": "my_module:build", "num_examples": "16", "batch_size": "8", "every": "4"}
    options = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    call = ["run", "lyle2024/swiss_cheese", "--tier", "smoke", "--arms", "none", *options]
    code, _, error = called(folder, *call, "--seeds", "1")
    assert code == 0, error
    recorded = json.loads(next(folder.rglob("cell.json")).read_text())["files"]
    assert sorted(recorded) == ["mine.npz", "my_module:build"]
    for name, told in (("mine.npz", "mine.npz is another file"), ("my_module.py", "my_module:build is another file")):
        before = (folder / name).read_bytes()
        if name == "mine.npz":
            np.savez(folder / name, x=np.ones((20, 3), np.float32), y=np.arange(20) % 2)
        else:
            (folder / name).write_text(NET.replace("8", "9"))
        for seeds in ("1", "2"):  # with a second seed, too, none is trained beside the first
            said = refused(folder, *call, "--seeds", seeds)
            assert f"is of another definition ({told}): undo that edit, take another --out, or pliant run" in said
            assert said.endswith("--rerun")
        (folder / name).write_bytes(before)
    code, _, error = called(folder, *call, "--seeds", "1")
    assert code == 0, error
    assert "1 of 1 packs were there already" in error


@pytest.mark.filterwarnings("default")
def test_a_study_that_was_edited_is_told_of_and_its_results_are_kept(folder: Path, called: Called) -> None:
    call = ["run", "my_study.py", "--seeds", "1", "--arms", "plain"]
    code, _, error = called(folder, *call)
    assert code == 0, error
    (folder / "my_study.py").write_text(STUDY + "\n# another word\n")
    code, _, error = called(folder, *call)
    assert code == 0, error
    assert "results are kept from before my_study was edited" in error


def test_functions_are_called_with_what_they_take() -> None:
    assert Built("pliant.nets:MLP")((1, 2, 2), 3)(torch.ones(5, 1, 2, 2)).shape == (5, 3)
    assert not Built("torch.nn:Identity").sized
    with pytest.raises(ValueError, match=r"expected --set net=package\.module:function, got 'mlp'"):
        function("mlp", "--set net=")
    with pytest.raises(ValueError, match=r"--set net=math:pi: expected a function, got float"):
        function("math:pi", "--set net=")


def test_a_setting_without_effect_is_told_before_anything_is_trained() -> None:
    experiment = find("lyle2024/swiss_cheese")
    setup = experiment.setup(experiment.settings("smoke"))
    waiting = replace(setup.arms["none"].trial, chain=Chain(ShrinkAndPerturb(0.9, 0.1, event="target_update")))  # type: ignore[type-var]
    arms = {"none": setup.arms["none"], "waiting": Arm("waiting", waiting)}
    alone = Setup(arms, setup.plots[:1], (), (), ())
    with pytest.warns(UserWarning, match=r"ShrinkAndPerturb waits for 'target_update', but this trial fires"):
        rehearse(replace(experiment, sentences=None), alone, list(arms))
