"""Permuted pixels: one permutation a task and seed, nothing lost, labels as they are."""

import numpy as np
import torch
from scipy import stats

from pliant.tasks import PermutedPixels, Task
from tests.tasks.examples import data

TASK = PermutedPixels(num_examples=20, batch_size=6, every=10, num_tasks=4)
PLAIN = Task(num_examples=20, batch_size=6, every=10, num_tasks=4)
SEEDS = [0, 1, 5]
DATA = data()


def positions_of(seed, task):
    return TASK.examples(DATA, seed, task).positions


def test_is_a_permutation_of_positions_shared_by_all_examples():
    plain, stream = PLAIN.bind(data(), SEEDS).examples(0), TASK.bind(data(), SEEDS)
    for task in range(4):
        permuted = stream.examples(task)
        for m, seed in enumerate(SEEDS):
            before, after = plain.x[m].flatten(1), permuted.x[m].flatten(1)
            assert torch.equal(before.sort(1).values, after.sort(1).values)
            positions = torch.from_numpy(positions_of(seed, task))
            inverse = torch.empty_like(positions)
            inverse[positions] = torch.arange(24)
            assert torch.equal(after[:, inverse], before)
            assert not torch.equal(after, before)  # the first task, too
        assert torch.equal(permuted.y, plain.y)


def test_every_task_and_seed_has_its_own():
    found = {tuple(positions_of(seed, task)) for seed in range(5) for task in range(5)}
    assert len(found) == 25
    assert np.array_equal(positions_of(3, 2), positions_of(3, 2))


def test_permutations_are_uniform():
    where = np.array([positions_of(0, task) for task in range(6000)])
    for position in range(24):
        assert stats.chisquare(np.bincount(where[:, position])).pvalue > 1e-4


def test_batches_are_permuted_like_the_examples():
    stream, plain = TASK.bind(data(), SEEDS), PLAIN.bind(data(), SEEDS)
    for step, (batch, original) in enumerate(zip(stream.batches(0, 40), plain.batches(0, 40), strict=True)):
        for m, seed in enumerate(SEEDS):
            positions = positions_of(seed, step // 10)
            assert torch.equal(batch.x[m].flatten(1), original.x[m].flatten(1)[:, positions])
        assert torch.equal(batch.y, original.y)
