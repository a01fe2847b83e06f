"""What the weight matrices are like: their ranks, and what a learning rate amounts to for them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.diagnostics._poke import scale_invariant
from pliant.diagnostics._shared import given
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import norms, ranks


@dataclass(frozen=True)
class WeightRanks(Diagnostic):
    """Three ranks of the weight matrices, averaged over them: how many directions a layer passes on.

    `weight_srank`, `weight_effective_rank`, `weight_stable_rank` and the same of each matrix as `<name>/<tensor>`; a
    convolution's kernel is the matrix `(channels, incoming)`. See `pliant.functional.ranks`: they differ, so compare
    like with like.

    Source: Lyle et al. 2023, Fig. 3, plots a weight rank without a definition. Deviation: these three are ours.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Linear(2, 2))
    >>> WeightRanks().measure(Observation({"weight": torch.diag(torch.tensor([2.0, 1.0]))}, network=net))
    {'weight_srank': tensor(2.), 'weight_srank/weight': tensor(2.), 'weight_effective_rank': tensor(1.8899),
     'weight_effective_rank/weight': tensor(1.8899), 'weight_stable_rank': tensor(1.2500),
     'weight_stable_rank/weight': tensor(1.2500)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"network"})
    healthy: ClassVar[str] = "weight_srank 163 to 164, weight_effective_rank 153 to 154, weight_stable_rank 58 to 61"
    reference: ClassVar[str] = "lyle2023"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        names = given(seen.network, "network").weights
        s = {name: ranks.singular_values(seen.params[name].flatten(1)) for name in names}
        found: dict[str, Tensor] = {}
        for rank in (ranks.srank, ranks.effective_rank, ranks.stable_rank):
            each = {name: rank(values) for name, values in s.items()}
            found[f"weight_{rank.__name__}"] = torch.stack(list(each.values())).mean()
            found |= {f"weight_{rank.__name__}/{name}": value for name, value in each.items()}
        return found


@dataclass(frozen=True)
class EffectiveLearningRate(Diagnostic):
    """What the learning rate amounts to for the weights that a normaliser follows: it falls as they grow.

    `effective_lr_sgd/<tensor>` is lr / |W|^2, `effective_lr_adam/<tensor>` is lr / |W|, for every weight whose scale
    (with its bias) does not change the output; `scale_invariant` is how many there are. Which they are is found by
    doubling each layer of the network at random parameters, once; needs `Network(module, example=x)`.

    Source: Lyle et al. 2024, Normalization and effective learning rates. Deviation: the bias, which such a layer also
    has, is not in |W|.

    >>> import torch
    >>> from pliant.network import Network
    >>> layers = torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.ReLU(), torch.nn.Linear(3, 1)
    >>> net = Network(torch.nn.Sequential(*layers), example=torch.ones(4, 2))
    >>> params = net.params() | {"0.weight": torch.tensor([[6.0, 0.0], [0.0, 8.0], [0.0, 0.0]])}
    >>> EffectiveLearningRate(lr=0.1).measure(Observation(params, network=net))
    {'scale_invariant': tensor(1), 'effective_lr_sgd/0.weight': tensor(0.0010),
     'effective_lr_adam/0.weight': tensor(0.0100)}
    """

    lr: float

    needs: ClassVar[frozenset[str]] = frozenset({"network"})
    healthy: ClassVar[str] = "scale_invariant 0; 2 with layer norm"
    reference: ClassVar[str] = "lyle2024nap"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        network = given(seen.network, "network")
        names = scale_invariant(network)
        rates = {name: norms.effective_lr(seen.params[name], self.lr) for name in names}
        sgd = {f"effective_lr_sgd/{name}": rate for name, (rate, _) in rates.items()}
        adam = {f"effective_lr_adam/{name}": rate for name, (_, rate) in rates.items()}
        return {"scale_invariant": torch.tensor(len(names)), **sgd, **adam}
