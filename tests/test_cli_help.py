"""What a new user finds: names, versions, help with examples."""

from __future__ import annotations

import argparse
import pydoc
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from rlcompleter import Completer

import pytest

import pliant
from pliant.cli import _parser, main
from pliant.cli.parsing import Parser
from pliant.experiment import experiments
from pliant.words import unknown


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


ALL = list(parsers(_parser()))


def test_public_names_are_listed_completed_and_explained() -> None:
    shown = {name for name in dir(pliant) if not name.startswith("_")}
    assert set(pliant.__all__) < shown
    for name in shown:
        assert getattr(pliant, name) is not None
    completed = Completer({"pliant": pliant}).attr_matches("pliant.Mon")
    assert [name.rstrip("(") for name in completed] == ["pliant.Monitor"]
    helped = pydoc.plain(pydoc.render_doc(pliant))
    for name in pliant.__all__:
        assert f"class {name}(" in helped or f"    {name}(" in helped, name


def test_names_that_a_new_process_has_not_imported_are_found() -> None:
    code = "import pliant; print('probe' in dir(pliant), pliant.probe.FreshLabels(10))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "FreshLabels(classes=10)"]


def test_the_version_is_told_without_torch() -> None:
    code = "import sys; from pliant.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, f"pliant {pliant.__version__}\n")
    assert pliant.__version__ == version("pliant")


def test_the_package_is_a_program() -> None:
    ran = subprocess.run([sys.executable, "-m", "pliant", "cite", "lyle2023/fig1"], capture_output=True, text=True)
    assert ran.returncode == 0
    assert "@inproceedings{lyle2023" in ran.stdout
    assert ran.stderr == ""


@pytest.mark.parametrize("call", [[], ["data"]])
def test_without_a_command_there_is_help(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call) == 2
    out, error = capsys.readouterr()
    assert out.startswith(f"usage: {' '.join(['pliant', *call])} ")
    assert error == ""


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_every_help_has_examples_that_parse(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parser.examples
    assert parser.format_help().endswith("\n".join(f"  {line}" for line in parser.examples) + "\n")
    for line in parser.examples:
        _, *words = shlex.split(line, comments=True)
        given, rest = _parser().parse_known_args(words)
        assert rest == []
        assert given.parser.prog.startswith(parser.prog)
        for id in (word for word in words if word.startswith(("lyle", "toolbox"))):
            assert id in experiments()


@pytest.mark.parametrize(
    ("got", "known", "hint"),
    [
        ("ntohing", ["nothing", "smoke"], "nothing"),
        ("redo", ["ReDo", "L2"], "ReDo"),
        ("cheese", ["lyle2024/swiss_cheese", "lyle2023/fig1"], "lyle2024/swiss_cheese"),
        ("fig", ["lyle2023/fig1", "lyle2023/fig2"], None),  # a part of two
        ("frobnicate", ["data", "report", "diagnostics"], None),
        ("x", ["fix", "mix"], None),
        ("", ["run"], None),
    ],
)
def test_a_match_is_suggested_only_where_it_is_near(got: str, known: list[str], hint: str | None) -> None:
    said = unknown("name", got, known)
    assert ("did you mean" in said) == (hint is not None)
    if hint:
        assert f"did you mean {hint!r}?" in said
