import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from pliant.functional import offsets
from tests.reference import offsets as naive


def features(seed, samples=12, units=5, mean=2.0):
    return torch.randn(samples, units, generator=torch.Generator().manual_seed(seed)).double() + mean


@given(seed=st.integers(0, 1000), mean=st.sampled_from([0.0, 1.0, 30.0]))
def test_equal_the_naive_transcription(seed, mean):
    phi = features(seed, mean=mean)
    weight = features(seed + 1, samples=3)
    first, second, left, right = naive.top(phi)
    top = offsets.top_direction(phi)
    assert top.s[:2].tolist() == pytest.approx([first, second], rel=1e-6)
    assert offsets.gap(top.s, 1e-5).item() == pytest.approx(first / second, rel=1e-6)
    assert offsets.constancy(top.left).item() == pytest.approx(naive.constancy(left), rel=1e-6)
    assert offsets.head_share(weight, top.right).item() == pytest.approx(naive.head_share(weight, right), rel=1e-6)


def test_hand_computed():
    phi = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    top = offsets.top_direction(phi)
    assert top.s.tolist() == pytest.approx([32**0.5, 2**0.5])
    assert offsets.gap(top.s, eps=1e-5).item() == pytest.approx(4.0)
    assert offsets.constancy(top.left).item() == pytest.approx(2**0.5 / 2)  # two of four inputs
    weight = torch.tensor([[3.0, 4.0], [0.0, 12.0]])
    assert offsets.head_share(weight, top.right).item() == pytest.approx(3 / 13)
    assert offsets.offset(torch.tensor([[1.0], [5.0]])) == 1.5
    assert offsets.offset(torch.tensor([-9.0, -11.0])) == -10


def test_a_common_offset_of_the_features_shows_in_every_number():
    phi = features(0, samples=64, units=8, mean=0.0)
    found = []
    for size in (0.0, 10.0, 1000.0):
        top = offsets.top_direction(phi + size * torch.eye(8)[0].double())
        weight = torch.eye(8)[:1]
        share = offsets.head_share(weight, top.right)
        found.append([v.item() for v in (top.s[0], offsets.gap(top.s, 1e-5), offsets.constancy(top.left), share)])
    for small, medium, large in zip(*found, strict=True):
        assert small < medium < large
    assert found[-1][2:] == pytest.approx([1.0, 1.0], abs=1e-3)


def test_degenerate_features():
    zero = offsets.top_direction(torch.zeros(4, 3))
    assert offsets.gap(zero.s, eps=1e-5) == 0
    assert offsets.constancy(zero.left) == 0
    assert offsets.head_share(torch.ones(2, 3), zero.right) == 0
    same = offsets.top_direction(torch.ones(4, 1))
    assert offsets.gap(same.s, eps=1e-3) == pytest.approx(1000)
    assert offsets.constancy(same.left).item() == pytest.approx(1)
    assert offsets.head_share(torch.zeros(2, 3), torch.tensor([1.0, 0.0, 0.0])) == 0


def test_targets_that_never_vary():
    assert offsets.offset(torch.zeros(5)) == 0
    assert offsets.offset(torch.full((5,), 2.0)) == math.inf


@given(y=npst.arrays(np.float64, 6, elements=st.floats(-10, 10)), scale=st.sampled_from([0.1, 30.0]))
def test_offset_equals_the_naive_transcription_and_ignores_the_unit(y, scale):
    if y.std() < 1e-3:
        return
    found = offsets.offset(torch.tensor(y)).item()
    assert found == pytest.approx(naive.offset(y), rel=1e-9, abs=1e-12)
    assert offsets.offset(torch.tensor(scale * y)).item() == pytest.approx(found, rel=1e-9, abs=1e-12)


def test_a_feature_that_is_not_finite_gives_nan_and_spares_the_population():
    phi = torch.stack([features(seed) for seed in range(3)])
    phi[1, 2, 3] = torch.inf

    def numbers(phi):
        top = offsets.top_direction(phi)
        return offsets.gap(top.s, 1e-5), offsets.constancy(top.left), offsets.head_share(torch.ones(1, 5), top.right)

    for values in vmap(numbers)(phi):
        assert values.isfinite().tolist() == [True, False, True]
