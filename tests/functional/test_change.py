import pytest
import torch

from pliant.functional import change, jacobians, norms
from tests.reference import sizes as naive


def test_churn():
    now, before = torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([[1.5, -2.0], [3.0, 0.0]])
    assert change.churn(now, before) == 1.0  # (0.5 + 0 + 3 + 0.5) / 4
    assert change.churn(before, now) == 1.0
    assert change.churn(now, now) == 0


def test_sample_plasticity():
    before = torch.tensor([4.0, 4.0, 0.5, 0.0, 0.0])
    after = torch.tensor([1.0, 4.0, 1.0, 0.0, 1.0])
    found = change.sample_plasticity(after, before)
    assert found.tolist() == [0.75, 0.0, 0.0, 1.0, 0.0]
    assert change.sample_plasticity(after, before, eps=1.0).tolist() == [0.75, 0.0, 0.0, 1.0, 0.0]
    assert change.sample_plasticity(torch.tensor([0.25]), torch.tensor([0.5]), eps=1.0).tolist() == [0.75]


def test_isometry_gap():
    assert jacobians.isometry_gap(torch.ones(3, 2)).tolist() == [0.0, 0.0, 0.0]
    assert jacobians.isometry_gap(torch.tensor([4.0, 1.0, 1.0])).item() == pytest.approx(3**0.5)
    assert jacobians.isometry_gap(torch.zeros(4)) == 1


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_feature_norm_and_effective_lr_equal_the_naive_transcription(scale):
    matrix = scale * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    assert norms.feature_norm(matrix).item() == pytest.approx(naive.feature_norm(matrix), rel=1e-5)
    if scale == 1:
        rates = [rate.item() for rate in norms.effective_lr(matrix, lr=0.3)]
        assert rates == pytest.approx(naive.effective_lr(matrix, lr=0.3), rel=1e-5)


def test_effective_lr_falls_as_the_weight_grows():
    weight = torch.tensor([[3.0, 4.0]])
    sgd, adam = norms.effective_lr(weight, lr=1.0)
    assert (sgd.item(), adam.item()) == pytest.approx((1 / 25, 1 / 5))
    assert [rate.item() for rate in norms.effective_lr(2 * weight, lr=1.0)] == pytest.approx([1 / 100, 1 / 10])
