import warnings

import pytest
import torch
from torch.func import vmap

from pliant.diagnostics import FeatureRanks, Observation
from pliant.network import Trace


def measure(features):
    return FeatureRanks().measure(Observation({}, trace=Trace(features, features, {})))


def features(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_all_ranks_from_one_decomposition(monkeypatch):
    calls = []
    for name in ("svdvals", "eigvalsh"):
        own = getattr(torch.linalg, name)
        monkeypatch.setattr(torch.linalg, name, lambda x, own=own: calls.append(x) or own(x))
    found = measure(torch.diag(torch.tensor([3.0, 1.0, 0.0])).repeat(2, 1))
    assert len(calls) == 1
    assert {name: round(value.item(), 4) for name, value in found.items()} == {
        "effective_rank": 1.7548,
        "srank": 2.0,
        "feature_rank": 2.0,
        "stable_rank": 1.1111,
        "participation_ratio": 1.2195,
        "pca_rank": 2.0,
        "rank_bound": 3.0,
    }


def test_warns_when_there_are_fewer_than_two_samples_a_feature():
    measure(features(16, 8))
    with pytest.warns(UserWarning, match="15 samples are too few to measure the rank of 8 features") as caught:
        found = measure(features(15, 8))
    assert found["rank_bound"] == 8
    assert "use 16 samples" in str(caught[0].message)
    assert "collapse" not in str(caught[0].message)


def test_reports_the_bound_of_a_small_batch():
    with pytest.warns(UserWarning, match="about 3"):
        found = measure(features(4, 8))
    assert found["rank_bound"] == 3


def test_warns_once_in_a_loop_and_once_for_a_population():
    for run in (lambda: [measure(features(4, 8)) for _ in range(5)], lambda: vmap(measure)(features(3, 4, 8))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            run()
        assert len(caught) == 1


def test_population_has_a_bound_each():
    assert vmap(measure)(features(3, 16, 8))["rank_bound"].tolist() == [8.0, 8.0, 8.0]
