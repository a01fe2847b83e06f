import math

import pytest
import torch

from pliant.diagnostics import Observation, PredictiveEntropy
from pliant.network import Trace


def measure(output):
    return PredictiveEntropy().measure(Observation({}, trace=Trace(output, torch.ones(1, 1), {})))


def test_uniform_and_certain_predictions():
    assert measure(torch.zeros(4, 10))["entropy"].item() == pytest.approx(math.log(10))
    assert measure(1e4 * torch.eye(3))["entropy"] == 0


@pytest.mark.parametrize(("output", "got"), [(torch.zeros(4), r"shape \(4,\)"), ((torch.zeros(4, 2),), "tuple")])
def test_an_output_that_is_no_logits_is_refused(output, got):
    with pytest.raises(ValueError, match=f"expected logits .* got {got}"):
        measure(output)
