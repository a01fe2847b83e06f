"""Forty networks of public packages through everything: right, or refused by one clear line that is listed."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from tests.extras.zoo.checks import CHECKS
from tests.extras.zoo.networks import FAMILIES, NETWORKS, REFUSED

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the packages
PAGE = Path(__file__).parents[3] / "docs" / "zoo.md"


@pytest.mark.parametrize(
    ("name", "check"),
    [pytest.param(n, c, marks=pytest.mark.xdist_group(n), id=f"{n}-{c}") for n in NETWORKS for c in CHECKS],
)
def test_network(name: str, check: str) -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if (name, check) not in REFUSED:
        assert CHECKS[check](NETWORKS[name])
        return
    with pytest.raises(ValueError, match=REFUSED[name, check]) as error:
        CHECKS[check](NETWORKS[name])
    assert "\n" not in str(error.value)


def test_the_zoo_is_large_and_little_is_refused() -> None:
    assert len(NETWORKS) >= 40
    assert sum(map(len, FAMILIES.values())) == len(NETWORKS)
    assert len(FAMILIES["Image networks of timm with activations in place"]) >= 14
    assert len(REFUSED) <= 5


def test_the_page_lists_every_network_and_every_refusal() -> None:
    rows = [
        line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if re.match(r"\| [a-z0-9-]+ +\|", line)
    ]
    assert sorted(rows) == sorted([*NETWORKS, "network"])
