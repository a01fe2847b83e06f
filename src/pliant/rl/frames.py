"""Replay of observations that are kept once: stacks, n-step returns and next states are rebuilt by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pliant.rl.envs import Frame


class Experience(NamedTuple):
    """Transitions of every member, `(members, n)` each.

    Attributes:
        x: observations, as they are kept, `(members, n, *shape)` with the channels of a stack side by side.
        action: taken there; `(members, n, controls)` where it is an array.
        reward: over n steps, in float64.
        discount: of what follows: gamma to the number of steps, 0 where a life or the game was lost on the way.
        following: observations after these steps; where the discount is 0 whatever lies there.
        item: which transition it is, counted from the first one added.

    >>> Experience._fields
    ('x', 'action', 'reward', 'discount', 'following', 'item')
    """

    x: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    following: Tensor
    item: np.ndarray


@dataclass
class FrameReplay:
    """The latest `capacity` transitions of every member; each observation is kept once.

    A transition leads from an observation over `steps` actions, or fewer where the episode ends before: at its last
    frame the n-, ..., 2- and 1-step ones are all added. Rewards are summed with the product of the discounts on the
    way. A state is the latest `stack` observations of the episode, the oldest first; at its start zeros stand *behind*
    them (A000, AB00, ...). The last observation of an episode that was lost is not kept, as nothing depends on it;
    that of an episode which was cut is, and the few more observations that this takes find room, else the oldest
    transitions are dropped early.

    All but the observations lies on the host, where transitions are drawn.

    Attributes:
        frame: observations, `(members, room, *shape)`, on the device.
        action, reward, alive, ended: of the step from each of them, `(members, room)`: `alive` is 0 where a life or the
            game was lost, `ended` where the episode ended.
        first: whether an episode begins with it.
        start: where each transition begins, `(members, capacity)`.
        entries, items, dropped, waiting: how many observations and transitions were added, how many of the latter were
            dropped, and of how many the steps are not complete; one number a member.

    >>> replay = FrameReplay.empty(members=1, capacity=4, shape=(1,), stack=2)
    >>> for number in range(4):
    ...     frame = Frame(np.array([7 + number], np.uint8), reward=1.0)
    ...     replay.add(0, frame, action=number, first=number == 0)
    >>> found = replay.take(np.array([[0, 2]]), gamma=0.9)
    >>> found.x.tolist(), found.following.tolist(), found.action.tolist()
    ([[[7, 0], [8, 9]]], [[[7, 8], [9, 10]]], [[1, 3]])
    """

    RINGS: ClassVar = ("frame",)  # in which entry n of a member is at n % room: for checkpoints

    frame: Tensor
    action: Tensor
    reward: Tensor
    alive: Tensor
    ended: Tensor
    first: Tensor
    start: Tensor
    entries: list[int]
    items: list[int]
    dropped: list[int]
    waiting: list[int]
    stack: int = 1
    steps: int = 1

    @classmethod
    def empty(
        cls,
        members: int,
        capacity: int,
        shape: tuple[int, ...],
        stack: int = 1,
        steps: int = 1,
        dtype: torch.dtype = torch.uint8,
        device: torch.device | str = "cpu",
        controls: int = 0,
    ) -> FrameReplay:
        """Room for `capacity` transitions of each member; `controls` numbers are an action, or it is one of several."""
        room = capacity + capacity // 64 + stack + steps + 16

        def made(kind: torch.dtype, *size: int) -> Tensor:
            return torch.zeros(members, *size, dtype=kind)

        return cls(
            torch.zeros(members, room, *shape, dtype=dtype, device=device),
            room_for_actions(members, room, controls), made(torch.float32, room), made(torch.bool, room),
            made(torch.bool, room), made(torch.bool, room), made(torch.int64, capacity),
            [0] * members, [0] * members, [0] * members, [0] * members, stack, steps,
        )  # fmt: skip

    @property
    def capacity(self) -> int:
        """How many transitions of a member there is room for."""
        return self.start.shape[1]

    @property
    def size(self) -> np.ndarray:
        """How many transitions of each member are there."""
        return np.array(self.items) - np.array(self.dropped)

    def add(self, m: int, frame: Frame, action: Any, first: bool) -> None:
        """Adds what a member observed, and the transitions that this completes.

        Args:
            m: the member.
            frame: one with an observation; its reward is kept as it is.
            action: the one that led there.
            first: whether an episode begins with it, and no action led there.
        """
        assert frame.observation is not None
        entry, room = self.entries[m], self.frame.shape[1]
        if first:
            self.waiting[m] = 0
        else:
            before = (entry - 1) % room
            self.action.numpy()[m, before], self.reward.numpy()[m, before] = action, frame.reward
            self.alive.numpy()[m, before], self.ended.numpy()[m, before] = bool(frame.discount), frame.last
            self._complete(m, entry, frame.last)
            if frame.last and not frame.discount:
                return
        self.frame[m, entry % room] = torch.from_numpy(np.ascontiguousarray(frame.observation))
        self.first.numpy()[m, entry % room] = first
        self.entries[m] += 1
        while self.dropped[m] < self.items[m] and self._oldest(m) <= entry - room:
            self.dropped[m] += 1

    def uniform(self, draws: np.ndarray) -> np.ndarray:
        """Transitions of each member with replacement, by uniform numbers in [0, 1), `(members, n)`."""
        return np.array(self.dropped)[:, None] + (draws * self.size[:, None]).astype(np.int64)

    def take(self, item: np.ndarray, gamma: float) -> Experience:
        """These transitions of each member, `(members, n)`, with rewards and values discounted by `gamma` a step."""
        members, room = np.arange(len(item))[:, None], self.frame.shape[1]
        start = self.start.numpy()[members, item % self.capacity]
        reward, discount = np.zeros(item.shape), np.ones(item.shape)
        going, length = np.ones(item.shape, bool), np.zeros(item.shape, np.int64)
        for step in range(self.steps):
            at = (start + step) % room
            reward += np.where(going, discount * self.reward.numpy()[members, at], 0.0)
            discount = np.where(going, discount * gamma * self.alive.numpy()[members, at], discount)
            length += going
            going &= ~self.ended.numpy()[members, at]
        action, reward, discount = (
            torch.from_numpy(v).to(self.frame.device)
            for v in (self.action.numpy()[members, start % room], reward, discount)
        )
        action = action if action.is_floating_point() else action.long()
        return Experience(self.states(start), action, reward, discount, self.states(start + length), item)

    def latest(self) -> Tensor:
        """Each member's state at its latest observation, `(members, *shape)`."""
        return self.states(np.array(self.entries)[:, None] - 1)[:, 0]

    def states(self, entry: np.ndarray) -> Tensor:
        """The states at these observations, counted from the first one added, `(members, n)`."""
        members, room = np.arange(len(entry))[:, None], self.frame.shape[1]
        before, going = np.zeros(entry.shape, np.int64), np.ones(entry.shape, bool)
        for back in range(self.stack - 1):
            going &= ~self.first.numpy()[members, (entry - back) % room]
            before += going
        offset = np.arange(self.stack)
        at = ((entry - before)[..., None] + offset) % room + room * members[..., None]
        place = torch.from_numpy(at.ravel()).to(self.frame.device)
        found = self.frame.flatten(0, 1).index_select(0, place).unflatten(0, at.shape)
        there = offset <= before[..., None]
        if not there.all():
            zero = torch.from_numpy(~there).to(self.frame.device)
            found.masked_fill_(zero.view(*there.shape, *[1] * (found.ndim - 3)), 0)
        return found.flatten(2, 3)

    def _complete(self, m: int, entry: int, last: bool) -> None:
        """Adds the transitions whose steps are complete once the one to the next observation is taken."""
        waiting = self.waiting[m] + 1
        for _ in range(waiting if last else max(0, waiting - self.steps + 1)):
            self.start.numpy()[m, self.items[m] % self.capacity] = entry - waiting
            self.items[m] += 1
            waiting -= 1
        self.waiting[m] = waiting
        self.dropped[m] = max(self.dropped[m], self.items[m] - self.capacity)

    def _oldest(self, m: int) -> int:
        """The oldest observation that the oldest transition may be made of."""
        return int(self.start.numpy()[m, self.dropped[m] % self.capacity]) - self.stack + 1


def room_for_actions(members: int, size: int, controls: int) -> Tensor:
    """Zeros for `size` actions of each member: numbers of actions, or arrays of `controls` numbers.

    >>> room_for_actions(2, 5, 0).dtype, room_for_actions(2, 5, 3).shape
    (torch.int16, torch.Size([2, 5, 3]))
    """
    if controls:
        return torch.zeros(members, size, controls, dtype=torch.float32)
    return torch.zeros(members, size, dtype=torch.int16)
