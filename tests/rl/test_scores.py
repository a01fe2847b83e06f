"""Scores beside those of random play and of people."""

import numpy as np
import pytest

from pliant.rl import human_normalised, improvement


def test_a_score_is_a_share_of_the_way_from_random_play_to_a_person() -> None:
    assert human_normalised(np.array([-20.7, 14.6, -3.05]), -20.7, 14.6) == pytest.approx([0, 1, 0.5])  # Pong
    with pytest.raises(ValueError, match=r"expected a person to score more than random play, 2.0, got 1.0"):
        human_normalised(np.zeros(1), 2.0, 1.0)


def test_what_was_gained_is_held_against_the_better_of_baseline_and_person() -> None:
    gained = improvement(np.array([30.0, 90.0, 5.0]), np.array([10.0, 60.0, 15.0]), random=0.0, human=40.0)
    assert gained == pytest.approx([20 / 40, 30 / 60, -10 / 40])
