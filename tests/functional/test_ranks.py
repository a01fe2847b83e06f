import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from pliant.functional import ranks
from tests.reference import ranks as naive

matrices = npst.arrays(
    np.float64,
    st.tuples(st.integers(1, 10), st.integers(1, 6)),
    elements=st.sampled_from([-2.0, -1.0, 0.0, 0.25, 1.0, 3.0]),
)


def family(features):
    s = ranks.singular_values(features)
    return {
        "effective_rank": ranks.effective_rank(s),
        "srank": ranks.srank(s),
        "feature_rank": ranks.feature_rank(s, len(features)),
        "stable_rank": ranks.stable_rank(s),
        "participation_ratio": ranks.participation_ratio(s),
        "pca_rank": ranks.pca_rank(s),
    }


def with_singular_values(s, num_samples, dtype=torch.float32):
    """A matrix with these singular values between two random rotations."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(num_samples, len(s), dtype=torch.float64, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(len(s), len(s), dtype=torch.float64, generator=generator))[0]
    return (left @ torch.diag(torch.tensor(s, dtype=torch.float64)) @ right).to(dtype)


@given(features=matrices)
def test_float64_equals_the_naive_transcription(features):
    for name, value in family(torch.tensor(features)).items():
        assert value.item() == pytest.approx(float(getattr(naive, name)(features)), rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_float32_equals_the_naive_transcription(scale):
    mixing = torch.randn(40, 40, generator=torch.Generator().manual_seed(1)) * torch.logspace(0, -3, 40)
    features = scale * torch.relu(torch.randn(200, 40, generator=torch.Generator().manual_seed(2)) @ mixing)
    for name, value in family(features).items():
        assert value.item() == pytest.approx(float(getattr(naive, name)(features)), rel=1e-4), name


def test_hand_computed():
    found = family(torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0])))
    assert found["effective_rank"].item() == pytest.approx(2 * 2**0.5)  # p = 1/2, 1/4, 1/4: entropy 1.5 ln 2
    assert found["srank"].item() == 3
    assert found["feature_rank"].item() == 3
    assert found["stable_rank"].item() == pytest.approx(1.5)
    assert found["participation_ratio"].item() == pytest.approx(2.0)  # 6^2 / 18
    assert found["pca_rank"].item() == 3


def test_all_six_differ_on_one_matrix():
    s = [10.0, 6.0, 3.0, 1.0, 0.3, 0.2, 0.11, 0.05, 0.001]
    found = {name: value.item() for name, value in family(with_singular_values(s, num_samples=16)).items()}
    assert found["srank"] == 6
    assert found["feature_rank"] == 8
    assert found["pca_rank"] == 3
    assert found["stable_rank"] == pytest.approx(1.462, abs=1e-3)
    assert found["participation_ratio"] == pytest.approx(1.877, abs=1e-3)
    assert found["effective_rank"] == pytest.approx(3.619, abs=1e-3)
    assert len({round(value, 6) for value in found.values()}) == 6


def test_equal_singular_values_reach_a_share_exactly_in_either_precision():
    for dtype in (torch.float32, torch.float64):
        for size in range(1, 700):
            assert ranks.srank(torch.ones(size, dtype=dtype)) == -(-99 * size // 100)
            assert ranks.pca_rank(torch.ones(size, dtype=dtype)) == -(-99 * size // 100)


def test_huge_features_of_rank_one_have_feature_rank_one_in_float32():
    """Regression to targets with a large mean makes one direction huge; the others are rounding errors above eps."""
    generator = torch.Generator().manual_seed(0)
    features = 1e6 * torch.rand(1000, 1, generator=generator) @ torch.rand(1, 64, generator=generator)
    s = ranks.singular_values(features)
    assert (s / 1000**0.5 > 0.01).sum() > 10
    assert ranks.feature_rank(s, num_samples=1000) == 1


def test_a_planted_small_singular_value_is_counted():
    """The Gram matrix in float32 would miss it: this test says what the shortcut costs."""
    small = 2e-5
    features = with_singular_values([1.0] * 4 + [small] * 4, num_samples=64)
    s = ranks.singular_values(features)
    assert s[4:].tolist() == pytest.approx([small] * 4, rel=1e-2)
    assert ranks.feature_rank(s, num_samples=64, eps=small / 2 / 8) == 8
    shortcut = torch.linalg.eigvalsh(features.T @ features).clamp(min=0).sqrt().flip(0)
    assert not np.allclose(shortcut[4:], small, rtol=1e-2)


@given(features=matrices, data=st.data())
def test_order_and_rotation_do_not_matter(features, data):
    features = torch.tensor(features)
    rows = torch.tensor(data.draw(st.permutations(range(features.shape[0]))))
    columns = torch.tensor(data.draw(st.permutations(range(features.shape[1]))))
    turned = family(features[rows][:, columns] * torch.tensor(data.draw(st.sampled_from([-1.0, 1.0]))))
    for name, value in family(features).items():
        assert turned[name].item() == pytest.approx(value.item(), rel=1e-9), name


@given(features=matrices, factor=st.sampled_from([1e-30, 0.1, 7.0, 1e30]))
def test_only_feature_rank_depends_on_the_scale(features, factor):
    features = torch.tensor(features, dtype=torch.float32)
    before, after = family(features), family(features * factor)
    for name in before:
        if name != "feature_rank":
            assert after[name].item() == pytest.approx(before[name].item(), rel=1e-3), name
    if factor == 1e-30:
        assert after["feature_rank"] == 0
    if factor == 1e30:
        assert after["feature_rank"] == np.linalg.matrix_rank(features)


@given(features=matrices)
def test_between_one_and_the_rank_of_the_matrix(features):
    largest = np.linalg.matrix_rank(features)
    for name, value in family(torch.tensor(features)).items():
        lower = 0 if name == "feature_rank" or largest == 0 else 1
        assert lower - 1e-9 <= value <= largest + 1e-6, name


@pytest.mark.parametrize(
    "features", [torch.zeros(6, 4), torch.zeros(6, 1), torch.ones(6, 1), torch.ones(6, 4), torch.ones(1, 4)]
)
def test_zero_constant_and_one_unit_features_have_rank_zero_or_one(features):
    for name, value in family(features).items():
        assert value.item() == pytest.approx(float(features.any())), name


def test_a_feature_that_is_not_finite_gives_nan_and_spares_the_population():
    features = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    features[1, 2, 3] = torch.nan
    found = vmap(family)(features)
    for name, values in found.items():
        assert values.isfinite().tolist() == [True, False, True], name
        assert values[1].isnan(), name


def test_population_equals_a_loop():
    features = torch.randn(4, 12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stacked = vmap(family)(features)
    for i in range(4):
        for name, value in family(features[i]).items():
            assert torch.allclose(stacked[name][i], value, rtol=1e-10, atol=0), name


def test_bound():
    assert ranks.rank_bound(64, 512) == 63
    assert ranks.rank_bound(1024, 512) == 512


@pytest.mark.parametrize(("num_samples", "share"), [(1024, 0.93), (256, 0.46), (64, 0.12)])
def test_why_there_is_a_guard(num_samples, share):
    healthy = torch.randn(num_samples, 512, generator=torch.Generator().manual_seed(0))
    assert ranks.effective_rank(ranks.singular_values(healthy)) / 512 == pytest.approx(share, abs=0.01)
