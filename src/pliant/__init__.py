"""Find out why your network stopped learning, and fix it.

>>> import pliant
>>> pliant.Chain(pliant.L2(1e-4))
Chain(L2(strength=0.0001, normalisers=False))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pliant.causes import disentangle as disentangle
    from pliant.interventions import L2 as L2
    from pliant.interventions import Chain as Chain
    from pliant.interventions import LayerNorm as LayerNorm
    from pliant.interventions import ReDo as ReDo
    from pliant.interventions import ShrinkAndPerturb as ShrinkAndPerturb
    from pliant.keeper import Keeper as Keeper
    from pliant.monitor import Monitor as Monitor
    from pliant.network import Network as Network
    from pliant.population import Member as Member
    from pliant.population import Population as Population
    from pliant.probe import plasticity as plasticity
    from pliant.sites import Inputs as Inputs

__version__ = "0.1.0.dev0"

_PLACES = {
    "Chain": "interventions",
    "Inputs": "sites",
    "Keeper": "keeper",
    "L2": "interventions",
    "LayerNorm": "interventions",
    "Member": "population",
    "Monitor": "monitor",
    "Network": "network",
    "Population": "population",
    "ReDo": "interventions",
    "ShrinkAndPerturb": "interventions",
    "disentangle": "causes",
    "plasticity": "probe",
}
_PACKAGES = ("causes", "diagnostics", "heads", "interventions", "monitor", "nets", "optim", "probe", "testing")
__all__ = sorted(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Public names, imported when first used: `import pliant` alone loads nothing."""
    if name in _PACKAGES:
        return import_module(f"pliant.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'pliant' has no attribute {name!r}")
    return getattr(import_module(f"pliant.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """Public names alone, for completion and `help`."""
    return sorted([*__all__, *_PACKAGES, *(name for name in globals() if name.startswith("__"))])
