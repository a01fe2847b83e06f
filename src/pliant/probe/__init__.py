"""Plasticity itself: how well a network can still be fitted to targets it has never seen."""

from pliant.probe.measure import plasticity
from pliant.probe.refit import Refits, Start, refit
from pliant.probe.result import Plasticity
from pliant.probe.settings import Training, training
from pliant.probe.targets import Probe, RandomLabels, Sines

__all__ = [
    "Plasticity",
    "Probe",
    "RandomLabels",
    "Refits",
    "Sines",
    "Start",
    "Training",
    "plasticity",
    "refit",
    "training",
]
