"""Plots: pictures of results, each of which owns the columns that it reads."""

from pliant.plots.areas import Areas
from pliant.plots.base import Layout, Look, Plot
from pliant.plots.cells import Cells
from pliant.plots.lines import Lines
from pliant.plots.matrix import Matrix
from pliant.plots.profile import Profile
from pliant.plots.scatter import Scatter
from pliant.plots.trend import Trend
from pliant.plots.waterfalls import Waterfalls

__all__ = [
    "Areas",
    "Cells",
    "Layout",
    "Lines",
    "Look",
    "Matrix",
    "Plot",
    "Profile",
    "Scatter",
    "Trend",
    "Waterfalls",
]
