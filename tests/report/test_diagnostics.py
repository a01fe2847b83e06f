"""The list of diagnostics: complete, and the same in the documentation."""

import json

import pytest

from pliant import cli
from pliant.diagnostics import registered
from pliant.report.diagnostics import COSTS, entries


def test_every_diagnostic_is_listed_once_with_what_it_is():
    found = entries()
    assert sorted(e.name for e in found) == sorted(kind.__name__ for kind in registered())
    assert len(found) >= 28
    for entry in found:
        assert entry.needs, entry
        assert entry.cost in COSTS
        assert entry.healthy, entry
        assert entry.paper
        assert len(entry.about) > 20, entry
        assert entry.about.endswith("."), "the first line of the docstring is one sentence"


def test_cheap_ones_first():
    costs = [e.cost for e in entries()]
    assert costs == sorted(costs, key=list(COSTS).index)
    assert set(costs) == set(COSTS)


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--format", "md"], ["--format", "latex"]])
def test_the_command_lists_them(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["diagnostics", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "EmpiricalNTK" in shown
    if arguments == ["--json"]:
        assert {e["name"] for e in json.loads(shown)} == {kind.__name__ for kind in registered()}
    if not arguments:
        assert max(map(len, shown.splitlines())) <= 80
        assert all(kind.__name__ in shown for kind in registered())  # no name is broken over lines
