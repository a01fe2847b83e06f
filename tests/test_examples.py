"""Every file in examples/ runs; those that need an extra do so in tests/extras."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

FILES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
EXAMPLES = [path for path in FILES if "Needs pip install 'pliant[" not in path.read_text()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
