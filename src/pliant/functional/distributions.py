"""Numbers on predicted distributions."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.functional.precision import wide


def entropy(logits: Tensor) -> Tensor:
    """The mean entropy of the predicted class distributions, in nats: from 0 (certain) to ln(classes).

    E_x[-sum_c p_c(x) ln p_c(x)], p = softmax(logits). A class ruled out by a logit of -inf adds nothing.

    `logits` is `(..., classes)`, the result a scalar.

    >>> entropy(torch.tensor([[0.0, 0.0], [0.0, -torch.inf]]))
    tensor(0.3466)
    """
    log_p = wide(logits).log_softmax(-1)
    p = log_p.exp()
    return -torch.where(p == 0, 0.0, p * log_p).sum(-1).mean()
