"""Inputs and labels change together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.data import Dataset
from pliant.tasks.base import Examples, draw
from pliant.tasks.random_labels import RandomLabels


@dataclass(frozen=True)
class Composite(RandomLabels):
    """At every switch, a permutation of the input positions and a `fraction` of the random labels are drawn again.

    >>> from pliant.data import load
    >>> task = Composite(num_examples=4, batch_size=2, every=10, num_tasks=3)
    >>> found = task.examples(load("digits"), seed=0, task=1)
    >>> found.targets, found.positions[:4]
    (array([7, 9, 2, 4]), array([19, 11,  1, 51]))

    Source: P2 section 4.2, a random transformation of the inputs and the labels; that it is a permutation is ours.
    """

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        relabelled = super().examples(data, seed, task, previous)
        return relabelled._replace(positions=draw(seed, "pixels", task).permutation(int(np.prod(data.shape))))
