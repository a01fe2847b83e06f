"""Plots: pictures of results, each of which owns the columns that it reads."""

from pliant.plots.areas import Areas
from pliant.plots.base import Layout, Look, Plot
from pliant.plots.cells import Cells
from pliant.plots.lines import Lines

__all__ = ["Areas", "Cells", "Layout", "Lines", "Look", "Plot"]
