"""Classification MDPs: states, rewards and transitions as the paper has them, for a population at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from pliant.data import load
from pliant.functional.draws import draw
from pliant.rl import ClassificationMDP, RandomLabel, SparseReward, TrueLabel, World
from pliant.rl.mdp import NUM_DRAWS

MDPS = [TrueLabel(400), RandomLabel(400), SparseReward(400)]
every_mdp = pytest.mark.parametrize("mdp", MDPS, ids=lambda mdp: type(mdp).__name__)
SEEDS, ENVS, STEPS = [0, 5], 50, 200


def uniform(step: int) -> torch.Tensor:
    return torch.from_numpy(draw(7, "test", step).random((len(SEEDS), ENVS, NUM_DRAWS + 1)))


def independent(counts: np.ndarray) -> float:
    """The p value of rows and columns having nothing to do with each other."""
    _, p, _, _ = chi2_contingency(counts)
    return float(p)  # type: ignore[arg-type]


def walk(mdp: ClassificationMDP) -> tuple[World, dict[str, np.ndarray]]:
    """States, actions, rewards and next states of a random policy, each flat."""
    world = mdp.bind(load("digits"), SEEDS)
    image, seen = world.begin(uniform(0)[..., :NUM_DRAWS]), []
    for step in range(1, STEPS + 1):
        numbers = uniform(step)
        action = (numbers[..., -1] * world.num_states).long()
        reward, following = world.step(image, action, numbers[..., :NUM_DRAWS])
        seen.append((world.state(image), action, reward, world.state(following), image))
        image = following
    names = ("state", "action", "reward", "following", "image")
    return world, {
        name: torch.stack(each).numpy().ravel() for name, each in zip(names, zip(*seen, strict=True), strict=True)
    }


@every_mdp
def test_under_a_random_policy_states_and_rewards_are_as_often_as_the_paper_says(mdp: ClassificationMDP) -> None:
    _, seen = walk(mdp)
    n = len(seen["state"])
    assert chisquare(np.bincount(seen["state"], minlength=10)).pvalue > 0.01
    chance = 0.01 if isinstance(mdp, SparseReward) else 0.1
    paid = int(seen["reward"].sum())
    assert chisquare([paid, n - paid], [chance * n, (1 - chance) * n]).pvalue > 0.01


@every_mdp
def test_rewards_are_exact(mdp: ClassificationMDP) -> None:
    _, seen = walk(mdp)
    hit = seen["action"] == seen["state"]
    np.testing.assert_array_equal(seen["reward"], hit & (seen["state"] == 9) if isinstance(mdp, SparseReward) else hit)


@every_mdp
def test_the_next_state_is_random_unless_the_action_leads_on(mdp: ClassificationMDP) -> None:
    _, seen = walk(mdp)
    hit = seen["action"] == seen["state"]
    if isinstance(mdp, SparseReward):
        np.testing.assert_array_equal(seen["following"][hit], (seen["state"][hit] + 1) % 10)  # 9 wraps to 0
        seen = {name: values[~hit] for name, values in seen.items()}
    pairs = np.zeros((10, 10))
    np.add.at(pairs, (seen["state"], seen["following"]), 1)
    assert independent(pairs) > 0.01
    assert chisquare(pairs.sum(0)).pvalue > 0.01


@every_mdp
def test_images_of_a_state_are_equally_often_shown(mdp: ClassificationMDP) -> None:
    world, seen = walk(mdp)
    images = seen["image"].reshape(STEPS, len(SEEDS), ENVS)[:, 0].ravel()
    for state in range(10):
        shown = np.flatnonzero(world.states[0].numpy() == state)
        counts = np.bincount(images, minlength=400)[shown]
        assert counts.sum() > 500
        assert chisquare(counts).pvalue > 0.001


def test_images_look_the_same_where_they_are_not_kept(monkeypatch) -> None:
    data, image = load("digits"), torch.tensor([[0, 99], [3, 3]])
    world = SparseReward(100).bind(data, SEEDS)
    kept = {dtype: world.observe(image, dtype) for dtype in (torch.float32, torch.float64, torch.float32)}
    monkeypatch.setattr("pliant.rl.mdp.AT_HAND", 0)
    for dtype, seen in kept.items():
        assert seen.dtype == dtype
        assert torch.equal(seen, world.observe(image, dtype))
        assert torch.equal(seen, data.standardize(world.raw(image), dtype))


def test_states_are_classes_or_labels_drawn_once() -> None:
    data = load("digits")
    rows = draw(5, "examples").permutation(len(data.x_train))[:400]
    true, random = (kind(400).bind(data, SEEDS) for kind in (TrueLabel, RandomLabel))
    np.testing.assert_array_equal(true.states[1], data.y_train[rows])
    assert independent(np.histogram2d(data.y_train[rows], random.states[1], 10)[0]) > 0.01
    assert torch.equal(random.states, RandomLabel(400).bind(data, SEEDS).states)
    assert not torch.equal(random.states[0], random.states[1])
    image = torch.tensor([[0, 399], [3, 3]])
    np.testing.assert_array_equal(true.raw(image)[1, 0], data.x_train[rows[3]])


def test_a_member_alone_steps_as_in_a_crowd() -> None:
    data, numbers = load("digits"), uniform(0)
    crowd, alone = SparseReward(200).bind(data, SEEDS), SparseReward(200).bind(data, SEEDS[1:])
    image = crowd.begin(numbers)
    assert torch.equal(image[1:], alone.begin(numbers[1:]))
    action = crowd.state(image)
    for a, b in zip(crowd.step(image, action, numbers), alone.step(image[1:], action[1:], numbers[1:]), strict=True):
        assert torch.equal(a[1:], b)


def test_images_are_one_table_of_bytes() -> None:
    world = TrueLabel(1000).bind(load("digits"), list(range(20)))
    assert world._table.dtype == torch.uint8
    assert len(world._table) <= len(load("digits").x_train)


def test_what_does_not_fit_is_said() -> None:
    data = load("digits")
    with pytest.raises(ValueError, match="expected num_images to be at most 1442"):
        TrueLabel(2000).bind(data, [0])
    with pytest.raises(ValueError, match=r"got none of state \d among the 9 of seed 0: write a larger num_images"):
        TrueLabel(9).bind(data, [0])
    with pytest.raises(ValueError, match="expected num_images of RandomLabel to be at least 1"):
        RandomLabel(0)
