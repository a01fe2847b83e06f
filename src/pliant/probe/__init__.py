"""Plasticity itself: how well a network can still be fitted to targets it has never seen."""

from typing import Any

from pliant.probe.measure import plasticity
from pliant.probe.refit import Refits, Start, refit
from pliant.probe.result import Plasticity
from pliant.probe.settings import Training, training
from pliant.probe.targets import FreshLabels, Probe, Sines

__all__ = [
    "FreshLabels",
    "Plasticity",
    "Probe",
    "Refits",
    "Sines",
    "Start",
    "Training",
    "plasticity",
    "refit",
    "training",
]


def __getattr__(name: str) -> Any:
    """`FreshLabels` under its former name, so that code of before goes on."""
    if name == "RandomLabels":
        return FreshLabels
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
