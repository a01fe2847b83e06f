"""How the network as a whole stretches its inputs."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.func import jacrev, vmap

from pliant.diagnostics._examples import outputs_of_one
from pliant.diagnostics._shared import given, widened
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import jacobians, ranks


@dataclass(frozen=True)
class InputOutputJacobian(Diagnostic):
    """How the whole network stretches its inputs: singular values of d output / d input, averaged over a few samples.

    `jacobian_largest` and `jacobian_smallest` (of min(outputs, inputs) singular values), and `jacobian_gap`, their
    root-mean-square distance from 1: 0 for a dynamical isometry. On the first `num_samples` of the batch.

    Raises `ValueError` for inputs that are not one floating-point tensor, and for a network with batch statistics.

    Source: Pennington et al. 2017, the input-output Jacobian; from layer to layer it is not defined for any module.

    >>> import torch
    >>> from pliant.network import Network
    >>> seen = Observation({"weight": torch.diag(torch.tensor([2.0, 1.0]))}, x=torch.ones(4, 2))
    >>> found = InputOutputJacobian().measure(seen._replace(network=Network(torch.nn.Linear(2, 2, bias=False))))
    >>> {name: round(value.item(), 3) for name, value in found.items()}
    {'jacobian_largest': 2.0, 'jacobian_smallest': 1.0, 'jacobian_gap': 0.707}
    """

    num_samples: int = 16

    needs: ClassVar[frozenset[str]] = frozenset({"network", "x"})
    cost: ClassVar[str] = "full"
    healthy: ClassVar[str] = "jacobian_largest 0.12 to 0.14, jacobian_gap 0.90 to 0.91"
    reference: ClassVar[str] = "pennington2017"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        seen = widened(seen)
        function, x = outputs_of_one(seen), given(seen.x, "x")
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"expected floating-point inputs to differentiate by, got {got}: leave it out")
        mask = None if seen.mask is None else seen.mask[: self.num_samples]
        jacobian = jacrev(lambda one, mask: function(seen.params, one, mask))
        each = vmap(jacobian, in_dims=(0, None if mask is None else 0))(x[: self.num_samples], mask)
        s = vmap(ranks.singular_values)(each.flatten(2))
        gap = jacobians.isometry_gap(s).mean()
        return {"jacobian_largest": s[:, 0].mean(), "jacobian_smallest": s[:, -1].mean(), "jacobian_gap": gap}
