"""The bandit: what its arms train, and its claims on numbers made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pliant.heads import Scalar, TwoHot
from pliant.interventions import L2, Chain, LayerNorm
from pliant.papers.lyle2024 import bandit
from pliant.papers.lyle2024.bandit import EXPERIMENT, HEADS, WAYS, far, middle, name, setup
from pliant.results import Results
from pliant.rl import TrueLabel
from pliant.trials import Policy, ProbeLoss, ValueLearning

SETTINGS = EXPERIMENT.settings("laptop")
SETUP = setup(SETTINGS)


def trial(arm: str) -> ValueLearning:
    found = SETUP.arms[arm].trial
    assert isinstance(found, ValueLearning)
    return found


def of(arm: str, kind: type) -> Any:
    (found,) = (measure for measure in trial(arm).measures if isinstance(measure, kind))
    return found


# -- arms --------------------------------------------------------------------------------------------------------------


def test_every_head_at_every_discount_with_the_pair_and_without() -> None:
    assert SETTINGS.gammas == (0.0, 0.9, 0.99)
    arms = {name(gamma, head, way) for gamma in SETTINGS.gammas for head in HEADS for way in WAYS}
    assert len(arms) == 18
    starts, long = {middle("two_hot"), middle("smoothed")}, {far(h, w) for h in ("scalar", "two_hot") for w in PAIR}
    assert set(SETUP.arms) == arms | starts | long
    for arm in SETUP.arms:
        assert trial(arm).epsilon == 1.0  # no exploration of the agent's own
        assert isinstance(trial(arm).mdp, TrueLabel)  # the next image does not depend on the action
        assert trial(arm).target_period == 100


PAIR = {"layer_norm": Chain(LayerNorm()), "both": Chain(LayerNorm(), L2(1e-6, normalisers=True))}


def test_chains_heads_and_discounts_are_what_the_arms_are_called() -> None:
    for gamma in SETTINGS.gammas:
        for head in HEADS:
            for way in WAYS:
                found = trial(name(gamma, head, way))
                assert found.gamma == gamma
                assert found.chain == {"none": Chain(), **PAIR}[way]
                assert isinstance(found.head, Scalar if head == "scalar" else TwoHot)
                assert getattr(found.head, "label_smoothing", 0.0) == (SETTINGS.smoothing if head == "smoothed" else 0)
                assert found.begin == (None if head == "scalar" else 0.0)
                assert of(name(gamma, head, way), Policy).head == found.head
    for head in ("scalar", "two_hot"):
        for way, chain in PAIR.items():
            assert trial(far(head, way)).chain == chain
            assert trial(far(head, way)).num_steps == SETTINGS.long * SETTINGS.num_steps
    for head in ("two_hot", "smoothed"):
        assert trial(middle(head)).begin is None
        assert trial(middle(head)).head == trial(name(0.99, head, "both")).head


@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.99])
def test_supports_hold_values_and_the_probes_targets_and_bins_are_as_wide_everywhere(gamma: float) -> None:
    head = trial(name(gamma, "two_hot", "none")).head
    assert isinstance(head, TwoHot)
    assert head.width == pytest.approx(SETTINGS.width)
    assert head.low <= 0 - 1
    assert head.high >= 1 / (1 - gamma) + 1
    rewards = torch.tensor([0.0, 1.0])
    assert head.encode(rewards).max(-1).values.tolist() == [1.0, 1.0]  # without smoothing they are one-hot


def test_the_probe_of_the_smoothed_head_can_be_reached() -> None:
    for arm in (name(0.99, "smoothed", "both"), middle("smoothed")):
        head = of(arm, ProbeLoss).probe.head
        assert isinstance(head, TwoHot)
        assert head.label_smoothing == 0
        assert head == of(name(0.99, "two_hot", "both"), ProbeLoss).probe.head
    assert of(name(0.99, "scalar", "both"), ProbeLoss).probe.head is None


# -- claims ------------------------------------------------------------------------------------------------------------


def made(changes: dict[str, float], spikes: dict[str, float], first: float = 0.2, accuracy: float = 0.9) -> Results:
    """Three seeds of every arm: by how much the probe loss rose, and how high the loss spiked."""

    def table(arm: str, seed: int) -> dict[str, np.ndarray]:
        rise, loss = changes.get(arm, 0.0), np.full(40, 0.1)
        loss[30] += spikes.get(arm, 0.0)
        loss[5] += 50.0  # in the first half, where learning is no spike
        probe = np.full(40, np.nan)
        probe[[0, -1]] = first, first + rise + 1e-4 * seed
        return {
            "step": np.arange(40), "diverged_at": np.full(40, -1), "probe_loss": probe,
            "probe_baseline": np.full(40, 0.5), "batch_loss": loss * (1 + 1e-3 * seed),
            "accuracy": np.full(40, accuracy + 1e-3 * seed),
        }  # fmt: skip

    return Results({(arm, seed): table(arm, seed) for arm in SETUP.arms for seed in range(3)})


PAPER = {
    **{name(0.99, head, "none"): 0.25 for head in HEADS},
    name(0.99, "scalar", "both"): 0.2,
    far("scalar", "layer_norm"): 0.3, far("scalar", "both"): 0.2, far("two_hot", "layer_norm"): 0.1,
    name(0.0, "two_hot", "none"): 0.2,
}  # fmt: skip
SPIKES = {name(0.0, "two_hot", "none"): 5.0}


def verdicts(results: Results) -> list[str]:
    return [claim.check(results).verdict for claim in SETUP.claims]


def test_on_what_the_paper_says_all_claims_hold() -> None:
    assert set(verdicts(made(PAPER, SPIKES))) == {"holds"}


def test_each_claim_fails_where_numbers_say_the_contrary() -> None:
    worn = {arm: 0.3 for arm in SETUP.arms if arm not in PAPER} | {
        name(0.99, "scalar", "both"): -0.1, far("scalar", "layer_norm"): 0.0, far("scalar", "both"): 0.2,
        far("two_hot", "layer_norm"): 0.1, name(0.99, "scalar", "none"): -0.2, name(0.0, "two_hot", "none"): -0.1,
    }  # fmt: skip
    found = dict(zip((claim.text for claim in SETUP.claims), verdicts(made(worn, {})), strict=True))
    undecided = [text for text, verdict in found.items() if verdict == "inconclusive"]
    assert undecided == [text for text in found if text.startswith("Label smoothing")]  # there is nothing to remove
    assert set(found.values()) == {"fails", "inconclusive"}, [text for text, v in found.items() if v == "holds"]


def test_smoothing_that_does_not_remove_the_spike_fails() -> None:
    both = {name(0.0, "two_hot", "none"): 5.0, name(0.0, "smoothed", "none"): 9.0}
    (claim,) = (claim for claim in SETUP.claims if claim.text.startswith("Label smoothing removes"))
    assert claim.check(made(PAPER, both)).verdict == "fails"
    assert bandit.spike(name(0.0, "two_hot", "none"))(made(PAPER, both))[0] == pytest.approx(5.0)


@pytest.mark.parametrize("vacuous", [{"first": 0.45}, {"accuracy": 0.3}], ids=["no probe", "nothing learned"])
def test_where_nothing_could_be_lost_nothing_is_said_of_plasticity(vacuous: dict[str, float]) -> None:
    found = dict(zip((claim.text for claim in SETUP.claims), verdicts(made(PAPER, SPIKES, **vacuous)), strict=True))
    assert {verdict for text, verdict in found.items() if "spike" not in text} == {"inconclusive"}


def test_smoothing_that_does_not_help_the_probe_fails() -> None:
    as_much = PAPER | {name(0.0, "smoothed", "none"): 0.3}
    (claim,) = (claim for claim in SETUP.claims if claim.text.startswith("Label smoothing lowers"))
    assert claim.check(made(as_much, SPIKES)).verdict == "fails"
