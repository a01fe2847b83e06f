"""The Python of the README runs as it stands, and what it says exists."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from pliant.experiment import experiments

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_python_blocks_run(swiss_cheese: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(swiss_cheese, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10))
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    names = {
        "model": model,
        "x": x,
        "y": y,
        "nn": nn,
        "torch": torch,
        "optimizer": torch.optim.Adam(model.parameters()),
    }
    names |= {"x0": x, "y0": y, "loss_fn": nn.functional.cross_entropy, "stream": [(x, y)] * 3}
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 6
    for block in blocks[:5]:
        exec(block, names)
    assert names["keeper"].steps == 1  # type: ignore[attr-defined]
    assert len(names["monitor"].rows) == 1  # type: ignore[attr-defined]
    assert {"arm", "seed", "step", "accuracy"} <= set(names["table"].column_names)  # type: ignore[attr-defined]
    names |= {"x": torch.randn(16, 16, 4), "y": torch.randint(3, (16, 16))}
    exec(blocks[5].replace("compile=True", "compile=False"), names)
    assert names["losses"].shape == (16,)  # type: ignore[attr-defined]


def test_every_experiment_is_in_the_table() -> None:
    for id in experiments():
        row = f"| `{id}` |"
        assert row in README, f"write in the table of the README: {row} what it reproduces | not run yet at this tier |"


def test_links_within_the_repository_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
