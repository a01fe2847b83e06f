"""Every test and doctest draws the same from torch's global stream, whatever ran before it in its process."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

NEEDS = {  # of integrations, a package each that only the extras bring
    "environments": "gymnasium",
    "lightning": "lightning",
    "sb3": "stable_baselines3",
    "transformers": "transformers",
}
lacking = [f"src/pliant/integrations/{name}" for name, package in NEEDS.items() if not find_spec(package)]
collect_ignore = [path for name in lacking for path in (name, f"{name}.py")]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield
