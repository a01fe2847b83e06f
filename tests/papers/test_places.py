"""Places of cameras as experiments: the gap, its growth by hand, and what is evidence for P2's line."""

from __future__ import annotations

import numpy as np
import pytest

from pliant.experiment import find
from pliant.papers.places import ACCURACY, Settings, claims
from pliant.results import Results


def results(none: list[list[float]], both: list[list[float]], train: list[float] = (0.9,) * 8) -> Results:  # type: ignore[assignment]
    tables = {}
    for arm, values in (("none", none), ("both", both)):
        for seed, curve in enumerate(values):
            n = len(curve)
            tables[arm, seed] = {
                "step": np.arange(n), "end": np.ones(n, bool), "task": np.arange(n), "diverged_at": np.full(n, -1),
                ACCURACY: np.array(curve), "held_out_constant": np.full(n, 0.4), "accuracy": np.array(train[:n]),
            }  # fmt: skip
    return Results(tables)


def test_the_gap_grows_where_layer_norm_with_l2_wins_more_and_more() -> None:
    plain, steady = [[0.6, 0.5, 0.45, 0.3], [0.65, 0.5, 0.55, 0.45]], [[0.6] * 4, [0.75] * 4]
    worn = [0.9, 0.8, 0.7, 0.5]
    *learns, grows, ends, wears = (claim.check(results(plain, steady, worn)) for claim in claims(Settings()))
    assert [one.effect.mean for one in learns] == pytest.approx([0.225, 0.275])  # above 0.4
    assert grows.effect.mean == pytest.approx((1 + 0.8) / 2)  # of ranks 1, 2, 3, 4 and 1, 3, 2, 4
    assert ends.effect.mean == pytest.approx((0.3 + 0.3) / 2)  # the last of four
    assert wears.effect.mean == pytest.approx(0.4)
    shrinks = claims(Settings())[2].check(results(steady, plain))
    assert shrinks.effect.mean == pytest.approx(-grows.effect.mean)


def test_without_learning_there_is_no_verdict() -> None:
    low, high = [[0.3] * 8, [0.31] * 8], [[0.6] * 8, [0.61] * 8]
    checked = claims(Settings())[2].check(results(low, high))
    assert checked.verdict == "inconclusive"
    assert "learns its first place" in checked.reason


def test_only_the_real_folder_at_the_papers_size_is_evidence() -> None:
    experiment = find("lyle2024/wildcam")
    for tier, changes, evidence in (
        ("paper", (), True), ("paper", ("every=1000",), False), ("paper", ("data=cameras",), False),
        ("laptop", (), False), ("smoke", (), False),
    ):  # fmt: skip
        setup = experiment.setup(experiment.settings(tier, changes))
        assert any(45 in claim.checklist for claim in setup.claims) == evidence
        assert any(45 in claim.beside for claim in setup.claims)
    stand_in = find("toolbox/cameras")
    assert not any(c.checklist for tier in stand_in.tiers for c in stand_in.setup(stand_in.settings(tier)).claims)
    with pytest.raises(ValueError, match=r"expected --set data= with places, one of iwildcam, .*, got mnist"):
        experiment.setup(experiment.settings("smoke", ["data=mnist"]))
