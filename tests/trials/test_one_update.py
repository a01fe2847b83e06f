"""One step of an agent, in float64: the loss written out transition by transition, and a step down its gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from pliant.heads import C51, Head, Quantile, Scalar
from pliant.nets import MLP
from pliant.optim import SGD
from pliant.rl import SparseReward
from pliant.trials import ValueLearning
from pliant.trials.draws import Draws

GAMMA, LR, BATCH, STEP = 0.9, 0.05, 8, 3  # STEP: of the update


def scalar(q: Tensor, reward: float, target: Tensor, chooser: Tensor) -> Tensor:
    """Double DQN: (q - y)^2, y the target network's value of the learner's best action."""
    best = int(chooser[:, 0].argmax())
    return (q[0] - (reward + GAMMA * target[best, 0])) ** 2


def c51(q: Tensor, reward: float, target: Tensor, chooser: Tensor) -> Tensor:
    """Bellemare et al. 2017, algorithm 1: atoms moved one by one, each split over its two neighbours."""
    low, high, n = -1.0, 11.0, 7
    width = (high - low) / (n - 1)
    atoms = [low + i * width for i in range(n)]
    chances = target.softmax(-1)
    best = max(range(10), key=lambda a: sum(float(p) * z for p, z in zip(chances[a], atoms, strict=True)))
    mass = [0.0] * n
    for p, z in zip(chances[best].tolist(), atoms, strict=True):
        at = (min(max(reward + GAMMA * z, low), high) - low) / width
        below = min(int(at), n - 2)
        mass[below] += p * (below + 1 - at)
        mass[below + 1] += p * (at - below)
    assert sum(mass) == pytest.approx(1)
    return -sum(m * term for m, term in zip(mass, q.log_softmax(-1), strict=True))  # type: ignore[return-value]


def quantile(q: Tensor, reward: float, target: Tensor, chooser: Tensor) -> Tensor:
    """Dabney et al. 2018, eq. 10 with kappa 1: every quantile against every moved one."""
    best, n, total = int(target.mean(-1).argmax()), len(q), torch.zeros((), dtype=torch.float64)
    for i in range(n):
        for y in (reward + GAMMA * target[best]).tolist():
            d = y - q[i]
            huber = d**2 / 2 if d.detach().abs() <= 1 else d.abs() - 0.5
            total = total + abs((2 * i + 1) / (2 * n) - float(d < 0)) * huber
    return total / n**2


Loss = Callable[[Tensor, float, Tensor, Tensor], Tensor]


@pytest.mark.parametrize(
    ("head", "double", "loss"),
    [(Scalar(), True, scalar), (C51(-1.0, 11.0, 7), False, c51), (Quantile(5), False, quantile)],
    ids=["double DQN", "C51", "quantiles"],
)
def test_one_update_is_that_of_the_paper(head: Head, double: bool, loss: Loss) -> None:
    net = partial(MLP, hidden=(6,))
    trial = ValueLearning(
        SparseReward(200), "digits", net, SGD(LR), num_steps=20, head=head, gamma=GAMMA, double=double,
        batch_size=BATCH, target_period=100, fill=50,
    )  # fmt: skip
    run = trial.start([3], dtype=torch.float64)
    state, rows = run.state, run.rows
    other = run.populations[0].network.fresh(9)  # targets of another network, so that who picks the action shows
    for name, p in state.target.items():
        p.copy_(other[name])
    while state.step < STEP:
        next(rows)
    before, target = ({n: p[0].clone() for n, p in params.items()} for params in (state.learner.params, state.target))
    next(rows)
    batch = state.replay.sample(Draws([3], "batch", (BATCH,)).at(STEP))
    world, module = trial.mdp.bind(trial.inputs(), [3]), net((1, 8, 8), 10 * head.num_outputs)
    x, following = (world.observe(images, torch.float64)[0] for images in (batch.image, batch.following))
    leaves = {name: p.requires_grad_() for name, p in before.items()}

    def outputs(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(module, params, (inputs,)).reshape(BATCH, 10, head.num_outputs)

    chooser = outputs(leaves, following).detach()
    q, theirs = outputs(leaves, x), outputs(target, following)
    assert (head.value(theirs).argmax(-1) != head.value(chooser).argmax(-1)).any()
    losses = [
        loss(q[i, int(batch.action[0, i])], float(batch.reward[0, i]), theirs[i].detach(), chooser[i])
        for i in range(BATCH)
    ]
    grads = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()))
    for (name, p), grad in zip(leaves.items(), grads, strict=True):
        assert grad.abs().max() > 0
        torch.testing.assert_close(state.learner.params[name][0], p.detach() - LR * grad, atol=1e-12, rtol=1e-10)
