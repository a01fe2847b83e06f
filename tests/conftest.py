"""Property tests with the same examples on every run, and one finished run that all workers share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from pliant.cli import main

settings.register_profile("pliant", deadline=None, derandomize=True, max_examples=50)  # torch's first call is slow
settings.load_profile("pliant")


@pytest.fixture(scope="session")
def swiss_cheese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smoke tier of lyle2024/swiss_cheese, two seeds; to be read, or copied."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / "swiss_cheese", root / "swiss_cheese.done"
    with FileLock(root / "swiss_cheese.lock"):
        if not done.exists():
            assert main(["run", "lyle2024/swiss_cheese", "--tier", "smoke", "--seeds", "2", "--out", str(folder)]) == 0
            done.touch()
    return folder
