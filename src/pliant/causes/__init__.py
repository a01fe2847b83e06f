"""Which mechanism took a network's plasticity: each is undone alone and with the others, and the probe is refitted."""

from pliant.causes.attribution import disentangle
from pliant.causes.base import Repair, Repaired
from pliant.causes.repairs import EVERY, REPAIRS, OptimizerState, OutputLayer, Preactivations, TargetScale, Units
from pliant.causes.result import Causes
from pliant.causes.scales import HiddenSchedule, LogitScale, Norm, NormaliserScales
from pliant.causes.spectra import Spectra

__all__ = [
    "EVERY",
    "REPAIRS",
    "Causes",
    "HiddenSchedule",
    "LogitScale",
    "Norm",
    "NormaliserScales",
    "OptimizerState",
    "OutputLayer",
    "Preactivations",
    "Repair",
    "Repaired",
    "Spectra",
    "TargetScale",
    "Units",
    "disentangle",
]
