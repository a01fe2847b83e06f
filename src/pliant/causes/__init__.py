"""Which mechanism took a network's plasticity: each is undone alone and with the others, and the probe is refitted."""

from pliant.causes.attribution import disentangle
from pliant.causes.repairs import REPAIRS, Norm, OptimizerState, OutputLayer, Repair, Repaired, TargetScale, Units
from pliant.causes.result import Causes

__all__ = [
    "REPAIRS",
    "Causes",
    "Norm",
    "OptimizerState",
    "OutputLayer",
    "Repair",
    "Repaired",
    "TargetScale",
    "Units",
    "disentangle",
]
