"""Evaluation: phases before training and after so many frames of it, scores by the episodes that ended in them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pliant.heads import C51
from pliant.rl import Catch, Episodes, Evaluation, Phases
from tests.rl.scripted import Scripted
from tests.trials.test_q_learning import TRIAL
from tests.trials.test_sac import TRIAL as SAC


def test_a_score_is_the_mean_of_what_ended_else_what_there_is_so_far() -> None:
    """Episodes of 3 and 5 frames after their first: rewards 1 + 2 + 3 and 1 + ... + 5, for action 0."""
    script = Scripted((3, 5, 50))
    emulators = [script.emulator(seed) for seed in (0, 2)]
    phases, training = Phases.none(emulators[0], script.limit, 2, 1, torch.uint8), Episodes.none(2, 10)
    settings = Evaluation(every=7, frames=4 + 6 + 3)

    def act(frame: int) -> torch.Tensor:
        return torch.tensor([0, 0])

    *empty, row = phases.rows(settings, emulators, training, act)
    assert len(empty) == 12
    assert not any(empty)
    so_far = sum(range(1, 13))  # of the episode of 50 frames, in which 12 follow the first
    assert row["score"].tolist() == [(6 + 15) / 2, so_far]
    assert (phases.done, phases.frames, phases.total, phases.ended) == (1, 0, [0.0, 0.0], [0, 0])
    *_, row = phases.rows(settings, emulators, training, act)  # the cut episode counts nowhere; the next one begins
    assert row["score"].tolist() == [(6 + 15) / 2, (6 + 15) / 2]


def test_phases_come_before_training_and_after_every_so_many_frames_and_cut_its_episodes() -> None:
    trial = replace(TRIAL, env=Catch(5, 4), evaluation=Evaluation(every=48, frames=12), num_steps=96, measures=())
    run, scored, seen = trial.start([0, 1]), [], []
    for row in run.rows:
        seen.append(run.state.step)
        if "score" in row:
            scored.append(run.state.step)
            assert run.state.episodes.frames == [0, 0]
    assert scored == [0, 48, 96]
    assert [seen.count(step) for step in (0, 48, 96)] == [12, 1 + 12, 1 + 12]
    assert run.state.replay.entries[0] < 96


def test_evaluation_trains_nothing_and_explores_by_its_own_epsilon() -> None:
    """With as many frames of a phase as there are of an episode, training is what it is without evaluation."""
    trial = replace(TRIAL, num_steps=60)
    plain, judged = trial.start([0]), replace(trial, evaluation=Evaluation(every=60, frames=5)).start([0])
    for run in (plain, judged):
        for _ in run.rows:
            pass
    for name, p in plain.state.learner.params.items():
        assert torch.equal(p, judged.state.learner.params[name])
    random = replace(trial, epsilon=0.0, head=C51(-1.0, 1.0, 5), evaluation=Evaluation(60, 3000, epsilon=1.0))
    (score,) = [row["score"] for row in _first(random) if "score" in row]
    assert -0.75 < float(score) < -0.3  # as a random agent's in Catch with four columns


def _first(trial) -> list:
    found = []
    for row in trial.start([0]).rows:
        found.append(row)
        if "score" in row:
            return found
    return found


def test_an_agent_of_continuous_actions_is_judged_without_noise() -> None:
    trial = replace(SAC, evaluation=Evaluation(every=60, frames=12), measures=())
    run = trial.start([0, 1])
    scores = [row["score"] for row in run.rows if "score" in row]
    again = [row["score"] for row in trial.start([0, 1]).rows if "score" in row]
    assert len(scores) == 2
    assert all(torch.equal(one, other) for one, other in zip(scores, again, strict=True))
    assert ((scores[0] >= 0) & (scores[0] <= 5)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "expected every of Evaluation to be at least 1, got 0"),
        ({"frames": 0}, "expected frames of Evaluation to be at least 1, got 0"),
        ({"epsilon": 2.0}, r"expected epsilon of Evaluation in \[0, 1\], got 2.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(**settings)
