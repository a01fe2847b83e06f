"""How sure the network is of its classes."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pliant.diagnostics._shared import given
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional.distributions import entropy
from pliant.sites import rows


@dataclass(frozen=True)
class PredictiveEntropy(Diagnostic):
    """The mean entropy of the predicted class distributions on the batch, in nats; jumps when a task changes.

    `entropy`, for a network whose output is logits `(..., samples, classes)`.
    Raises `ValueError` for an output of another kind.

    >>> import torch
    >>> from pliant.network import Trace
    >>> logits = torch.zeros(5, 2)
    >>> PredictiveEntropy().measure(Observation({}, trace=Trace(logits, logits, {})))
    {'entropy': tensor(0.6931)}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = "entropy 2.29 to 2.30"
    reference: ClassVar[str] = "lyle2024"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        logits = given(seen.trace, "trace").output
        if not isinstance(logits, Tensor) or logits.ndim < 2:
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"expected logits of shape (samples, classes) as the network's output, got {got}: "
                "leave PredictiveEntropy out, or make the model return its logits"
            )
        return {"entropy": entropy(logits if seen.mask is None else rows(logits, seen.mask))}
