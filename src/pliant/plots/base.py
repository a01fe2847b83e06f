"""What a picture is: an object that says which columns it reads and draws itself into axes that are handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import numpy as np

from pliant.formats import Grid
from pliant.functional import statistics
from pliant.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe & Ito, legible to colour-blind readers; the first arm is the baseline, yellow comes last as it is faint on white
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
# of mechanisms, told from each other and from every arm; the last ones are for repairs of one's own
MECHANISMS = {
    "units": "#882255",
    "preactivation shift": "#EDB99F",
    "norm growth": "#999933",
    "weight spectrum": "#514410",
    "hidden schedule": "#446B37",
    "normaliser scales": "#C6ACED",
    "logit scale": "#2A9292",
    "output layer": "#A8D8A8",
    "target scale": "#6A3D9A",
    "optimizer state": "#FA8072",
    "unexplained": "#B9C0C8",
}
OTHERS = ("#8C564B", "#332288", "#DDCC77", "#7F0000")
DASHES = ("-", "-.", ":")  # for a ninth arm and more
STEPS = (1, 2, 5, 10)  # between ticks
GREY = "#5f6670"
POINTS = 3600  # drawn in all, which keeps an SVG below some 250 KB
WIDTHS = {1: 370, 2: 740, 3: 1080}  # CSS pixels by columns; text is 12 px high in each
NARROW = 450  # CSS pixels: a figure below this is for a phone or a column of a paper
LETTER = 6.5  # CSS pixels of a letter in a title or a legend
HEIGHT = 205  # CSS pixels of a row of axes


def colour(position: int) -> str:
    """The colour of the arm at this position of a setup, the same in every figure.

    >>> colour(0), colour(8) == colour(0)
    ('#000000', True)
    """
    return COLOURS[position % len(COLOURS)]


def mechanism(name: str) -> str:
    """The colour of a mechanism of plasticity loss, the same in every figure, and never an arm's.

    >>> mechanism("units"), mechanism("a repair of my own") in OTHERS
    ('#882255', True)
    """
    return MECHANISMS.get(name) or OTHERS[sum(name.encode()) % len(OTHERS)]


def dashes(position: int) -> str:
    """The line style of the arm at this position: colours repeat with another one."""
    return DASHES[position // len(COLOURS) % len(DASHES)]


def columns_of(axes: Sequence[Axes]) -> int:
    """How many axes a row the figure of these axes has."""
    place = axes[0].get_subplotspec()
    return place.get_gridspec().ncols if place is not None else 1


def narrow(axes: Axes) -> bool:
    """Whether axes are in a figure for a phone or for a column of a paper."""
    return 96 * axes.get_figure(root=True).get_figwidth() < NARROW  # type: ignore[union-attr]


def legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """One legend above all axes of a figure, in as many columns as fit; a long label in several lines."""
    room = 96 * figure.get_figwidth() - 50  # CSS pixels beside a handle
    labels = [fill(label, int(room / LETTER)) for label in labels]
    for columns in range(len(labels), 0, -1):
        made = figure.legend(
            handles, labels, loc="outside upper left", ncols=columns, handlelength=1.6, columnspacing=1.6, borderpad=0.2
        )
        if columns == 1 or made.get_window_extent().width <= 0.96 * figure.bbox.width:
            return
        made.remove()


def heading(axes: Axes, title: str) -> None:
    """The title of axes, in as many lines as their share of the figure's width asks for."""
    room = 96 * axes.get_figure(root=True).get_figwidth() / columns_of([axes]) - 50  # type: ignore[union-attr]
    axes.set_title(fill(title, int(room / LETTER)))


def bands(values: np.ndarray, log: bool = False) -> statistics.Band:
    """Means over seeds with their 95 % intervals; on a logarithmic axis of the exponents, so that no end lies below 0.

    >>> float(bands(np.array([[1.0], [100.0]]), log=True).mean[0])
    10.0
    """
    if not log:
        return statistics.bands(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return statistics.Band(*(10**end for end in statistics.bands(np.log10(values))))


@dataclass(frozen=True)
class Look:
    """How the arms of an experiment look, in every picture alike.

    Args:
        labels: of all arms by name, in the order of the setup.
        most: points that a line may have; where it was measured at more, some are left out.

    >>> Look({"none": "no intervention", "l2": "L2"}).place("l2")
    1
    """

    labels: Mapping[str, str]
    most: int = POINTS

    def place(self, arm: str) -> int:
        """The position of an arm, which gives its colour."""
        return list(self.labels).index(arm)

    def shown(self, results: Results) -> list[str]:
        """The arms that were run, in the order of the setup."""
        return [arm for arm in self.labels if arm in results.arms]


class Layout(NamedTuple):
    """Axes of a picture and its size in CSS pixels; those of a plot on a sheet are the sheet's affair.

    >>> Layout(panes=4, columns=2, width=740, height=470).panes
    4
    """

    panes: int
    columns: int
    width: int
    height: int


class Plot(Protocol):
    """A frozen dataclass: one picture of results.

    Attributes:
        title: what it shows, with units.
        sheet: whether it is one set of axes among others of its kind, below one legend of the arms; otherwise it is a
            picture of its own, with the axes that its `layout` asks for.

    >>> from pliant.plots import Lines
    >>> Lines("accuracy", "accuracy at the end of a task").columns()
    ('accuracy',)
    """

    sheet: ClassVar[bool]

    @property
    def title(self) -> str: ...

    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        ...

    def points(self, results: Results, look: Look) -> list[int]:
        """How many points each of its lines was measured at; none where it draws no lines."""
        ...

    def layout(self, results: Results, look: Look, columns: int = 3) -> Layout:
        """The axes that it needs where there is room for so many a row; 1 is a phone, 370 pixels wide."""
        ...

    def draw(self, axes: Sequence[Axes], results: Results, look: Look) -> None:
        """Draws into axes; `ValueError` for a column that was not measured."""
        ...

    def caption(self, results: Results, look: Look) -> list[str]:
        """What is drawn how, in sentences."""
        ...

    def grid(self, results: Results, look: Look) -> Grid:
        """Its numbers as a table, for the terminal, Markdown and CSV."""
        ...
