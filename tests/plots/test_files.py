"""Figures as files: text as text, no smaller than a paper takes it, the same bytes twice."""

import re
from pathlib import Path

import pytest
from matplotlib.text import Text

from pliant.cli import main
from pliant.plots import Trend
from pliant.plots.figures import figure, sheets, write
from tests.report.synthetic import SETUP, results

INCHES = (3.25, 6.75)


@pytest.mark.parametrize("inches", INCHES)
def test_text_has_at_least_7_points_at_every_width(inches: float) -> None:
    for plots in sheets(SETUP.plots):
        made = figure("t", plots, results(), SETUP.look, 1, inches)
        made.draw_without_rendering()
        assert made.get_size_inches()[0] == pytest.approx(inches)
        said = [text for text in made.findobj(Text) if text.get_text().strip()]
        assert said
        assert min(text.get_fontsize() for text in said) >= 7


def test_a_narrow_figure_keeps_room_for_its_axes_below_a_long_legend() -> None:
    series = {
        f"an arm with a name that fills a line of its own, number {i}": {0.0: "none", 1.0: "l2"} for i in range(8)
    }
    plot = Trend("accuracy", "accuracy", "number", series)
    made = figure("t", [plot], results(), SETUP.look, 1, 3.25)
    made.draw_without_rendering()
    assert made.axes[0].get_window_extent().height / made.dpi > 1


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_the_same_run_gives_the_same_file(kind: str, tmp_path: Path) -> None:
    one, other = tmp_path / f"one.{kind}", tmp_path / f"other.{kind}"
    for path in (one, other):
        write(path, "t", SETUP.plots, results(), SETUP.look, 3.25)
    assert one.read_bytes() == other.read_bytes()
    assert {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[kind] == one.read_bytes()[: 5 if kind == "svg" else 4]


def test_text_in_a_vector_file_can_be_searched(tmp_path: Path) -> None:
    write(tmp_path / "a.svg", "t", SETUP.plots, results(), SETUP.look, 3.25)
    assert re.search(r"<text[^>]*>no intervention</text>", (tmp_path / "a.svg").read_text())
    write(tmp_path / "a.pdf", "t", SETUP.plots, results(), SETUP.look, 3.25)
    assert b"/Type42" in (tmp_path / "a.pdf").read_bytes() or b"/FontFile2" in (tmp_path / "a.pdf").read_bytes()


def test_another_kind_of_file_and_an_odd_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.pdf, \.svg or \.png, got a\.jpg"):
        write(tmp_path / "a.jpg", "t", SETUP.plots, results(), SETUP.look)
    with pytest.raises(ValueError, match="1 to 40 inches, got 0"):
        write(tmp_path / "a.pdf", "t", SETUP.plots, results(), SETUP.look, 0)
    assert not list(tmp_path.iterdir())


def test_a_figure_of_a_stored_run_from_the_command_line(
    swiss_cheese: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "accuracy.pdf"
    common = ["figure", "lyle2024/swiss_cheese", "--out", str(swiss_cheese)]
    assert main([*common, "--plot", "accuracy", "--to", str(file), "--width", "3.25in"]) == 0
    assert file.read_bytes().startswith(b"%PDF")
    assert main([*common, "--to", str(tmp_path / "all.svg")]) == 0
    assert main([*common, "--plot", "acuracy", "--to", str(file)]) == 2
    assert "did you mean 'accuracy'" in capsys.readouterr().err
    assert main([*common, "--to", str(file), "--width", "wide"]) == 2
    assert "3.25in, got 'wide'" in capsys.readouterr().err
