"""Pictures of their own, on a phone and in a column of a paper: nothing is cut off, and nothing lies on other words."""

import numpy as np
import pytest

from pliant.plots import Areas, Cells, Lines, Look, Scatter
from pliant.plots.figures import figure
from pliant.plots.waterfalls import Waterfalls
from pliant.results import Results

ARMS = {"a": "no intervention", "b": "layer norm", "c": "layer norm and L2"}
LOOK = Look(ARMS)
PARTS = {"units": "units", "norm growth": "norm", "optimizer state": "optimizer"}
ROWS = {"regression, spectral norm": ("a", "b", "c", None), "regression, reset optimizer": ("c", None, "a", "b")}
WORDS = ("squared error,\nthen\nzero offset", "layer norm,\nthen\nsame offset", "two-hot head", "none")


def results() -> Results:
    draws = np.random.default_rng(0)
    columns = ("accuracy", "units", "norm", "optimizer", "probe_fresh", "dead")
    return Results(
        {
            (arm, seed): {
                "step": np.array([5, 10]), "task": np.array([0, 1]), "end": np.array([True, True]),
                "diverged_at": np.array([-1, -1]), **{name: draws.uniform(0.1, 1, 2) for name in columns},
            }
            for arm in ARMS for seed in range(3)
        }
    )  # fmt: skip


PAPER = {label: ("0.34", "0.27", None, "0.20") for label in ROWS}
FEW = {"selective weight re-init": ("a", "b"), "L2": ("c", None)}
GROUPS = {"all": ("a", "b")}
PLOTS = {
    "cells": Cells("accuracy", "accuracy", ("alone", "with layer norm"), FEW),
    "many cells": Cells("accuracy", "accuracy at the end of the last task", WORDS, ROWS, paper=PAPER),
    "areas": Areas("lost [nats]", PARTS),
    "waterfalls": Waterfalls("probe loss [nats]", "nats", PARTS),
    "scatter": Scatter("accuracy", "change", {"dead": "dead", "norm": "norm"}, {"dead": GROUPS, "norm": GROUPS}),
}  # fmt: skip


@pytest.mark.parametrize("name", PLOTS)
def test_it_is_as_wide_as_a_phone_and_nothing_is_cut_off(name: str) -> None:
    made = figure("t", [PLOTS[name]], results(), LOOK, 1)
    assert made.get_size_inches()[0] * 96 == pytest.approx(370)
    made.draw_without_rendering()
    for axes in made.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= -1
        assert box.x1 <= made.bbox.width + 1


@pytest.mark.parametrize("name", ["cells", "many cells"])
@pytest.mark.parametrize("inches", [None, 3.25])
def test_cells_do_not_run_into_each_other(name: str, inches: float | None) -> None:
    made = figure("t", [PLOTS[name]], results(), LOOK, 1, inches)
    made.draw_without_rendering()
    boxes = [text.get_window_extent() for text in made.axes[0].texts]
    assert len(boxes) == (6 if name == "many cells" else 3)
    for at, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[at + 1 :])


@pytest.mark.parametrize(("columns", "inches"), [(3, None), (2, None), (3, 6.75)])
def test_a_grid_of_many_networks_fits_a_desk_and_the_page_of_a_paper(columns: int, inches: float | None) -> None:
    """Text is inside its cell, for numbers with a sign as well."""
    many = ("MNIST,\nMLP", "CIFAR-10,\nMLP", "MNIST,\nCNN", "CIFAR-10,\nCNN", "CIFAR-10,\nResNet", "CIFAR-10,\nViT")
    rows = {label: ("a", "b", "c", "a", "b", "c") for label in ("regression, shrink and perturb", "two-hot, none")}
    grid = Cells("change", "change of the loss", many, rows, paper=dict.fromkeys(rows, ("-0.34",) * 6))
    numbers = {arm: -0.19 - 0.05 * np.array([0.0, 1.0, 2.0])[:, None] * np.ones(2) for arm in ARMS}
    tables = {
        key: {**table, "change": numbers[key[0]][key[1]]} for key, table in results().tables.items()
    }  # fmt: skip
    made = figure("t", [grid], Results(tables), LOOK, columns, inches)
    made.draw_without_rendering()
    on = made.axes[0]
    assert len(on.texts) == 12
    for text in on.texts:
        assert "\u2212" in text.get_text()
        box, (x, _) = text.get_window_extent(), text.get_position()
        left, right = (on.transData.transform((x + side, 0))[0] for side in (-0.5, 0.5))
        assert left < box.x0
        assert box.x1 < right
        assert text.get_fontsize() >= 5


def test_a_crowded_cell_has_mean_interval_and_the_papers_value_below_each_other() -> None:
    narrow, wide = (figure("t", [PLOTS["many cells"]], results(), LOOK, columns).axes[0] for columns in (1, 3))
    assert sorted(t.get_text().count("\n") for t in narrow.texts) == [1, 1, 2, 2, 2, 2]  # two without the paper's
    assert all("paper" in t.get_text() for t in wide.texts if "\n" in t.get_text())
    assert {t.get_rotation() for t in narrow.get_xticklabels()} == {90.0}
    assert {t.get_rotation() for t in wide.get_xticklabels()} == {0.0}


def test_panes_stand_below_each_other_on_a_phone_and_side_by_side_at_a_desk() -> None:
    for name, labelled in (("areas", 2), ("waterfalls", 2)):
        plot = PLOTS[name]
        assert (plot.layout(results(), LOOK, 1).columns, plot.layout(results(), LOOK, 3).columns) == (1, 2)
        drawn = figure("t", [plot], results(), LOOK, 3)
        assert sum(bool(on.get_xlabel()) for on in drawn.axes) == labelled
        assert sum(bool(on.get_xlabel()) for on in figure("t", [plot], results(), LOOK, 1).axes) == 1


def test_long_titles_and_labels_are_broken_on_a_phone_and_a_long_legend_leaves_axes_their_room() -> None:
    """The figure becomes taller."""
    tables, labels = {}, {}
    for at in range(12):
        labels[f"a{at}"] = f"number {at}, with layer norm and L2, which begins in the middle of its support"
        tables |= {(f"a{at}", seed): table for (arm, seed), table in results().tables.items() if arm == "a"}
    made = figure("t", [Lines("accuracy", "accuracy of units; " * 5)], Results(tables), Look(labels), 1)
    made.draw_without_rendering()
    (axes,) = made.axes
    assert "\n" in axes.get_title("left")
    assert axes.get_tightbbox().x1 <= made.bbox.width
    for text in made.legends[0].get_texts():
        assert "\n" in text.get_text()
        assert text.get_window_extent().x1 <= made.bbox.width
    assert axes.get_window_extent().height > 80


def test_what_was_measured_after_one_task_is_a_bar() -> None:
    """Of an area without an extent nothing would be seen."""
    tables = {key: {name: values[-1:] for name, values in table.items()} for key, table in results().tables.items()}
    drawn = figure("t", [PLOTS["areas"]], Results(tables), LOOK, 3)
    for axes in drawn.axes:
        parts = [part.get_paths()[0].get_extents() for part in axes.collections if part.get_paths()]
        assert sum(part.width > 0.5 and part.height > 0.1 for part in parts) == len(PARTS)
