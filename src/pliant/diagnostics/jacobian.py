"""How the network as a whole stretches its inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import jacrev, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pliant.diagnostics._examples import as_tensor, example_by_example, outputs_of_one
from pliant.diagnostics._shared import given, widened
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import jacobians, ranks, spectra

WHOLE = 128  # singular values up to which the whole Jacobian is made


@dataclass(frozen=True)
class InputOutputJacobian(Diagnostic):
    """How the whole network stretches its inputs: singular values of d output / d input, averaged over a few samples.

    `jacobian_largest` and `jacobian_smallest` (of min(outputs, inputs) singular values), and `jacobian_gap`, their
    root-mean-square distance from 1: 0 for a dynamical isometry. On the first `num_samples` of the batch.

    With more than 128 singular values (images to images), by `steps` products of Lanczos instead of whole matrices:
    then the largest is as good as exact, the smallest is an upper bound, the gap an estimate within a few per cent.

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
    steps: int = 30

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
        network, x = given(seen.network, "network"), x[: self.num_samples]
        mask = None if seen.mask is None else seen.mask[: self.num_samples]
        outputs, inputs = as_tensor(network(seen.params, x[:1])).numel(), x[0].numel()
        whole = min(outputs, inputs) <= WHOLE
        starts = None if whole else spectra.signs(len(x), min(outputs, inputs), 0).to(x.device)

        def one(x: Tensor, mask: Tensor | None, start: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
            def at(point: Tensor) -> Tensor:
                return function(seen.params, point, mask)

            return _whole(at, x) if start is None else _estimated(at, x, start, self.steps)

        in_dims = 0, None if mask is None else 0, None if whole else 0
        with example_by_example():
            largest, smallest, gap = (part.mean() for part in vmap(one, in_dims)(x, mask, starts))
        return {"jacobian_largest": largest, "jacobian_smallest": smallest, "jacobian_gap": gap}


def _whole(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = ranks.singular_values(jacrev(function)(x).flatten(1))
    return s[0], s[-1], jacobians.isometry_gap(s)


def _estimated(
    function: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """By the spectrum of J J^T or J^T J, whichever is smaller."""
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        output, pull = vjp(function, x)[:2]
        push = vjp(lambda u: pull(u)[0], torch.zeros_like(output))[1]  # linear in u, so pulling it back is J

    def product(v: Tensor) -> Tensor:
        if output.numel() <= x.numel():
            return push(pull(v)[0])[0]
        return pull(push(v.view(x.shape))[0])[0].flatten()

    operator = spectra.Operator(product, len(start), output.dtype, x.device)
    ritz = spectra.lanczos(operator, start.to(output.dtype), steps)
    s = ritz.values.clamp(min=0).sqrt()
    return s[-1], s[0], (ritz.weights * (s - 1).square()).sum().sqrt()
