"""Forty networks of public packages through everything: right, or refused by one clear line that is listed."""

from __future__ import annotations

import logging
import re

import pytest

from tests.extras.zoo.__main__ import PAGE, read, written
from tests.extras.zoo.checks import CHECKS
from tests.extras.zoo.networks import FAMILIES, NETWORKS, REFUSED

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the packages


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


def test_the_page_holds_what_every_check_found_at_every_network_and_every_refusal() -> None:
    rows, refused = read(PAGE.read_text())
    assert list(rows) == [name for names in FAMILIES.values() for name in names]
    assert {(name, check) for name, row in rows.items() for check in row if row[check] == "refused"} == REFUSED.keys()
    assert refused.keys() == REFUSED.keys()
    assert all(re.fullmatch(f".*{REFUSED[key]}.*", why) for key, why in refused.items())
    assert written(rows, refused).split("## What")[1] == PAGE.read_text().split("## What")[1]
