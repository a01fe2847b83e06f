"""Cures of one's own beside the toolbox's, on one's own data, network and task: in one line, and from Python."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pliant.cli import main
from pliant.study import prepare, train

MODULE = """
from dataclasses import dataclass

from torch import nn

from pliant.interventions import Intervention, L2
from pliant.tasks import RandomLabels


@dataclass(frozen=True)
class MyCure(Intervention):
    strength: float = 1e-3

    def penalty(self, network, params, state, seen):
        return self.strength * sum(p.abs().sum() for p in params.values())


@dataclass(frozen=True)
class Needs(MyCure):
    other: float = None

    def __post_init__(self):
        if self.other is None:
            raise TypeError("other is missing")


class Halves(RandomLabels):
    def examples(self, data, seed, task, previous=None):
        return super().examples(data, seed, task // 2, None)


def broken():
    @dataclass(frozen=True)
    class Raises(MyCure):
        def penalty(self, network, params, state, seen):
            raise RuntimeError("no such thing")
    return Raises()


def build(shape, outputs):
    return nn.Sequential(nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, outputs))


def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draws = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=draws.normal(size=(200, 6)).astype("float32"), y=np.arange(200) % 3)
    (tmp_path / "my_cures.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_cures", raising=False)
    return tmp_path


CALL = ["run", "toolbox/cures", "--tier", "smoke", "--seeds", "2", "--arms", "l2,redo"]
OWN = ["--set", "data=mine.npz", "--set", "net=my_cures:build", "--set", "task=permuted_pixels"]


def test_cures_are_compared_on_ones_own_task_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, *OWN, "--add", "my_cures:MyCure"]) == 0
    said = capsys.readouterr().out
    for label in ("L2", "ReDo", "MyCure", "LayerNorm + MyCure"):
        assert label in said
    run = train(
        "toolbox/cures", tier="smoke", seeds=2, arms=["l2", "redo"], data="mine.npz", net="my_cures:build",
        task="permuted_pixels", add=["my_cures:MyCure"],
    )  # fmt: skip
    assert run.arms == ("l2", "redo", "mycure", "ln+mycure")  # trained above: the same run, nothing anew
    assert run.results.last("mycure", "accuracy").shape == (2,)
    (cell,) = folder.glob("runs/toolbox/cures/*/arm=mycure/seed=0/cell.json")
    assert "my_cures:MyCure" in json.dumps(json.loads(cell.read_text()))
    assert main(["report", "toolbox/cures", "--tier", "smoke"]) == 0
    (page,) = folder.glob("runs/toolbox/cures/*/report.html")
    assert "MyCure" in page.read_text()
    assert main(["figure", str(run.folder), "--to", "map.svg"]) == 0
    capsys.readouterr()
    assert main([*CALL, *OWN, "--add", "my_cures:MyCure"]) == 0
    assert "were there already" in capsys.readouterr().err


def test_a_task_of_ones_own(folder: Path) -> None:
    run = train("toolbox/cures", tier="smoke", seeds=1, arms=["l2"], num_tasks=2, task="my_cures:Halves")
    assert run.results.ends("l2", "accuracy").shape == (1, 2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--add", "my_cures:MyCura"], "--add my_cures:MyCura cannot be imported: AttributeError"),
        (["--add", "my_curs:MyCure"], "--add my_curs:MyCure cannot be imported: ModuleNotFoundError"),
        (["--add", "my_cures"], "expected add to be package.module:name"),
        (["--add", "my_cures:Needs"], "write a function of nothing that returns it: TypeError: other is missing"),
        (["--add", "my_cures:number"], "expected a class of interventions, or a function that returns one, got int"),
        (["--add", "my_cures:broken"], "no such thing"),
        (["--add", "my_cures:L2", "--set", "only=l2"], "whose name another cure has"),
        (["--set", "task=my_cures:build"], "--set task=my_cures:build fails when made: TypeError"),
        (["--set", "task=permuted_pixel"], "unknown task 'permuted_pixel': did you mean 'permuted_pixels'"),
    ],
)
def test_every_mistake_is_one_line_before_anything_is_trained(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main([*CALL, *more]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not list(folder.glob("runs/**/cell.json"))


def test_only_cures_are_added_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "lyle2024/swiss_cheese", "--tier", "smoke", "--add", "my_cures:MyCure"]) == 2
    assert "unknown setting 'add'" in capsys.readouterr().err


def test_settings_may_say_which_arms_there_are(tmp_path: Path) -> None:
    """They have an effect; and settings whose `net` is a method are prepared as others."""
    chosen = ["games=catch", "agents=double_dqn"]
    _, _, arms = prepare("toolbox/minatar", "laptop", chosen, [], tmp_path, None)
    assert arms == ["catch_double_dqn_none", "catch_double_dqn_layer_norm"]
    _, _, arms = prepare("lyle2023/fig7", "smoke", [], [], tmp_path, None)
    assert arms == ["catch_none", "catch_layer_norm"]
    with pytest.warns(UserWarning, match="--set agents has no effect"):
        prepare("toolbox/minatar", "laptop", chosen, arms=["catch_double_dqn_none"], out=tmp_path, device=None)


def test_reading_settings_runs_nothing(folder: Path) -> None:
    from pliant.experiment import find
    from pliant.run.identity import definition

    experiment = find("toolbox/cures")
    setup = experiment.setup(experiment.settings("smoke", ["add=nowhere:Cure", "task=nowhere:Task"]))
    assert "nowhere:Cure" in definition(setup.arms["cure"])["chain"]
    assert "nowhere" not in sys.modules
