"""Measurements of one network on one batch, each a frozen dataclass; the files of this package are the list of them."""

import importlib
import inspect
import pkgutil

from pliant.diagnostics.active import ActiveUnits, DuplicateUnits
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.diagnostics.change import Churn, SamplePlasticity
from pliant.diagnostics.curvature import HessianSpectrum, HessianTrace, Sharpness
from pliant.diagnostics.dead import DeadUnits, InactiveUnits
from pliant.diagnostics.dormant import DormantUnits
from pliant.diagnostics.entropy import PredictiveEntropy
from pliant.diagnostics.gradient_flow import GradientAlignment, GradientDormantUnits, GradientSaturatedUnits
from pliant.diagnostics.jacobian import InputOutputJacobian
from pliant.diagnostics.kernels import EmpiricalNTK, GradientCovariance, gradient_cosines
from pliant.diagnostics.linearized import LinearizedAtUnitSize, LinearizedUnits
from pliant.diagnostics.norms import FeatureNorm, GradientNorm, ParameterNorm, RelativeUpdate
from pliant.diagnostics.offsets import FeatureOffset, OutputBiasNorm, TargetOffset
from pliant.diagnostics.preactivations import (
    OneSidedUnits,
    PreactivationMoments,
    PreactivationShift,
    unit_moments,
    unit_shifts,
)
from pliant.diagnostics.ranks import FeatureRanks
from pliant.diagnostics.saturated import SaturatedUnits
from pliant.diagnostics.weights import EffectiveLearningRate, WeightRanks

__all__ = [
    "ActiveUnits",
    "Churn",
    "DeadUnits",
    "Diagnostic",
    "DormantUnits",
    "DuplicateUnits",
    "EffectiveLearningRate",
    "EmpiricalNTK",
    "FeatureNorm",
    "FeatureOffset",
    "FeatureRanks",
    "GradientAlignment",
    "GradientCovariance",
    "GradientDormantUnits",
    "GradientNorm",
    "GradientSaturatedUnits",
    "HessianSpectrum",
    "HessianTrace",
    "InactiveUnits",
    "InputOutputJacobian",
    "LinearizedAtUnitSize",
    "LinearizedUnits",
    "Observation",
    "OneSidedUnits",
    "OutputBiasNorm",
    "ParameterNorm",
    "PreactivationMoments",
    "PreactivationShift",
    "PredictiveEntropy",
    "RelativeUpdate",
    "SamplePlasticity",
    "SaturatedUnits",
    "Sharpness",
    "TargetOffset",
    "WeightRanks",
    "gradient_cosines",
    "unit_moments",
    "unit_shifts",
]


def registered() -> list[type[Diagnostic]]:
    """Every diagnostic in the files of this package, file by file: a new one needs no entry anywhere.

    >>> [cls.__name__ for cls in registered()][:3]
    ['ActiveUnits', 'DuplicateUnits', 'Churn']
    """
    modules = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    return [cls for module in modules for cls in vars(module).values() if _is_diagnostic_of(module.__name__, cls)]


def _is_diagnostic_of(module: str, value: object) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, Diagnostic)
        and not inspect.isabstract(value)
        and value.__module__ == module
    )
