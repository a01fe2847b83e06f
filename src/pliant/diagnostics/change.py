"""What became of outputs and losses between two moments, on the same inputs."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from pliant.diagnostics._examples import as_tensor, batch_of_one
from pliant.diagnostics._shared import given
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import change
from pliant.functional.precision import wide
from pliant.sites import rows


@dataclass(frozen=True)
class Churn(Diagnostic):
    """How far the outputs moved since an earlier moment: the mean of |f_now(x) - f_earlier(x)|, in units of the output.

    `churn`. Meant for inputs that were not trained on in between; see `pliant.functional.change.churn`.

    >>> import torch
    >>> from pliant.network import Trace
    >>> now, before = (Trace(torch.full((4, 2), value), torch.ones(4, 1), {}) for value in (3.0, 2.5))
    >>> Churn().measure(Observation({}, trace=now, earlier=before))
    {'churn': tensor(0.5000)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace", "earlier"})
    healthy: ClassVar[str] = "churn 0.04 to 0.07 after one step of Adam at 1e-3"
    reference: ClassVar[str] = "tang2025"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        now, before = given(seen.trace, "trace").output, given(seen.earlier, "earlier").output
        both = as_tensor(now), as_tensor(before)
        return {"churn": change.churn(*both if seen.mask is None else [rows(output, seen.mask) for output in both])}


@dataclass(frozen=True)
class SamplePlasticity(Diagnostic):
    """The mean share of its loss that a sample lost since an earlier moment, from 0 to 1.

    `sample_plasticity`; meant for the batch of an update, with `earlier` right before it and `trace` right after. See
    `pliant.functional.change.sample_plasticity`. A network with batch statistics is fine: only outputs are read.

    >>> import torch
    >>> from pliant.network import Trace
    >>> now, before = (Trace(torch.full((4, 1), value), torch.ones(4, 1), {}) for value in (1.0, 2.0))
    >>> loss = torch.nn.functional.mse_loss
    >>> SamplePlasticity().measure(Observation({}, trace=now, earlier=before, y=torch.zeros(4, 1), loss=loss))
    {'sample_plasticity': tensor(0.7500)}
    """

    eps: float = 1e-8

    needs: ClassVar[frozenset[str]] = frozenset({"trace", "earlier", "y", "loss"})
    healthy: ClassVar[str] = "sample_plasticity 0.03 to 0.05 after one step of Adam at 1e-3"
    reference: ClassVar[str] = "elsayed2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        now, before = given(seen.trace, "trace").output, given(seen.earlier, "earlier").output
        loss, y = given(seen.loss, "loss"), given(seen.y, "y")
        each = vmap(lambda output, target: loss(batch_of_one(output), batch_of_one(target)))
        now, before = (tree_map(lambda t: wide(t) if isinstance(t, Tensor) else t, output) for output in (now, before))
        return {"sample_plasticity": change.sample_plasticity(each(now, y), each(before, y), self.eps).mean()}
