"""Targets of Q-learning, against cases computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pliant.heads import C51, HLGauss, Quantile, Scalar, TwoHot
from pliant.rl import picked, td_target

GAMMA = 0.5
REWARD = torch.tensor([1.0, 0.0])


def logits(*rows: list) -> torch.Tensor:
    """Log-probabilities, `(batch, actions, bins)`."""
    return torch.tensor(rows).log()


def test_dqn_takes_the_target_networks_best_action_and_double_dqn_the_learners() -> None:
    following = torch.tensor([[[2.0], [5.0]], [[3.0], [-1.0]]])
    chooser = torch.tensor([[[9.0], [0.0]], [[0.0], [1.0]]])
    assert td_target(Scalar(), REWARD, GAMMA, following).tolist() == [[3.5], [1.5]]
    assert td_target(Scalar(), REWARD, GAMMA, following, chooser).tolist() == [[2.0], [-0.5]]


def test_two_hot_bootstraps_the_value_and_splits_it_over_two_bins() -> None:
    head = TwoHot(0.0, 4.0, 5)
    next_outputs = logits([[1.0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0]], [[0, 1.0, 0, 0, 0], [1.0, 0, 0, 0, 0]])
    found = td_target(head, REWARD, GAMMA, next_outputs)  # 1 + 3 / 2, and 1 / 2
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0, 0]]))


def test_c51_moves_the_distribution_and_projects_it_back() -> None:
    head = C51(0.0, 4.0, 5)
    # action 1 is best: half on 2, half on 4; 1 + 2 / 2 = 2 and 1 + 4 / 2 = 3
    found = td_target(head, REWARD[:1], GAMMA, logits([[1.0, 0, 0, 0, 0], [0, 0, 0.5, 0, 0.5]]))
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0.5, 0.5, 0]]))
    # reward 0: half on 1, half on 2; 0.5 splits over 0 and 1, 1 stays
    found = td_target(head, REWARD[1:], GAMMA, logits([[0, 0.5, 0.5, 0, 0], [1.0, 0, 0, 0, 0]]))
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75, 0, 0, 0]]))


def test_quantiles_are_moved_one_by_one() -> None:
    head = Quantile(num_quantiles=2, kappa=1.0)
    outputs = torch.tensor([[[0.0, 4.0], [1.0, 1.0]]])
    found = td_target(head, REWARD[:1], GAMMA, outputs)
    assert found.tolist() == [[1.0, 3.0]]
    output = torch.tensor([[0.0, 0.0]])  # errors 1 and 3: Huber 1/2 and 5/2, levels 1/4 and 3/4
    assert head.loss(output, found) == pytest.approx((0.25 + 0.75) / 2 * (0.5 + 2.5) / 2)


def test_hl_gauss_targets_sum_to_one_and_have_the_value_as_their_mean() -> None:
    head = HLGauss(-2.0, 12.0, 28)
    next_outputs = head.encode(torch.tensor([[3.0, 8.0], [1.0, 0.0]])).clamp(min=1e-12).log()
    found = td_target(head, REWARD, GAMMA, next_outputs)
    torch.testing.assert_close(found.sum(-1), torch.ones(2))
    torch.testing.assert_close(head.decode(found), torch.tensor([5.0, 0.5]), atol=1e-3, rtol=0)


def test_two_hot_round_trips_values() -> None:
    head = TwoHot(-5.0, 105.0, 221)
    values = torch.linspace(-5.0, 105.0, 997, dtype=torch.float64)
    torch.testing.assert_close(head.decode(head.encode(values)), values)


def test_the_loss_is_that_of_the_action_taken_alone() -> None:
    head = TwoHot(0.0, 2.0, 3)
    outputs = torch.zeros(4, 2 * 3, requires_grad=True)
    action = torch.tensor([0, 1, 1, 0])
    loss = head.loss(picked(head.split(outputs), action), head.encode(torch.tensor([0.0, 1.0, 2.0, 0.5])))
    assert loss.item() == pytest.approx(math.log(3))
    loss.backward()
    assert outputs.grad is not None
    untouched = head.split(outputs.grad)[torch.arange(4), 1 - action]
    assert (untouched == 0).all()
    assert (head.split(outputs.grad)[torch.arange(4), action] != 0).any(-1).all()


def test_targets_carry_no_gradient() -> None:
    outputs = torch.ones(1, 2, 1, requires_grad=True)
    assert not td_target(Scalar(), REWARD[:1], GAMMA, outputs).requires_grad
