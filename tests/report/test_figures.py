"""Pictures: the same bytes for the same numbers, whatever the state of matplotlib, and small ones."""

import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from pliant.plots import Lines, figures
from pliant.plots.base import COLOURS, colour
from pliant.plots.figures import svg
from pliant.results import Results
from tests.report.synthetic import SETUP, results


def figure(made: Results, columns: int = 3) -> Figure:
    return figures.figure("title", SETUP.plots, made, SETUP.look, columns)


DIVERGED = {("l2", 1): 27, ("none", 0): 0}


@pytest.mark.parametrize("made", [results(), results(seeds=1), results(diverged=DIVERGED)], ids=["3", "1", "diverged"])
def test_two_renders_are_byte_identical(made: Results) -> None:
    one, other = svg(figure(made)), svg(figure(made))
    assert one == other
    assert not re.search(r"<dc:date>|20\d\d-\d\d", one)
    ET.fromstring(one)


def test_neither_reads_nor_writes_the_users_settings_of_matplotlib() -> None:
    before = svg(figure(results()))
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.hashsalt": "x", "axes.grid": False}):
        kept = dict(matplotlib.rcParams)
        assert svg(figure(results())) == before
        assert dict(matplotlib.rcParams) == kept


def test_the_legend_names_the_arms_that_are_drawn() -> None:
    one, other = (Lines("accuracy", "accuracy", arms=arms) for arms in (("l2",), ()))
    for plots, named in (((one, one), ["L2 <b>&"]), ((one, other), ["no intervention", "L2 <b>&"])):
        made = figures.figure("t", plots, results(), SETUP.look)
        assert [text.get_text() for text in made.legends[0].get_texts()] == named


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_one_set_of_axes_a_panel_and_one_legend(columns: int) -> None:
    made = figure(results(), columns)
    assert [axes.get_title(loc="left") for axes in made.axes] == ["accuracy", "norm"]
    assert len(made.legends) == 1
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["no intervention", "L2 <b>&"]
    assert made.get_size_inches()[0] * 96 <= 740
    made.draw_without_rendering()
    width = made.bbox.width
    assert all(axes.get_tightbbox().x0 >= 0 and axes.get_tightbbox().x1 <= width + 1 for axes in made.axes)


def lines(made: Figure, panel: int) -> dict[str, list]:
    return {
        str(line.get_color()): list(line.get_ydata()) for line in made.axes[panel].lines if len(line.get_xdata()) > 2
    }


def test_an_arm_keeps_its_colour_when_others_are_missing() -> None:
    both, only = results(), results()
    only = Results({key: table for key, table in only.tables.items() if key[0] == "l2"})
    assert lines(figure(only), 0) == {colour(1): lines(figure(both), 0)[colour(1)]}


def test_colours_are_distinct() -> None:
    assert len({colour(at) for at in range(8)}) == len(COLOURS) == 8


def test_the_papers_value_is_a_dashed_line_with_its_name() -> None:
    axes = figure(results()).axes[0]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [0.4]
    assert [text.get_text() for text in axes.texts] == ["paper"]


def test_axes_follow_the_seeds_not_a_band_of_two() -> None:
    made = results(seeds=2)
    for table in made.tables.values():
        table["norm"] = np.where(table["step"] > 20, table["norm"], 2.0)
    bottom, top = figure(made).axes[1].get_ylim()
    assert bottom > 0
    assert top < 1000


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [0.0, 3.0, np.nan])
def test_constant_and_missing_values_draw(value: float, log: bool) -> None:
    made = results(diverged={(arm, seed): 0 for arm in SETUP.arms for seed in range(3)} if np.isnan(value) else None)
    for table in made.tables.values():
        table["norm"] = np.full_like(table["norm"], value)
    plots = (Lines("norm", "norm", log=log), Lines("norm", "norm", over="step", log=log))
    assert "<svg" in svg(figures.figure("title", plots, made, SETUP.look))


def test_twenty_thousand_steps_stay_small() -> None:
    assert len(svg(figure(results(every=4000)))) < 300_000
