"""The list of interventions: complete, costed, and the same in the documentation."""

import json

import pytest

from pliant import cli
from pliant.interventions import registered
from pliant.report.cookbook import COSTS, entries


def test_every_intervention_is_listed_once_with_what_it_is():
    found = entries()
    assert sorted(e.name for e in found) == sorted(kind.__name__ for kind in registered())
    assert len(found) >= 35
    for entry in found:
        assert entry.moments
        assert entry.touches
        assert entry.paper
        assert len(entry.about) > 20, entry


def test_moments_are_those_it_acts_at():
    moments = {e.name: e.moments for e in entries()}
    assert moments["LayerNorm"] == "build"
    assert moments["L2"] == "penalty"
    assert moments["ReDo"] == "step"
    assert moments["ShrinkAndPerturb"] == "event"
    assert moments["NormalizeAndProject"] == "build, step"


def test_what_acts_in_every_step_has_a_measured_cost():
    costs = json.loads(COSTS.read_text())
    for entry in entries():
        assert entry.name in costs, f"write: python benchmarks/interventions.py --only {entry.name} --write"
    assert all(0.3 < ratio < 20 for nets in costs.values() for ratio in nets.values())


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--format", "md"], ["--format", "latex"]])
def test_the_command_lists_them(arguments, capsys):
    assert cli.main(["interventions", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "L2Init" in shown
    if arguments == ["--json"]:
        assert {e["name"] for e in json.loads(shown)} == {kind.__name__ for kind in registered()}
