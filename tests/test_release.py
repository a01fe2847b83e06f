"""What different files say of versions is the same; that a release works is for `make release`."""

import re
import tomllib
from pathlib import Path

import pytest

import pliant

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TRIED = re.findall(r"python(3\.\d+):(\d+\.\d+)\.\d+", (ROOT / "Makefile").read_text("utf-8"))


def test_the_citation_is_of_this_version() -> None:
    (version,) = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), flags=re.MULTILINE)
    assert version == pliant.__version__


def test_pythons_are_those_that_a_release_is_tried_on() -> None:
    named = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert named == [python for python, _ in TRIED]
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_the_oldest_torch_that_is_allowed_is_tried() -> None:
    (oldest,) = [one.partition(">=")[2].partition(",")[0] for one in PROJECT["dependencies"] if one.startswith("torch")]
    assert oldest in [torch for _, torch in TRIED]


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_commands_and_files_that_an_issue_form_names_exist(form: Path) -> None:
    from pliant.cli import _parser

    text = form.read_text("utf-8")
    commands = next(action for action in _parser()._actions if action.dest == "command").choices
    assert commands is not None
    for command in re.findall(r"`?pliant ([a-z]+)", text):
        assert command in commands
    for path in re.findall(r"docs/\w+\.md", text):
        assert (ROOT / path).exists()
