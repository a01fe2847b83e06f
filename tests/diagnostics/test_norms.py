import math

import pytest
import torch

from pliant.diagnostics import GradientNorm, Observation, ParameterNorm, RelativeUpdate


def values(found):
    return {name: value.item() for name, value in found.items()}


def test_parameter_norm_in_total_by_tensor_and_against_the_start():
    now = {"0.weight": torch.tensor([[3.0, 0.0]]), "0.bias": torch.tensor([4.0])}
    then = {"0.weight": torch.tensor([[1.0, 0.0]]), "0.bias": torch.tensor([0.0])}
    found = values(ParameterNorm().measure(Observation(now, initial=then)))
    assert math.isnan(found.pop("norm_ratio/0.bias"))
    assert found == {
        "parameter_norm": 5.0,
        "parameter_norm/0.weight": 3.0,
        "parameter_norm/0.bias": 4.0,
        "norm_ratio": 5.0,
        "norm_ratio/0.weight": 3.0,
    }


def test_gradient_norm():
    gradients = {"a": torch.tensor([0.0, 2.0]), "b": torch.full((4,), 1e-30)}
    found = values(GradientNorm().measure(Observation({}, gradients=gradients)))
    assert found == pytest.approx({"gradient_norm": 2.0, "gradient_norm/a": 2.0, "gradient_norm/b": 2e-30})


def test_relative_update():
    params, update = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(1)}, {"a": torch.zeros(2), "b": torch.ones(1)}
    found = values(RelativeUpdate().measure(Observation(params, update=update)))
    assert found["relative_update"] == pytest.approx(0.2)
    assert found["relative_update/a"] == 0
    assert math.isnan(found["relative_update/b"])
