"""What targets with a large mean do to the features, and how large that mean is."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.diagnostics._layers import layers
from pliant.diagnostics._shared import given, widened
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import offsets
from pliant.functional.precision import wide
from pliant.sites import rows


@dataclass(frozen=True)
class FeatureOffset(Diagnostic):
    """How much of the penultimate features is one direction that is the same for all inputs: large targets' mean.

    Of the `(samples, features)` matrix that the output layer reads: `feature_top` is its largest singular value s_1,
    `feature_gap` is s_1 / s_2 (at most 1 / `eps`), `feature_constancy` the cosine between its top left direction and a
    constant over inputs, `feature_head_share` the share of the output layer's weights that reads the top right
    direction. See `pliant.functional.offsets`. ReLU features are positive, so both begin well above 0.

    Raises `ValueError` if the output layer is a convolution.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Linear(2, 1))
    >>> seen = Observation({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.ones(1)}, network=net)
    >>> found = FeatureOffset().measure(seen._replace(x=torch.tensor([[3.0, 1.0], [3.0, -1.0]])))
    >>> {name: round(value.item(), 3) for name, value in found.items()}
    {'feature_top': 4.243, 'feature_gap': 3.0, 'feature_constancy': 1.0, 'feature_head_share': 0.6}
    """

    eps: float = 1e-5

    needs: ClassVar[frozenset[str]] = frozenset({"network", "x"})
    healthy: ClassVar[str] = "feature_gap 6 to 7, feature_constancy 0.99 to 1.00, feature_head_share 0.03 to 0.10"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        seen = widened(seen)
        last = layers(seen)[-1]
        weight = seen.params[last.weight]
        if weight.ndim > 2:
            got = f"{last.weight} of shape {tuple(weight.shape)}"
            raise ValueError(f"expected a linear output layer, got {got}: leave FeatureOffset out")
        top = offsets.top_direction(rows(last.input, seen.mask))
        return {
            "feature_top": top.s[0],
            "feature_gap": offsets.gap(top.s, self.eps),
            "feature_constancy": offsets.constancy(top.left),
            "feature_head_share": offsets.head_share(last.rows(weight), top.right),
        }


@dataclass(frozen=True)
class TargetOffset(Diagnostic):
    """How far the mean of the targets is from zero, in standard deviations of the targets, signed.

    `target_offset`, E[y] / Std[y] over the batch; infinite for targets that never vary. Raises `ValueError` for class
    labels, which have no mean.

    >>> import torch
    >>> TargetOffset().measure(Observation({}, y=torch.tensor([[9.0], [11.0]])))
    {'target_offset': tensor(10.)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"y"})
    healthy: ClassVar[str] = "the data's, not the network's"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        y = given(seen.y, "y")
        if not isinstance(y, Tensor) or not y.is_floating_point():
            got = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"expected real-valued targets, got {got}: leave TargetOffset out for class labels")
        return {"target_offset": offsets.offset(y)}


@dataclass(frozen=True)
class OutputBiasNorm(Diagnostic):
    """The length of the output layer's bias, which could carry the mean of the targets: `output_bias_norm`.

    0 for an output layer without a bias. Compare it with the targets' mean: where it lags, the features carry the rest.

    >>> import torch
    >>> from pliant.network import Network
    >>> seen = Observation({"weight": torch.ones(2, 1), "bias": torch.tensor([3.0, 4.0])}, x=torch.ones(1, 1))
    >>> OutputBiasNorm().measure(seen._replace(network=Network(torch.nn.Linear(1, 2))))
    {'output_bias_norm': tensor(5.)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"network", "x"})
    healthy: ClassVar[str] = "output_bias_norm 0.08 to 0.13"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        last = layers(seen)[-1]
        if last.bias is None:
            return {"output_bias_norm": torch.zeros_like(last.input.flatten()[0])}
        return {"output_bias_norm": torch.linalg.vector_norm(wide(seen.params[last.bias]))}
