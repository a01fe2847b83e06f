"""How many directions the penultimate features use."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.diagnostics._shared import given
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import ranks


@dataclass(frozen=True)
class FeatureRanks(Diagnostic):
    """Six ranks of the penultimate features on the batch, from one decomposition, with the bound the batch sets.

    `effective_rank`, `srank`, `feature_rank`, `stable_rank`, `participation_ratio`, `pca_rank`: see
    `pliant.functional.ranks`. They differ, so compare like with like. `rank_bound` is min(samples - 1, features).

    Warns if there are fewer than two samples a feature: then the batch, not the network, holds the rank down. (The
    effective rank of 512 healthy features reads 0.93, 0.46, 0.12 of full on 1024, 256, 64 samples.)

    >>> import torch
    >>> from pliant.network import Trace
    >>> phi = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    >>> found = FeatureRanks().measure(Observation({}, trace=Trace(phi, phi, {})))
    >>> found["srank"], found["rank_bound"]
    (tensor(2.), tensor(2.))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trace"})
    healthy: ClassVar[str] = (
        "effective_rank 178 to 184, srank 240 to 243, feature_rank 252 to 256, stable_rank 1.8 to 2.1, "
        "participation_ratio 3.4 to 4.3, pca_rank 186 to 194"
    )
    reference: ClassVar[str] = "lyle2022"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        features = given(seen.trace, "trace").features
        num_samples, num_features = features.shape
        bound = ranks.rank_bound(num_samples, num_features)
        if num_samples < 2 * num_features:
            warnings.warn(
                f"{num_samples} samples are too few to measure the rank of {num_features} features: no rank can exceed "
                f"about {bound} and healthy ones read low; use {2 * num_features} samples or more",
                stacklevel=2,
            )
        s = ranks.singular_values(features)
        return {
            "effective_rank": ranks.effective_rank(s),
            "srank": ranks.srank(s),
            "feature_rank": ranks.feature_rank(s, num_samples),
            "stable_rank": ranks.stable_rank(s),
            "participation_ratio": ranks.participation_ratio(s),
            "pca_rank": ranks.pca_rank(s),
            "rank_bound": torch.full_like(s[0], bound),
        }
