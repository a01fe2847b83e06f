"""How an update on one example moves the others: of the outputs, and of the loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.diagnostics._examples import as_tensor, example_by_example, loss_of_one, outputs_of_one, trained
from pliant.diagnostics._shared import given, widened
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import kernels, ranks


@dataclass(frozen=True)
class EmpiricalNTK(Diagnostic):
    """How far the network generalises from one input to another: five numbers on its empirical neural tangent kernel.

    K_ij is the inner product of the gradients of the outputs at inputs i and j. Of the trace kernel (summed over
    outputs), as `ntk_<number>`, and of the kernel of the sum of outputs, as `ntk_sum_<number>`:

    - `condition`: s_1 / s_n, at most 1 / `eps`; a kernel of low rank cannot follow targets that move;
    - `rank`: the effective rank, at most the number of examples;
    - `off_diagonal_rank`: that of K with zeros on its diagonal;
    - `top_share`: s_1 / trace, 1 for a kernel of rank one;
    - `uneven`: how far K is from a diagonal plus a constant; at 0 an update moves all other inputs by the same.

    See `pliant.functional.kernels`. It holds at most examples x parameters numbers (none for linear layers on single
    rows), and runs a backward pass for each output.
    With more outputs than `num_sums` (images, logits of every token), the trace kernel is estimated from that many
    random sums of outputs, and `ntk_error` is its standard error as a share of its size. Raises `ValueError` for a
    network with batch statistics.

    Source: Lyle et al. 2024, on batches of 64. Deviation: the scalars, `eps` and what is done with several outputs are
    ours; the paper does not say.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Linear(2, 1, bias=False))
    >>> found = EmpiricalNTK().measure(Observation(net.params(), network=net, x=torch.tensor([[1.0, 0.0], [0.0, 2.0]])))
    >>> {name: round(value.item(), 3) for name, value in found.items() if "sum" not in name}
    {'ntk_condition': 4.0, 'ntk_rank': 1.649, 'ntk_off_diagonal_rank': 0.0, 'ntk_top_share': 0.8, 'ntk_uneven': 0.0}
    """

    eps: float = 1e-5
    num_sums: int = 128

    needs: ClassVar[frozenset[str]] = frozenset({"network", "x"})
    cost: ClassVar[str] = "full"
    healthy: ClassVar[str] = (
        "ntk_condition 18 to 22, ntk_rank 46 to 49, ntk_off_diagonal_rank 15 to 17, "
        "ntk_top_share 0.16 to 0.19, ntk_uneven 0.11 to 0.14"
    )
    reference: ClassVar[str] = "lyle2024"

    def __post_init__(self):
        if self.num_sums < 2:
            raise ValueError(f"expected num_sums >= 2, for a standard error, got {self.num_sums}")

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        seen = widened(seen)
        function, x = outputs_of_one(seen), given(seen.x, "x")
        num_outputs = as_tensor(given(seen.network, "network")(seen.params, x))[0].numel()
        of = (lambda p, one: function(p, *one)), trained(seen), (x, seen.mask), num_outputs
        found: dict[str, Tensor] = {}
        with example_by_example():
            if num_outputs <= self.num_sums:
                total, trace = kernels.ntk(*of)
            else:
                total, trace, found["ntk_error"] = kernels.sampled_ntk(*of, self.num_sums)
        return self._numbers("ntk", trace) | self._numbers("ntk_sum", total) | found

    def _numbers(self, name: str, kernel: Tensor) -> dict[str, Tensor]:
        s = ranks.singular_values(kernel)
        return {
            f"{name}_condition": kernels.condition_number(s, self.eps),
            f"{name}_rank": ranks.effective_rank(s),
            f"{name}_off_diagonal_rank": ranks.effective_rank(ranks.singular_values(kernels.off_diagonal(kernel))),
            f"{name}_top_share": kernels.top_share(kernel, s),
            f"{name}_uneven": kernels.uneven(kernel),
        }


@dataclass(frozen=True)
class GradientCovariance(Diagnostic):
    """How much the loss gradients of single examples point the same way, or against each other: their cosines.

    Of C_ij, the cosine of the gradients at examples i and j, without its diagonal: `gradient_cosine` (mean),
    `gradient_interference` (share of negative ones), `gradient_degeneracy` (mean absolute value; 1 when all gradients
    are collinear). `gradient_rank` is the effective rank of C, at most the number of examples. The matrix itself comes
    from `gradient_cosines`, an order of its rows that shows blocks from `pliant.functional.kernels.cluster_order`.

    It holds at most examples x parameters numbers. Raises `ValueError` for a network with batch statistics.

    Source: Lyle et al. 2023, eq. 3, on 512 examples. Deviation: the scalars are ours.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Linear(2, 1, bias=False))
    >>> x, y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[9.0], [-9.0], [9.0]])
    >>> seen = Observation(net.params(), network=net, x=x, y=y, loss=torch.nn.functional.mse_loss)
    >>> {name: round(value.item(), 2) for name, value in GradientCovariance().measure(seen).items()}
    {'gradient_cosine': -0.33, 'gradient_interference': 0.33, 'gradient_degeneracy': 0.33, 'gradient_rank': 1.89}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"network", "x", "y", "loss"})
    cost: ClassVar[str] = "full"
    healthy: ClassVar[str] = (
        "gradient_cosine -0.01 to 0.01, gradient_interference 0.89 to 0.91, "
        "gradient_degeneracy 0.02 to 0.04, gradient_rank 58 to 60"
    )
    reference: ClassVar[str] = "lyle2023"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        cosine = gradient_cosines(seen)
        against = torch.where(cosine.isnan(), cosine, (cosine < 0).to(cosine))
        return {
            "gradient_cosine": kernels.mean_off_diagonal(cosine),
            "gradient_interference": kernels.mean_off_diagonal(against),
            "gradient_degeneracy": kernels.mean_off_diagonal(cosine.abs()),
            "gradient_rank": ranks.effective_rank(ranks.singular_values(cosine)),
        }


def gradient_cosines(seen: Observation) -> Tensor:
    """The matrix C of `GradientCovariance`, `(examples, examples)`, for a picture.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Linear(1, 1))
    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[9.0], [9.0]])
    >>> seen = Observation(net.params(), network=net, x=x, y=y, loss=torch.nn.functional.mse_loss)
    >>> gradient_cosines(seen)[0, 1].item()
    0.7071...
    """
    given(seen.loss, "loss")
    seen = widened(seen)
    x, y = given(seen.x, "x"), given(seen.y, "y")
    with example_by_example():
        return kernels.cosines(kernels.gradient_gram(loss_of_one(seen), trained(seen), x, y))
