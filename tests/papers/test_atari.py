"""Agents in Atari as experiments: dqn_zoo's numbers, what is evidence for the papers' lines, what claims compare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pliant.experiment import find
from pliant.heads import C51, Scalar
from pliant.interventions import Chain
from pliant.optim import RMSProp
from pliant.papers.emulators import GAMES, Emulated, environment
from pliant.papers.lyle2023.fig7 import Settings as Fig7
from pliant.papers.lyle2023.fig7 import claims
from pliant.papers.toolbox.replay_ratio import Settings as Ratio
from pliant.results import Results
from pliant.rl import Evaluation, Prioritised


def test_the_agents_have_dqn_zoos_numbers() -> None:
    double, c51, rainbow = (Emulated().trial("pong", agent, Chain()) for agent in ("double_dqn", "c51", "rainbow"))
    assert [(t.begin, t.decay, t.epsilon, t.target_period) for t in (double, c51, rainbow)] == [
        (200_000, 4_000_000, 0.01, 120_000), (200_000, 4_000_000, 0.01, 40_000), (80_000, 1, 0.0, 32_000),
    ]  # fmt: skip
    assert {t.learn_period for t in (double, c51, rainbow)} == {16}
    assert {(t.batch_size, t.capacity, t.stack, t.gamma, t.clip) for t in (double, c51, rainbow)} == {
        (32, 1_000_000, 4, 0.99, 1.0)
    }
    assert (double.double, c51.double, rainbow.double, rainbow.steps) == (True, False, True, 3)
    assert rainbow.prioritised == Prioritised()
    assert double.head == Scalar(clip=1.0)
    assert c51.head == rainbow.head == C51(-10.0, 10.0, 51)
    assert [t.evaluation for t in (double, c51, rainbow)] == [
        Evaluation(1_000_000, 500_000, epsilon) for epsilon in (0.01, 0.001, 0.0)
    ]
    p1 = Fig7().trial("pong", "double_dqn", Chain())
    assert (p1.begin, p1.capacity, p1.epsilon) == (20_000, 100_000, 0.1)


def test_double_dqns_optimizer_makes_dqn_zoos_updates_of_half_its_gradient() -> None:
    ours = Emulated().optimizer("double_dqn")
    theirs = RMSProp(2.5e-4, alpha=0.95, eps=0.0, eps_root=0.01 / 32**2, centered=True)
    generator = torch.Generator().manual_seed(0)
    a, b = ({"w": torch.zeros(50, dtype=torch.float64)} for _ in range(2))
    moments = ours.init(a), theirs.init(b)
    for _ in range(20):
        g = 0.01 * torch.randn(50, generator=generator, dtype=torch.float64)
        ours.update(a, {"w": 2 * g}, moments[0])
        theirs.update(b, {"w": g.clone()}, moments[1])
    assert a["w"].abs().max() > 1e-4
    torch.testing.assert_close(a["w"], b["w"], rtol=1e-9, atol=0)


def test_layout_and_digits_are_settings_and_the_latter_is_a_deviation() -> None:
    plain, lean = Emulated(), Emulated(channels_last=True, bfloat16=True)
    net = lean.net("c51")((4, 84, 84), 3 * 51)
    assert [name.removeprefix("net.") for name in net.state_dict()] == [
        *plain.net("c51")((4, 84, 84), 153).state_dict()
    ]
    assert [len(each.deviations()) for each in (plain, replace(plain, channels_last=True), lean)] == [3, 3, 4]


def test_only_the_papers_size_is_evidence_for_their_lines() -> None:
    assert len(GAMES) == len(set(GAMES)) == 57
    for id, number in (("lyle2023/fig7", 24), ("lyle2024/atari", 43)):
        experiment = find(id)
        paper, laptop = (experiment.setup(experiment.settings(tier)).claims for tier in ("paper", "laptop"))
        assert any(number in claim.checklist for claim in paper)
        assert not any(number in claim.beside for claim in paper)
        assert not any(claim.checklist for claim in laptop)
        assert any(number in claim.beside for claim in laptop)
        short = experiment.settings("paper", ["num_steps=1000000"])
        assert not any(claim.checklist for claim in experiment.setup(short).claims)


def test_the_share_of_games_that_layer_norm_improves_is_one_number_a_seed() -> None:
    found = {}
    for at, game in enumerate(GAMES):
        for arm, score in (("none", 2.0), ("layer_norm", 3.0 if at < 45 else 1.0)):
            for seed in range(3):
                values = np.array([0.0, score + 0.1 * seed, score])
                found[f"{game}_{arm}", seed] = {
                    "step": np.arange(3), "diverged_at": np.full(3, -1), "score": values,
                }  # fmt: skip
    (claim,) = claims(Fig7())
    checked = claim.check(Results(found))
    assert checked.effect.mean == pytest.approx(45 / 57)
    assert checked.verdict == "holds"


def test_games_are_told_by_their_names_and_several_updates_are_made_a_frame() -> None:
    with pytest.raises(ValueError, match="unknown game 'breakuot': did you mean 'breakout'"):
        environment("breakuot", 84)
    with pytest.raises(ValueError, match="unknown agent 'c15': did you mean 'c51'"):
        Emulated().net("c15")
    arms = find("toolbox/replay_ratio").setup(replace(Ratio(), num_updates=6)).arms
    assert {key: arm.trial.num_updates for key, arm in arms.items()} == {  # type: ignore[attr-defined]
        "none": 6, "once": 1, "resets": 6, "redo": 6, "layer_norm": 6, "l2": 6,
    }  # fmt: skip
