"""The toolbox's own experiments: every cure is there, and the heat map shows them."""

from dataclasses import replace

import numpy as np
import pytest

from pliant.experiment import find
from pliant.interventions import registered
from pliant.optim import Optimizer
from pliant.papers.toolbox.cures import EXPERIMENT, cures
from pliant.plots import Cells, Look, figures
from pliant.report.cookbook import entries
from pliant.results import Results


def test_every_intervention_is_among_the_cures():
    kinds = {cure.kind for cure in cures()}
    for kind in registered():
        assert kind.__name__ in kinds, f'write in cures() of toolbox/cures: cure("a_name", {kind.__name__}(...))'
    assert len(kinds) >= 38
    assert all(isinstance(cure.optimizer, Optimizer) for cure in cures())


def test_names_are_unique_and_every_arm_is_in_the_map():
    setup = EXPERIMENT.setup(EXPERIMENT.settings("laptop"))
    names = [cure.name for cure in cures()]
    assert len(set(names)) == len(names)
    (cells,) = setup.plots
    shown = {arm for row in cells.rows.values() for arm in row if arm is not None}
    assert shown == set(setup.arms)
    assert cells.rows["no intervention"] == ("none", "layer_norm")
    assert cells.rows["BatchNorm"] == ("batch_norm", None)
    assert len(setup.claims) == 7
    assert setup.arms["none"].trial.task.num_tasks > 10  # at least 10 relabellings


def test_rows_are_called_and_grouped_as_interventions_are():
    (cells,) = EXPERIMENT.setup(EXPERIMENT.settings("laptop")).plots
    listed = {entry.name: entry.moments.split(", ")[0] for entry in entries()}
    for label, group in cells.groups.items():
        kind = label.partition("(")[0]
        assert group == listed.get(kind, "optimizer" if label != "no intervention" else "")
    assert list(dict.fromkeys(cells.groups.values())) == ["", "build", "penalty", "step", "event", "optimizer"]
    assert {label for label in cells.rows if label.startswith("Reset")} == {"Reset(last)", "Reset(all)"}
    assert len(cells.rows) == len(cures())


def test_a_cure_of_ones_own_is_a_group_and_takes_no_name_that_is_there():
    setup = EXPERIMENT.setup(EXPERIMENT.settings("smoke", ["only=none,hare", "add=somewhere:MyCure"]))
    assert setup.plots[0].groups == {"no intervention": "", "HareAndTortoise": "step", "MyCure": "your own"}
    with pytest.raises(ValueError, match="whose name another cure has"):
        EXPERIMENT.setup(EXPERIMENT.settings("smoke", ["only=none,hare", "add=somewhere:HareAndTortoise"]))


def test_a_subset_is_asked_for_by_name():
    setup = EXPERIMENT.setup(EXPERIMENT.settings("smoke", ["only=none,l2"]))
    assert list(setup.arms) == ["none", "l2", "ln+l2"]
    with pytest.raises(ValueError, match="unknown cure 'l2_innit': did you mean 'l2_init'"):
        EXPERIMENT.setup(EXPERIMENT.settings("smoke", ["only=l2_innit"]))


def test_the_heat_map_ranks_rows_and_leaves_holes():
    def table(value):
        return {"end": np.array([1.0]), "task": np.array([0.0]), "step": np.array([1.0]), "accuracy": np.array([value])}

    values = {("a", 0): 0.25, ("a", 1): 0.75, ("b", 0): 0.9, ("b", 1): 0.9, ("c", 0): 0.1, ("c", 1): np.nan}
    results = Results({key: table(value) for key, value in values.items()})
    about = Cells("accuracy", "accuracy", ("alone", "with"), {"A": ("a", None), "B": ("b", "missing"), "C": ("c", "a")})
    look = Look({"a": "A", "b": "B", "c": "C"})
    drawn = figures.figure("title", [about], results, look)
    axes = drawn.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["B", "A", "C"]
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "0.90 ± 0.00"
    assert texts[1].startswith("0.50 ± 3.1")
    assert len(texts) == 3  # a diverged mean is empty
    grouped = figures.figure("title", [replace(about, groups={"C": "", "A": "first", "B": "first"})], results, look)
    ticks = grouped.axes[0].get_yticklabels()
    assert [label.get_text() for label in ticks] == ["C", "first", "B", "A"]
    assert [label.get_fontweight() == "bold" for label in ticks] == [False, True, False, False]
    assert sorted(text.get_position()[1] for text in grouped.axes[0].texts) == [0, 2, 3]
    assert figures.svg(drawn) == figures.svg(figures.figure("title", [about], results, look))


def test_the_experiment_is_listed():
    assert find("toolbox/cures") is EXPERIMENT
