"""Trials: what trains, with its loop and its state; measures: what is looked at on the way, and when."""

from pliant.trials.base import Row, Run, Trial
from pliant.trials.measures import Arrays, Fit, Measure, Mechanisms, Moment, Numbers, Steps, When
from pliant.trials.supervised import Supervised

__all__ = [
    "Arrays",
    "Fit",
    "Measure",
    "Mechanisms",
    "Moment",
    "Numbers",
    "Row",
    "Run",
    "Steps",
    "Supervised",
    "Trial",
    "When",
]
