import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from pliant.functional import preactivations
from tests.reference import preactivations as naive

VALUES = st.sampled_from([-3.0, -1.0, 0.0, 0.25, 1.0, 20.0])
pairs = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4)).flatmap(
    lambda n: st.tuples(*(npst.arrays(np.float64, (samples, n[2]), elements=VALUES) for samples in n[:2]))
)


@given(pair=pairs)
def test_equal_the_naive_transcription(pair):
    now, before = map(torch.tensor, pair)
    mean, variance = preactivations.moments(now)
    assert np.allclose(mean, naive.moments(now)[0])
    assert np.allclose(variance, naive.moments(now)[1])
    assert np.allclose(preactivations.z_shift(now, before), naive.z_shift(now, before), equal_nan=True)
    assert preactivations.one_sided(now).tolist() == naive.one_sided(now)
    assert np.allclose(preactivations.sign_agreement(now), naive.sign_agreement(now))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1e3, 1.0), (-1e3, 0.1)])
def test_float32_with_a_large_mean(mean, std):
    noise = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    pre, before = mean + std * (noise + 1), mean + std * noise
    assert np.allclose(preactivations.moments(pre).variance, naive.moments(pre)[1], rtol=1e-4)
    assert np.allclose(preactivations.z_shift(pre, before), naive.z_shift(pre, before), rtol=1e-2)


def test_hand_computed():
    before = torch.tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [2.0, 5.0]])  # means 2 and 5, variances 2 and 0
    assert preactivations.moments(before).mean.tolist() == [2.0, 5.0]
    assert preactivations.moments(before).variance.tolist() == [2.0, 0.0]
    shift = preactivations.z_shift(before + 2, before)
    assert shift[0].item() == pytest.approx(2**0.5)
    assert shift[1].isnan()
    assert preactivations.one_sided(before - 2).tolist() == [False, True]
    assert preactivations.sign_agreement(before - 2).tolist() == [0.0, 1.0]


def test_shift_and_agreement_keep_their_invariances():
    now, before = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(1)).double()
    shift = preactivations.z_shift(now, before)
    assert torch.allclose(preactivations.z_shift(3 * now + 7, 3 * before + 7), shift)
    assert (preactivations.z_shift(now, 3 * before) < shift).any()
    assert torch.equal(preactivations.sign_agreement(-5 * now), preactivations.sign_agreement(now))
    assert preactivations.z_shift(now, now).abs().sum() == 0


def test_population_equals_a_loop():
    now, before = torch.randn(2, 3, 20, 4, generator=torch.Generator().manual_seed(2)).double()
    for function in (preactivations.z_shift, lambda a, _: preactivations.one_sided(a - a.min())):
        stacked = vmap(function)(now, before)
        assert all(torch.equal(stacked[i], function(now[i], before[i])) for i in range(3))
