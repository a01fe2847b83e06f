"""What a newcomer is told to write."""

import pytest

from pliant.diagnostics import DeadUnits
from pliant.diagnostics.dead import InactiveUnits
from tests.listed import assert_examples, assert_public, classes


class Newcomer:
    __module__ = "pliant.diagnostics.newcomer"


def test_classes_are_those_of_the_files():
    import pliant.heads

    assert {"Scalar", "PopArt", "Head"} <= {kind.__name__ for kind in classes(pliant.heads)}
    assert "Tensor" not in {kind.__name__ for kind in classes(pliant.heads)}


def test_the_line_to_write_is_said():
    assert_public([DeadUnits, InactiveUnits])
    line = (
        r"write in src/pliant/diagnostics/__init__\.py: from pliant\.diagnostics\.newcomer import Newcomer, "
        r'and "Newcomer" in __all__'
    )
    with pytest.raises(AssertionError, match=line):
        assert_public([DeadUnits, Newcomer])


def test_examples_are_complete_and_none_is_left_over():
    assert_examples([DeadUnits], [DeadUnits()], "tests/examples.py")
    with pytest.raises(AssertionError, match=r"write in tests/examples\.py, in EXAMPLES: .* of Newcomer\(\.\.\.\)"):
        assert_examples([DeadUnits, Newcomer], [DeadUnits()], "tests/examples.py")
    with pytest.raises(AssertionError, match=r"in no file of the package: DeadUnits"):
        assert_examples([Newcomer], [Newcomer(), DeadUnits()], "tests/examples.py")
