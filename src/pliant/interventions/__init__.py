"""Interventions: what keeps a network learning; the files of this package are the list of them."""

import importlib
import inspect
import pkgutil

from pliant.interventions.activation import Activation
from pliant.interventions.adam_rel import AdamRel
from pliant.interventions.base import Change, Draw, Intervention, Scaled, Seen
from pliant.interventions.batch_norm import BatchNorm
from pliant.interventions.chain import Chain
from pliant.interventions.continual_backprop import ContinualBackprop
from pliant.interventions.crelu import CReLU
from pliant.interventions.feature_norm import FeatureNormPenalty
from pliant.interventions.fourier_features import FourierFeatures
from pliant.interventions.gradient_norm import GradientNormPenalty
from pliant.interventions.hare_and_tortoise import HareAndTortoise
from pliant.interventions.infer import InFeR
from pliant.interventions.l2 import L2
from pliant.interventions.l2_init import L2Init
from pliant.interventions.layer_norm import LayerNorm
from pliant.interventions.mixed_norm import MixedNorm
from pliant.interventions.normalize_and_project import NormalizeAndProject
from pliant.interventions.optimizer_reset import OptimizerReset
from pliant.interventions.parseval import Parseval
from pliant.interventions.plasticity_injection import PlasticityInjection
from pliant.interventions.redo import ReDo
from pliant.interventions.reset import Reset
from pliant.interventions.rms_norm import RMSNorm
from pliant.interventions.shrink_and_perturb import ShrinkAndPerturb
from pliant.interventions.soft_shrink_and_perturb import SoftShrinkAndPerturb
from pliant.interventions.spectral_norm import SpectralNorm
from pliant.interventions.spectral_regulariser import SpectralRegulariser
from pliant.interventions.wasserstein import Wasserstein
from pliant.interventions.weight_clipping import WeightClipping
from pliant.interventions.weight_decay import WeightDecay
from pliant.interventions.weight_norm import WeightNorm
from pliant.interventions.weight_norm_rescale import WeightNormRescale
from pliant.interventions.wrappers import Only, Scheduled

__all__ = [
    "L2",
    "Activation",
    "AdamRel",
    "BatchNorm",
    "CReLU",
    "Chain",
    "Change",
    "ContinualBackprop",
    "Draw",
    "FeatureNormPenalty",
    "FourierFeatures",
    "GradientNormPenalty",
    "HareAndTortoise",
    "InFeR",
    "Intervention",
    "L2Init",
    "LayerNorm",
    "MixedNorm",
    "NormalizeAndProject",
    "Only",
    "OptimizerReset",
    "Parseval",
    "PlasticityInjection",
    "RMSNorm",
    "ReDo",
    "Reset",
    "Scaled",
    "Scheduled",
    "Seen",
    "ShrinkAndPerturb",
    "SoftShrinkAndPerturb",
    "SpectralNorm",
    "SpectralRegulariser",
    "Wasserstein",
    "WeightClipping",
    "WeightDecay",
    "WeightNorm",
    "WeightNormRescale",
]


def registered() -> list[type[Intervention]]:
    """Every intervention in the files of this package and of `contrib`: a new one needs no entry anywhere.

    >>> [kind.__name__ for kind in registered()][:2]
    ['Activation', 'AdamRel']
    """
    names = [file.name for file in pkgutil.walk_packages(__path__, f"{__name__}.")]
    modules = [importlib.import_module(name) for name in names]
    return [kind for module in modules for kind in vars(module).values() if _is_intervention_of(module.__name__, kind)]


def _is_intervention_of(module: str, value: object) -> bool:
    own = inspect.isclass(value) and issubclass(value, Intervention) and value.__module__ == module
    return own and isinstance(vars(value).get("reference"), str)  # wrappers have their inner one's
