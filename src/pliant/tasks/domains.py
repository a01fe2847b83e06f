"""The same question in one place after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.data import Dataset
from pliant.tasks.base import Examples, Task, draw


@dataclass(frozen=True)
class Domains(Task):
    """Each task is a domain of the data set, such as the place of a camera, with its true labels: a natural shift.

    Each seed visits the domains in an order of its own, so that the place in the order says nothing about the domain;
    with more tasks than domains they are visited again. Of each it keeps `num_examples` examples.

    Args:
        num_held_out: examples of the test set a domain, which `trials.HeldOut` looks at.

    Raises:
        ValueError: the data set has no domains, or a domain has fewer examples than that.

    >>> from pliant.data import load
    >>> task = Domains(num_examples=40, batch_size=10, every=10, num_tasks=4, num_held_out=20)
    >>> cameras = load("cameras-digits")
    >>> [set(cameras.domain_train[task.examples(cameras, seed=0, task=t).rows].tolist()) for t in range(4)]
    [{1}, {2}, {0}, {3}]

    Source: P2's natural shift (iWildCam); Koh et al. 2021. P2 does not say in which order the places come.
    """

    num_held_out: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_held_out < 0:
            raise ValueError(f"expected num_held_out to be at least 0, got {self.num_held_out}")

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        if data.domain_train is None:
            raise ValueError(f"expected a data set with domains, such as cameras or iwildcam, got {data.name}")
        order = draw(seed, "domains").permutation(int(data.domain_train.max()) + 1)
        domain = int(order[task % len(order)])
        rows = self._of(data, data.domain_train, domain, seed, "examples", self.num_examples)
        if not self.num_held_out:
            return Examples(rows, np.asarray(data.y_train[rows]))
        if data.domain_test is None:
            raise ValueError(f"expected a data set with a test set of each domain, got {data.name}")
        held_out = self._of(data, data.domain_test, domain, seed, "held_out", self.num_held_out)
        return Examples(rows, np.asarray(data.y_train[rows]), held_out=held_out)

    def _of(self, data: Dataset, domains: np.ndarray, domain: int, seed: int, what: str, number: int) -> np.ndarray:
        """So many rows of a domain, drawn by the seed."""
        there = np.flatnonzero(domains == domain)
        if len(there) < number:
            least = np.bincount(domains, minlength=domain + 1).min()
            raise ValueError(
                f"expected num_{what} to be at most {least}, as many as each domain of {data.name} has, got {number}"
            )
        return draw(seed, what, domain).permutation(there)[:number]
