"""Prioritised sampling of a replay's transitions, as dqn_zoo counts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pliant.rl.frames import FrameReplay

NUM_DRAWS = 3  # uniform numbers that a transition takes: where by priority, where uniformly, and which of the two


@dataclass(frozen=True)
class Prioritised:
    """How transitions are drawn by what was lost on them.

    Transition i is drawn with probability P_i = (1 - u) p_i^a / sum_j p_j^a + u / n, each of a batch by itself. New
    ones have the largest priority seen, which begins at 1 and never falls; those of a batch get min(loss, `most`), the
    loss before its weight. Losses are weighted by w_i = (1 / (n P_i))^b, over the largest of the batch; b rises from
    `begin` to `end` between so many transitions added.

    Args:
        exponent: a.
        uniform: u.
        begin: b at first.
        end: b in the end.
        between: transitions added when b begins to rise, and when it has.
        most: largest priority of a transition that was drawn.

    Raises:
        ValueError: a setting is out of its range.

    >>> [round(Prioritised(between=(100, 300)).correction(added), 2) for added in (0, 100, 200, 300, 400)]
    [0.4, 0.4, 0.7, 1.0, 1.0]

    Source: Schaul et al. 2016, the proportional form; numbers of dqn_zoo's Rainbow.
    """

    reference: ClassVar[str] = "schaul2016"

    exponent: float = 0.5
    uniform: float = 1e-3
    begin: float = 0.4
    end: float = 1.0
    between: tuple[int, int] = (20_000, 50_000_000)
    most: float = 100.0

    def __post_init__(self) -> None:
        for name in ("uniform", "begin", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} of Prioritised in [0, 1], got {getattr(self, name)}")
        if self.exponent < 0 or not self.most > 0:
            raise ValueError(f"expected exponent at least 0 and most above 0, got {self.exponent} and {self.most}")
        if not 0 <= self.between[0] < self.between[1]:
            raise ValueError(f"expected between to be two rising counts of transitions, got {self.between}")

    def correction(self, added: int) -> float:
        """b, once so many transitions were added."""
        first, last = self.between
        return self.begin + (self.end - self.begin) * min(max(added - first, 0) / (last - first), 1.0)


@dataclass
class Priorities:
    """The priorities of each member's transitions, p^a, as a tree of sums; on the host.

    Attributes:
        tree: sums, `(members, 2 * leaves)`: that of node i is of nodes 2 i and 2 i + 1, the root is node 1; transition
            n is leaf n % capacity.
        largest: priority seen.
        added, dropped: transitions that were taken note of.

    >>> replay = FrameReplay.empty(1, 4, (1,))
    >>> from pliant.rl import Frame
    >>> for number in range(4):
    ...     replay.add(0, Frame(np.zeros(1, np.uint8)), action=0, first=number == 0)
    >>> priorities, how = Priorities.none(members=1, capacity=4), Prioritised(exponent=1.0, uniform=0.0, begin=1.0)
    >>> priorities.follow(replay, how)
    >>> priorities.set(np.array([[0, 1, 2]]), np.array([[1.0, 2.0, 1.0]]), how)
    >>> item, weight = priorities.sample(replay, np.array([[[0.1, 0, 1], [0.3, 0, 1], [0.7, 0, 1], [0.8, 0, 1]]]), how)
    >>> item.tolist(), weight.round(3).tolist()
    ([[0, 1, 1, 2]], [[1.0, 0.5, 0.5, 1.0]])
    """

    tree: Tensor
    largest: list[float]
    added: list[int]
    dropped: list[int]
    capacity: int

    @classmethod
    def none(cls, members: int, capacity: int) -> Priorities:
        """Before the first transition."""
        leaves = 1 << (capacity - 1).bit_length()
        tree = torch.zeros(members, 2 * leaves, dtype=torch.float64)
        return cls(tree, [1.0] * members, [0] * members, [0] * members, capacity)

    def follow(self, replay: FrameReplay, how: Prioritised) -> None:
        """Takes note of the transitions that a replay added and dropped since."""
        for m in range(len(self.added)):
            new = np.arange(max(self.added[m], replay.items[m] - self.capacity), replay.items[m])
            gone = np.arange(max(self.dropped[m], replay.items[m] - self.capacity), replay.dropped[m])
            self._put(np.full(len(gone), m), gone, np.zeros(len(gone)))
            self._put(np.full(len(new), m), new, np.full(len(new), self.largest[m] ** how.exponent))
            self.added[m], self.dropped[m] = replay.items[m], replay.dropped[m]

    def sample(self, replay: FrameReplay, draws: np.ndarray, how: Prioritised) -> tuple[np.ndarray, np.ndarray]:
        """Transitions of each member with replacement, and the weights of their losses, `(members, n)` each.

        `draws` are uniform numbers in [0, 1), `(members, n, 3)`.
        """
        self.follow(replay, how)
        tree, size = self.tree.numpy(), replay.size[:, None]
        members = np.arange(len(draws))[:, None]
        root = tree[:, 1:2]
        place = self._find(draws[..., 0] * root)
        oldest = np.array(replay.dropped)[:, None]
        item = oldest + (place - oldest) % self.capacity
        uniform = oldest + (draws[..., 1] * size).astype(np.int64)
        item = np.where((draws[..., 2] < how.uniform) | (root == 0) | (item >= oldest + size), uniform, item)
        leaf = tree[members, self._leaf(item)]
        share = np.where(root == 0, 1 / size, leaf / np.where(root == 0, 1.0, root))
        probability = (1 - how.uniform) * share + how.uniform / size
        correction = np.array([[how.correction(added)] for added in self.added])
        weight = (1 / (size * probability)) ** correction
        return item, weight / weight.max(1, keepdims=True)

    def set(self, item: np.ndarray, losses: np.ndarray, how: Prioritised) -> None:
        """The priorities of transitions that were drawn, `(members, n)`, from what was lost on each."""
        priority = np.minimum(losses, how.most)
        priority = np.where(np.isfinite(priority), priority, 0.0)  # of a member that diverged
        self.largest[:] = [max(now, float(new)) for now, new in zip(self.largest, priority.max(1), strict=True)]
        members = np.broadcast_to(np.arange(len(item))[:, None], item.shape)
        self._put(members.ravel(), item.ravel(), np.where(priority == 0, 0.0, priority**how.exponent).ravel())

    def _leaf(self, item: np.ndarray) -> np.ndarray:
        return self.tree.shape[1] // 2 + item % self.capacity

    def _put(self, members: np.ndarray, item: np.ndarray, value: np.ndarray) -> None:
        """Sets leaves, and the sums above them; of several values for one, the last counts."""
        if not len(item):
            return
        tree, node = self.tree.numpy(), self._leaf(item)
        tree[members, node] = value
        while node[0] > 1:
            node = node // 2
            tree[members, node] = tree[members, 2 * node] + tree[members, 2 * node + 1]

    def _find(self, target: np.ndarray) -> np.ndarray:
        """The leaves at which the running sums of each member first exceed these."""
        tree, members = self.tree.numpy(), np.arange(len(target))[:, None]
        node, leaves = np.ones(target.shape, np.int64), tree.shape[1] // 2
        while node[0, 0] < leaves:
            left = tree[members, 2 * node]
            right = (target >= left) & (tree[members, 2 * node + 1] > 0)  # rounding leads to no empty leaf
            target, node = np.where(right, target - left, target), 2 * node + right
        return node - leaves
