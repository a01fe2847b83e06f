"""Measurements of one network on one batch, each a frozen dataclass; the files of this package are the list of them."""

import importlib
import inspect
import pkgutil

from pliant.diagnostics.base import Diagnostic, Observation
from pliant.diagnostics.dead import DeadUnits
from pliant.diagnostics.dormant import DormantUnits
from pliant.diagnostics.entropy import PredictiveEntropy
from pliant.diagnostics.linearized import LinearizedUnits
from pliant.diagnostics.norms import GradientNorm, ParameterNorm, RelativeUpdate
from pliant.diagnostics.ranks import FeatureRanks
from pliant.diagnostics.saturated import SaturatedUnits

__all__ = [
    "DeadUnits",
    "Diagnostic",
    "DormantUnits",
    "FeatureRanks",
    "GradientNorm",
    "LinearizedUnits",
    "Observation",
    "ParameterNorm",
    "PredictiveEntropy",
    "RelativeUpdate",
    "SaturatedUnits",
    "registered",
]


def registered() -> list[type[Diagnostic]]:
    """Every diagnostic in the files of this package, file by file: a new one needs no entry anywhere.

    >>> [cls.__name__ for cls in registered()][:3]
    ['DeadUnits', 'DormantUnits', 'PredictiveEntropy']
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
