"""Trials: what trains, with its loop and its state; measures: what is looked at on the way, and when."""

from pliant.trials.action_values import ActionValues, Policy
from pliant.trials.base import Row, Run, Trial
from pliant.trials.measures import Arrays, Fit, HeldOut, Measure, Mechanisms, Moment, Numbers, Steps, When
from pliant.trials.probed import ProbeLoss
from pliant.trials.q_learning import QLearning
from pliant.trials.sac import SAC
from pliant.trials.supervised import Supervised
from pliant.trials.value import ValueLearning

__all__ = [
    "SAC",
    "ActionValues",
    "Arrays",
    "Fit",
    "HeldOut",
    "Measure",
    "Mechanisms",
    "Moment",
    "Numbers",
    "Policy",
    "ProbeLoss",
    "QLearning",
    "Row",
    "Run",
    "Steps",
    "Supervised",
    "Trial",
    "ValueLearning",
    "When",
]
