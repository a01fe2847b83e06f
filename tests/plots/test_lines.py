"""What is drawn: means, intervals, what became of diverged seeds, and what is left out of long lines."""

import numpy as np
import pytest

from pliant.functional.statistics import interval
from pliant.plots import Lines
from pliant.plots.base import POINTS
from pliant.plots.figures import captions, figure, thinned
from pliant.plots.lines import Curve, _power, thin
from pliant.results import Results
from tests.report.synthetic import SETUP, results


def curves(made: Results) -> list[list[Curve]]:
    """The lines of each panel of the sheet."""
    look = thinned(SETUP.plots, [made] * len(SETUP.plots), SETUP.look)
    return [plot.curves(made, look) for plot in SETUP.plots]


def caption(made: Results) -> str:
    return captions(SETUP.plots, made, SETUP.look)


def test_lines_are_means_and_bands_intervals_over_seeds() -> None:
    made = results()
    line = curves(made)[0][1]
    ends = made.ends("l2", "accuracy")
    assert line.x.tolist() == [1, 2, 3, 4, 5]
    assert np.allclose(line.mean, ends.mean(0))
    assert np.allclose([line.low[2], line.high[2]], interval(ends[:, 2])[1:])


def test_one_seed_has_no_band() -> None:
    for panel in curves(results(seeds=1)):
        for line in panel:
            assert np.isnan(line.low).all()
            assert np.isfinite(line.mean).all()


def test_a_diverged_seed_leaves_the_mean_of_the_others_and_a_cross() -> None:
    made = results(diverged={("l2", 1): 27})
    line = curves(made)[0][1]
    assert line.left == (2.0,)
    assert np.allclose(line.mean[2:], made.ends("l2", "accuracy")[[0, 2], 2:].mean(1 - 1))
    assert "L2 <b>&: seed 1 diverged at step 27" in caption(made)


def test_where_all_seeds_diverged_the_line_ends() -> None:
    made = results(diverged={("l2", seed): 27 for seed in range(3)})
    accuracy, norm = (panel[1] for panel in curves(made))
    assert accuracy.x.tolist() == [1, 2]
    assert norm.x[-1] == 27
    assert norm.left == (27.0,) * 3
    nothing = curves(results(diverged={("l2", seed): 0 for seed in range(3)}))[0][1]
    assert not len(nothing.x)
    assert nothing.left == ()


def test_long_lines_keep_measured_points_and_their_extremes_and_say_so() -> None:
    made = results(every=4000)
    panels = curves(made)
    line, (x, values) = panels[1][1], made.curve("l2", "norm")
    assert len(x) == line.measured == 20_000
    assert sum(len(one.x) for panel in panels for one in panel) <= POINTS
    at = np.searchsorted(x, line.x)
    assert np.allclose(line.mean, values.mean(0)[at])
    assert line.mean.max() == values.mean(0).max()
    assert line.x[[0, -1]].tolist() == [1, 20_000]
    assert "measured at 20,000 points, the lowest and the highest" in caption(made)
    assert "the lowest" not in caption(results())


@pytest.mark.parametrize("length", [1, 2, 17, 100, 101])
def test_thin_never_exceeds_what_was_asked(length: int) -> None:
    kept = thin(np.random.default_rng(0).normal(size=length), 16)
    assert len(kept) <= 16
    assert kept[0] == 0
    assert kept[-1] == length - 1


def test_a_metric_that_was_not_measured_is_named() -> None:
    with pytest.raises(ValueError, match="arm 'none' has no column 'norn', did you mean 'norm'"):
        Lines("norn", "norm").curves(results(), SETUP.look)


def test_zero_on_a_logarithmic_axis_is_said_rather_than_dropped() -> None:
    made = results()
    for table in made.tables.values():
        table["norm"][-3:] = 0
    panels = curves(made)
    assert panels[1][0].mean[-1] == 0
    assert "has reached 0" in caption(made)


def test_a_panel_may_draw_some_of_the_arms() -> None:
    made = results()
    some = Lines("accuracy", "accuracy", arms=("l2",))
    assert [line.arm for line in some.curves(made, SETUP.look)] == ["l2"]
    assert some.grid(made, SETUP.look).headings == ["task", SETUP.look.labels["l2"]]


def test_a_window_of_steps_is_drawn_alone() -> None:
    made = results()
    (steps, _) = made.curve("l2", "norm")
    low, high = int(steps[1]), int(steps[-2])
    for line in Lines("norm", "norm", over="step", window=(low, high)).curves(made, SETUP.look):
        assert line.x.tolist() == steps[1:-1].tolist()


def test_ticks_of_a_logarithmic_axis_out_of_sight_say_nothing() -> None:
    assert [_power(value, 0) for value in (0.0, 0.5, 2000.0, 1e6)] == ["", "0.5", "2,000", "$10^{6}$"]


def test_steps_can_be_counted_in_a_unit() -> None:
    made, plot = results(), Lines("norm", "norm", over="step", unit=(10, "target update"))
    (axes,) = figure("t", [plot], made, SETUP.look).axes
    assert axes.get_xlabel() == "target update"
    ticks = {tick: axes.xaxis.get_major_formatter()(tick, None) for tick in (0.0, 20.0, 50.0)}
    assert ticks == {0.0: "0", 20.0: "2", 50.0: "5"}
    grid = plot.grid(made, SETUP.look)
    assert grid.headings[0] == "target update"
    assert [row[0] for row in grid.rows[:2]] == ["0.1", "0.2"]
    assert Lines("norm", "norm", over="step").grid(made, SETUP.look).headings[0] == "step"


def test_differences_are_taken_seed_by_seed_from_an_arm_that_is_not_drawn() -> None:
    made = results()
    plot = Lines("accuracy", "difference", against="none")
    (line,) = [one for one in plot.curves(made, SETUP.look) if one.arm == "l2"]
    expected = made.ends("l2", "accuracy") - made.ends("none", "accuracy")
    assert np.allclose(line.mean, expected.mean(0))
    assert np.allclose([line.low[2], line.high[2]], interval(expected[:, 2])[1:])
    assert "none" not in [one.arm for one in plot.curves(made, SETUP.look)]
    assert f"Differences from {SETUP.look.labels['none']}, seed by seed." in plot.caption(made, SETUP.look)
    fewer = Results({key: table for key, table in made.tables.items() if key != ("none", made.seeds[0])})
    (line,) = [one for one in plot.curves(fewer, SETUP.look) if one.arm == "l2"]
    assert np.allclose(line.mean, expected[1:].mean(0))
    without = Results({key: table for key, table in made.tables.items() if key[0] != "none"})
    assert plot.curves(without, SETUP.look) == []
    assert figure("nothing", [plot], without, SETUP.look).axes
