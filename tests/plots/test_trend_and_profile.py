"""Metrics against a number of the arms, arrays as lines and as heat maps: the values that are drawn, tabulated and "
"left out."""

from itertools import pairwise

import numpy as np
import pytest

from pliant.numbers import MINUS
from pliant.plots import Look, Matrix, Profile, Trend
from pliant.plots.figures import figure, svg
from pliant.results import Results

ARMS = {"a_0": 1.0, "a_8": 3.0, "b_0": 2.0}
LOOK = Look({arm: arm for arm in (*ARMS, "b_8")})
TREND = Trend("error", "error", "offset", {"A": {8.0: "a_8", 0.0: "a_0"}, "B": {0.0: "b_0", 8.0: "b_8"}})
PROFILE = Profile("spectrum", "singular value", "number", {"A": "a_0", "B": "b_8"}, log=True)


def results(seeds: int = 3) -> Results:
    """Each arm's error is its number plus the seed at its last task, and 10 more at its first; b_8 was not run."""

    def table(value: float, seed: int) -> dict[str, np.ndarray]:
        spectrum = np.array([[np.nan] * 3, [9.0, 3.0, 1.0 + seed]])
        error = np.array([value + seed + 10, value + seed])
        return {
            "step": np.array([5, 10]), "task": np.array([0, 1]), "end": np.array([True, True]),
            "diverged_at": np.array([-1, -1]), "error": error, "spectrum": spectrum,
        }  # fmt: skip

    return Results({(arm, seed): table(value, seed) for arm, value in ARMS.items() for seed in range(seeds)})


def test_a_trend_goes_through_the_means_in_the_order_of_the_numbers() -> None:
    (axes,) = figure("t", [TREND], results(), LOOK).axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert drawn == {"A": ([0.0, 8.0], [2.0, 4.0]), "B": ([0.0], [3.0])}
    assert axes.get_xlabel() == "offset"


def test_the_first_task_can_be_asked_for() -> None:
    first = Trend("error", "error", "offset", {"A": {0.0: "a_0"}}, task="first")
    (axes,) = figure("t", [first], results(), LOOK).axes
    assert list(axes.lines[0].get_ydata()) == [12.0]


def test_a_trend_as_a_table_has_a_row_a_number_and_nothing_where_nothing_was_run() -> None:
    grid = TREND.grid(results(), LOOK)
    assert [row[0] for row in grid.rows] == ["0", "8"]
    assert grid.rows[0][1].startswith("2")
    assert grid.rows[1][2] == ""


def test_a_profile_is_the_last_array_that_was_measured() -> None:
    (axes,) = figure("t", [PROFILE], results(), LOOK).axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [1.0, 2.0, 3.0]
    assert line.get_ydata() == pytest.approx([9.0, 3.0, 6 ** (1 / 3)])  # geometric means, of 1, 2 and 3 at the end
    assert PROFILE.grid(results(), LOOK).rows[2][0] == "3"
    assert axes.get_xscale() == axes.get_yscale() == "log"


@pytest.mark.parametrize("plot", [TREND, PROFILE], ids=["trend", "profile"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_both_draw_the_same_bytes_twice_and_say_over_how_many_seeds(plot: Trend | Profile, seeds: int) -> None:
    one, other = (svg(figure("t", [plot], results(seeds), LOOK)) for _ in range(2))
    assert one == other
    assert ("one seed" if seeds == 1 else "3 seeds") in plot.caption(results(seeds), LOOK)[0]


def test_on_a_logarithmic_axis_no_band_reaches_below_zero() -> None:
    spread = {("a_0", seed): dict(results().tables["a_0", 0], error=np.array([1.0, 10.0**-seed])) for seed in range(3)}
    plot = Trend("error", "error", "offset", {"A": {0.0: "a_0"}}, log=True)
    (axes,) = figure("t", [plot], Results(spread), LOOK).axes
    assert axes.lines[0].get_ydata() == pytest.approx([0.1])
    (band,) = axes.collections
    ends = np.asarray(band.get_paths()[0].vertices)[:, 1]
    half = 4.303 / 3**0.5  # Student's t at 2 degrees of freedom times the standard error of -2, -1, 0
    assert [ends.min(), ends.max()] == pytest.approx([10 ** (-1 - half), 10 ** (half - 1)], rel=1e-3)


def test_what_rounding_leaves_of_a_spectrum_is_not_drawn() -> None:
    tiny = dict(results().tables["a_0", 0], spectrum=np.array([[np.nan] * 3, [1.0, 0.1, 1e-40]]))
    (axes,) = figure("t", [PROFILE], Results({("a_0", 0): tiny}), LOOK).axes
    assert axes.get_ylim()[0] > 1e-10


def test_bands_that_rounding_makes_wide_leave_the_picture_to_the_lines() -> None:
    """One seed's last singular value is zero, another's is rounding: neither is drawn, and the others fill the axes."""
    spectra = [[100.0, 10.0, 1.0, 0.0], [100.0, 10.0, 1.0, 1e-30], [100.0, 10.0, 3e-5, 1e-3]]
    tables = results().tables
    made = {
        ("a_0", seed): dict(tables["a_0", 0], spectrum=np.array([[np.nan] * 4, row]))
        for seed, row in enumerate(spectra)
    }
    (axes,) = figure("t", [PROFILE], Results(made), LOOK).axes
    (line,) = axes.lines
    assert line.get_ydata() == pytest.approx([100.0, 10.0, 3e-5 ** (1 / 3), np.nan], nan_ok=True)
    assert axes.get_ylim() == pytest.approx((3e-5 ** (1 / 3) / 3, 300.0))


WIDE = (TREND, PROFILE)


@pytest.mark.parametrize("plot", WIDE, ids=["trend", "profile"])
def test_a_phone_gets_a_narrower_picture(plot: Trend | Profile) -> None:
    for columns, width in ((1, 370), (2, 560), (3, 560)):
        made = figure("t", [plot], results(), LOOK, columns)
        assert made.get_size_inches()[0] * 96 == pytest.approx(width)


def histories() -> Results:
    """Arrays at three steps of two seeds."""

    def table(seed: int) -> dict[str, np.ndarray]:
        square = np.stack([np.full((2, 2), np.nan), np.eye(2), np.array([[1.0, -0.5], [-0.5, 1.0]])]) - 0.1 * seed
        spectrum = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]) + seed
        return {"step": np.array([1, 20, 3000]), "diverged_at": np.full(3, -1), "kernel": square, "spectrum": spectrum}

    return Results({("a_0", seed): table(seed) for seed in (4, 7)})


def test_a_profile_of_several_moments_names_their_steps() -> None:
    profile = Profile("spectrum", "size", "number", {"A": "a_0", "B": "b_8"}, moments=(0, -1))
    (axes,) = figure("t", [profile], histories(), LOOK).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {"A, step 1": [6.5, 7.5], "A, step 3,000": [10.5, 11.5]}


MATRIX = Matrix("kernel", "kernel", {"A": "a_0", "B": "b_8"})


def test_a_matrix_is_that_of_the_first_seed_at_each_moment() -> None:
    drawn = figure("t", [MATRIX], histories(), LOOK)
    first, last, _ = drawn.axes
    assert (first.get_title("left"), last.get_title("left")) == ("A, step 20", "A, step 3,000")
    assert last.images[0].get_array().tolist() == pytest.approx(np.array([[0.6, -0.9], [-0.9, 0.6]]))
    assert MATRIX.caption(histories(), LOOK) == ["kernel: of seed 4."]
    assert MATRIX.grid(histories(), LOOK).rows[1] == ["A", "3,000", "0.600", f"{MINUS}0.900", "0.000", "1.000"]


def test_a_matrix_draws_the_same_bytes_twice_and_nothing_where_nothing_was_run() -> None:
    one, other = (svg(figure("t", [MATRIX], histories(), LOOK)) for _ in range(2))
    assert one == other
    assert MATRIX.layout(histories(), LOOK).panes == 2
    assert Matrix("kernel", "kernel", {"B": "b_8"}).grid(results(), LOOK).rows == []


def test_on_a_phone_no_title_of_a_matrix_runs_into_the_next() -> None:
    named = Matrix("kernel", "kernel", {"an arm whose name is not short at all": "a_0"}, moments=(0, 1, -1))
    made = figure("t", [named], histories(), LOOK, 1)
    made.draw_without_rendering()
    *maps, _ = made.axes
    ends = [axes._left_title.get_window_extent() for axes in maps]
    assert all(left.x1 < right.x0 for left, right in pairwise(ends))
    assert made.get_size_inches()[0] * 96 == pytest.approx(370)
