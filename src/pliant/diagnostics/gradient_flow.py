"""How the gradient of the training loss reaches single units."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.diagnostics._layers import Layer, hidden_layers
from pliant.diagnostics._nudge import sensitivities
from pliant.diagnostics._shared import average, by_site, given, widened
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import units
from pliant.functional.preactivations import sign_agreement
from pliant.network import Params


@dataclass(frozen=True)
class GradientDormantUnits(Diagnostic):
    """The share of hidden units whose own weights get little gradient: its norm is at most `tau` times their layer's.

    `gradient_dormant` over the units of all layers but the last (their number is `gradient_dormant_count`) and
    `gradient_dormant/<layer>`; a unit is a row of a linear layer, or a kernel of a convolution, with its bias. See
    `pliant.functional.units.gradient_dormancy`. Raises `ValueError` for a network without hidden layers.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1)))
    >>> planted = {"0.weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "0.bias": torch.tensor([0.0, 0.1])}
    >>> seen = Observation(net.params(), gradients=net.params() | planted, network=net, x=torch.ones(1, 2))
    >>> GradientDormantUnits(tau=0.1).measure(seen)["gradient_dormant/0"]
    tensor(0.5000)
    """

    tau: float

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "network", "x"})
    cost: ClassVar[str] = "business"
    healthy: ClassVar[str] = "gradient_dormant 0 to 0.01 (tau 0.1)"
    reference: ClassVar[str] = "ji2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        gradients = given(seen.gradients, "gradients")
        layers = {layer.name: layer for layer in hidden_layers(seen)}  # once, also where its weight is used twice
        rows = {name: _rows(layer, gradients) for name, layer in layers.items()}
        dormant = {name: units.gradient_dormancy(row) <= self.tau for name, row in rows.items()}
        return by_site("gradient_dormant", dormant, {name: [row] for name, row in rows.items()})


def _rows(layer: Layer, gradients: Params) -> Tensor:
    """The gradient of what feeds each unit, `(units, incoming)`."""
    weight = layer.rows(gradients[layer.weight])
    return weight if layer.bias not in gradients else torch.cat([weight, gradients[layer.bias][:, None]], 1)


@dataclass(frozen=True)
class GradientSaturatedUnits(Diagnostic):
    """The share of hidden units that hardly move the loss: a gradient tiny beside their size on nearly all inputs.

    `gradient_saturated` over all units (their number is `gradient_saturated_count`) and `gradient_saturated/<site>`;
    |dL/dh| < `tolerance` times mean |h| on more than `share` of the samples, see
    `pliant.functional.units.gradient_saturated`. It depends on the scale of the loss: compare like with like, and
    expect it to rise as a task is fitted.

    Deviation: the code of Joudaki et al. 2025 also counts silent units whose gradient is 0; here they are dead alone.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1)))
    >>> params = {name: torch.ones_like(p) for name, p in net.params().items()}
    >>> params["2.weight"] = torch.tensor([[1.0, 0.0]])
    >>> x, y = torch.ones(4, 1), torch.zeros(4, 1)
    >>> seen = Observation(params, network=net, x=x, y=y, loss=torch.nn.functional.mse_loss)
    >>> GradientSaturatedUnits().measure(seen)["gradient_saturated"]
    tensor(0.5000)
    """

    tolerance: float = 1e-4
    share: float = 0.99

    needs: ClassVar[frozenset[str]] = frozenset({"network", "x", "y", "loss"})
    cost: ClassVar[str] = "business"
    healthy: ClassVar[str] = "gradient_saturated 0"
    reference: ClassVar[str] = "joudaki2025"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        found = sensitivities(seen)
        flat = {name: units.gradient_saturated(*site, self.tolerance, self.share) for name, site in found.items()}
        return by_site("gradient_saturated", flat, found)


@dataclass(frozen=True)
class GradientAlignment(Diagnostic):
    """How far a gradient step moves a unit's preactivation the same way on every input, from 0 to 1.

    The mean over units of |E_x sign <grad_w l, x>|, w the unit's weights, l the batch loss, x what the layer reads.
    `alignment` over the units of all layers but the last, and `alignment/<layer>`. Near 1 right after a task switch. A
    unit without gradient counts 0. See `pliant.functional.preactivations.sign_agreement`. Raises `ValueError` for a
    network without hidden layers.

    Source: Lyle et al. 2024. Deviation: the paper shows a histogram of the signs.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1)))
    >>> x = torch.tensor([[1.0], [2.0], [3.0], [-1.0]])
    >>> GradientAlignment().measure(Observation(net.params(), gradients=net.params(), network=net, x=x))
    {'alignment': tensor(0.5000), 'alignment/0': tensor(0.5000)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "network", "x"})
    cost: ClassVar[str] = "business"
    healthy: ClassVar[str] = "alignment 0.45 to 0.49"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        given(seen.gradients, "gradients")
        seen = widened(seen)
        moves: dict[str, list[Tensor]] = {}
        for layer in hidden_layers(seen):
            moves.setdefault(layer.name, []).append(layer.apply(given(seen.gradients, "gradients")[layer.weight]))
        agreed = {name: sign_agreement(torch.cat(parts)) for name, parts in moves.items()}
        return average("alignment", agreed, moves)
