"""The texts on what a freshly drawn network reads are what it reads."""

import re

import pytest

from pliant.diagnostics import DeadUnits, registered
from tests.diagnostics.healthy import line, readings, rounded

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
    assert told, f"write in {kind.__name__}, if that is right: {line(kind)}"
    for column, low, high in told:
        if kind.__name__ == "EffectiveLearningRate":
            low = high = "2"  # with layer norm
        assert float(low) <= numbers[column] <= float(high or low), (
            f"{column}; write in {kind.__name__}, if that is right: {line(kind)}"
        )


def test_the_line_to_write_is_that_of_ten_seeds():
    """Rounded outwards, in digits that the test reads."""
    assert [rounded(low, high) for low, high in ((0.1234, 0.1296), (-0.01234, 3451.6), (0.0, 0.0), (2.0, 2.0))] == [
        "0.123 to 0.13",
        "-0.0124 to 3460",
        "0",
        "2",
    ]
    assert line(DeadUnits) == 'healthy: ClassVar[str] = "dead 0, dead_count 0"'
