"""How large the parameters, their gradients and their updates are."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pliant.diagnostics._shared import by_tensor, given
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import norms


@dataclass(frozen=True)
class ParameterNorm(Diagnostic):
    """The Euclidean norm of the parameters, and how many times the initial norm that is.

    `parameter_norm` and `norm_ratio` of all parameters together, `parameter_norm/<tensor>` and `norm_ratio/<tensor>` of
    each: layers grow unevenly. The ratio of a tensor that began at zero is NaN.

    >>> import torch
    >>> now, then = {"weight": torch.tensor([3.0, 4.0])}, {"weight": torch.tensor([0.0, 2.0])}
    >>> found = ParameterNorm().measure(Observation(now, initial=then))
    >>> found["parameter_norm"], found["norm_ratio/weight"]
    (tensor(5.), tensor(2.5000))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"initial"})
    healthy: ClassVar[str] = "norm_ratio 1"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        ratios = by_tensor("norm_ratio", norms.norm_ratio, seen.params, given(seen.initial, "initial"))
        return by_tensor("parameter_norm", norms.norm, seen.params) | ratios


@dataclass(frozen=True)
class GradientNorm(Diagnostic):
    """The Euclidean norm of the gradient of the training loss on the batch: `gradient_norm`, `gradient_norm/<tensor>`.

    Of the trained parameters: frozen ones have no part in it.

    >>> import torch
    >>> seen = Observation({"weight": torch.ones(2)}, gradients={"weight": torch.tensor([0.6, 0.8])})
    >>> GradientNorm().measure(seen)
    {'gradient_norm': tensor(1.), 'gradient_norm/weight': tensor(1.)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    cost: ClassVar[str] = "business"
    healthy: ClassVar[str] = "gradient_norm 0.25 to 0.30"
    reference: ClassVar[str] = "lyle2023"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        return by_tensor("gradient_norm", norms.norm, given(seen.gradients, "gradients"))


@dataclass(frozen=True)
class RelativeUpdate(Diagnostic):
    """The latest update's norm as a share of the parameters': `relative_update`, `relative_update/<tensor>`.

    Of the trained parameters, as `GradientNorm` is. NaN where the parameters are all zero.

    >>> import torch
    >>> seen = Observation({"weight": torch.tensor([0.0, 10.0])}, update={"weight": torch.tensor([0.1, 0.0])})
    >>> RelativeUpdate().measure(seen)
    {'relative_update': tensor(0.0100), 'relative_update/weight': tensor(0.0100)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"update"})
    healthy: ClassVar[str] = "relative_update 0.039 to 0.040 for one step of Adam at 1e-3"
    reference: ClassVar[str] = "lyle2024nap"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        update = given(seen.update, "update")
        return by_tensor("relative_update", norms.relative_update, update, {name: seen.params[name] for name in update})


@dataclass(frozen=True)
class FeatureNorm(Diagnostic):
    """The mean length of a sample's penultimate features: `feature_norm`.

    >>> import torch
    >>> from pliant.network import Trace
    >>> phi = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    >>> FeatureNorm().measure(Observation({}, trace=Trace(phi, phi, {})))
    {'feature_norm': tensor(3.)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "feature_norm 2.5 to 2.9"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        return {"feature_norm": norms.feature_norm(given(seen.trace, "trace").features)}
