"""Uniform replay of transitions whose observations are indices into a table of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Transitions(NamedTuple):
    """Image, action, reward and next image, `(members, n)` each.

    >>> Transitions(*torch.zeros(4, 2, 8)).reward.shape
    torch.Size([2, 8])
    """

    image: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor


@dataclass
class Replay:
    """The latest `capacity` transitions of every member, 14 bytes each; all members have equally many.

    Attributes:
        count: how many were added in all, by each member.

    >>> replay = Replay.empty(members=1, capacity=3)
    >>> for number in range(4):
    ...     replay.add(Transitions(*torch.full((4, 1, 1), number)))
    >>> replay.size, replay.sample(torch.tensor([[0.0, 0.4, 0.9]])).image
    (3, tensor([[3, 1, 2]]))
    """

    image: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor
    count: int = 0

    @classmethod
    def empty(cls, members: int, capacity: int, device: torch.device | str = "cpu") -> Replay:
        """Room for `capacity` transitions of each member."""

        def room(kind: torch.dtype) -> Tensor:
            return torch.zeros(members, capacity, dtype=kind, device=device)

        return cls(room(torch.int32), room(torch.int16), room(torch.float32), room(torch.int32))

    @property
    def capacity(self) -> int:
        """How many transitions of a member there is room for."""
        return self.image.shape[1]

    @property
    def size(self) -> int:
        """How many transitions of a member are there."""
        return min(self.count, self.capacity)

    def add(self, new: Transitions) -> None:
        """Adds transitions `(members, n)` of each member, in place of the oldest where there is no room."""
        at = (self.count + torch.arange(new.image.shape[1], device=self.image.device)) % self.capacity
        for buffer, values in zip(self._buffers, new, strict=True):
            buffer[:, at] = values.to(buffer.dtype)
        self.count += new.image.shape[1]

    def sample(self, draws: Tensor) -> Transitions:
        """Transitions of each member with replacement, by uniform numbers in [0, 1), `(members, n)`."""
        at = (draws * self.size).long()
        image, action, reward, following = (buffer.gather(1, at) for buffer in self._buffers)
        return Transitions(image.long(), action.long(), reward, following.long())

    @property
    def _buffers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.image, self.action, self.reward, self.following
