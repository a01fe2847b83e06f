"""The classification MDPs: images as observations of a few states, as many actions as states, no end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pliant.data import Dataset
from pliant.data.dataset import AT_HAND
from pliant.functional.draws import draw

NUM_DRAWS = 2  # uniform numbers that a transition takes: the state, and the image that shows it


@dataclass(frozen=True)
class ClassificationMDP(ABC):
    """States 0, ..., n - 1 and as many actions; a state is seen as a random one of the images that show it.

    n is the number of classes of the data set. There is no end: an agent goes on for ever, its values are discounted.

    Args:
        num_images: how many images of the training set each seed keeps; all that its agent ever sees.

    >>> [mdp.moved for mdp in (TrueLabel(100), RandomLabel(100), SparseReward(100))]
    [False, False, True]

    Source: P1 section 3.2. Deviation: a seed keeps some of the images; the paper has all of the training set.
    """

    reference: ClassVar[str] = "lyle2023"
    moved: ClassVar[bool] = False
    """Whether actions change which states follow."""

    num_images: int

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"expected num_images of {type(self).__name__} to be at least 1, got {self.num_images}")

    def shown(self, labels: np.ndarray, num_states: int, seed: int) -> np.ndarray:
        """The state that each of a seed's images shows, given their classes."""
        return labels

    @abstractmethod
    def reward(self, state: Tensor, action: Tensor, num_states: int) -> Tensor:
        """The reward of an action in a state, as a float32."""

    def following(self, state: Tensor, action: Tensor, drawn: Tensor, num_states: int) -> Tensor:
        """The next state, `drawn` being a uniformly random one."""
        return drawn

    def bind(self, data: Dataset, seeds: Sequence[int], device: torch.device | str = "cpu") -> World:
        """The MDP over the images of a data set, for a population with these seeds.

        Raises `ValueError` for data without classes, for more images than there are, and where a state of some seed is
        shown by no image.
        """
        return World(self, data, list(seeds), torch.device(device))


@dataclass(frozen=True)
class TrueLabel(ClassificationMDP):
    """The image's class is the state; reward 1[a = s]; the next state is uniformly random ("easy" in P1's figures).

    With discount g and the best policy, Q*(s, a) = 1[a = s] + g / (1 - g). As a bandit of images it is P2's task, for
    an agent that acts at random.

    >>> TrueLabel(100).reward(torch.tensor([3, 3]), torch.tensor([3, 4]), 10)
    tensor([1., 0.])
    """

    def reward(self, state: Tensor, action: Tensor, num_states: int) -> Tensor:
        return (action == state).float()


@dataclass(frozen=True)
class RandomLabel(TrueLabel):
    """As `TrueLabel`, but every image has a random state, drawn once ("hard"): the agent has to remember images.

    >>> RandomLabel(4).shown(np.array([0, 1, 2, 3]), num_states=10, seed=0).shape
    (4,)
    """

    def shown(self, labels: np.ndarray, num_states: int, seed: int) -> np.ndarray:
        return draw(seed, "states").integers(0, num_states, len(labels))


@dataclass(frozen=True)
class SparseReward(ClassificationMDP):
    """Reward 1 in the last state alone, for its own action; a = s leads on to s + 1, all else to a random state.

    Deviation: the paper does not say what follows the last state when a = s; here it is state 0.

    >>> state, drawn = torch.tensor([3, 3, 9]), torch.tensor([7, 7, 7])
    >>> SparseReward(100).following(state, torch.tensor([3, 4, 9]), drawn, 10)
    tensor([4, 7, 0])
    >>> SparseReward(100).reward(state, state, 10)
    tensor([0., 0., 1.])
    """

    moved: ClassVar[bool] = True

    def reward(self, state: Tensor, action: Tensor, num_states: int) -> Tensor:
        return ((action == state) & (state == num_states - 1)).float()

    def following(self, state: Tensor, action: Tensor, drawn: Tensor, num_states: int) -> Tensor:
        return torch.where(action == state, (state + 1) % num_states, drawn)


class World:
    """An MDP bound to images and seeds. Members share one table of images; an observation is an index, a member's own.

    All randomness is handed over, as uniform numbers in [0, 1): the world has no state of its own.

    Attributes:
        num_states: of states, and of actions.
        states: the state that each image of a member shows, `(members, num_images)`.

    >>> from pliant.data import load
    >>> world = TrueLabel(100).bind(load("digits"), seeds=[0, 1])
    >>> draws = torch.rand(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> image = world.begin(draws)
    >>> reward, following = world.step(image, world.state(image), draws)
    >>> reward.sum(), following.shape, world.observe(image).shape
    (tensor(10.), torch.Size([2, 5]), torch.Size([2, 5, 1, 8, 8]))
    """

    def __init__(self, mdp: ClassificationMDP, data: Dataset, seeds: list[int], device: torch.device):
        if data.num_classes is None:
            raise ValueError(
                f"expected data with classes for {type(mdp).__name__}, got numbers as targets ({data.name})"
            )
        if mdp.num_images > len(data.x_train):
            raise ValueError(
                f"expected num_images to be at most {len(data.x_train)}, the size of {data.name}, "
                f"got {mdp.num_images}: write num_images={len(data.x_train)}"
            )
        self.mdp, self.data, self.device, self.num_states = mdp, data, device, data.num_classes
        rows = np.stack([draw(seed, "examples").permutation(len(data.x_train))[: mdp.num_images] for seed in seeds])
        shown = [mdp.shown(np.asarray(data.y_train[r]), self.num_states, s) for r, s in zip(rows, seeds, strict=True)]
        counts = np.stack([np.bincount(states, minlength=self.num_states) for states in shown])
        if not counts.all():
            m, state = np.argwhere(counts == 0)[0]
            raise ValueError(
                f"expected images of each of the {self.num_states} states, got none of state {state} among the "
                f"{mdp.num_images} of seed {seeds[m]}: write a larger num_images"
            )
        kept, where = np.unique(rows, return_inverse=True)
        order = np.argsort(np.stack(shown), axis=1, kind="stable")

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self._table, self._where = tensor(data.x_train[kept]), tensor(where.reshape(rows.shape))
        self.states = tensor(np.stack(shown).astype(np.int64))
        self._order, self._count = tensor(order), tensor(counts)
        self._first = tensor(np.cumsum(counts, axis=1) - counts)
        self._ready: Tensor | None = None  # the table as it is observed, where it is small enough to be kept

    def begin(self, draws: Tensor) -> Tensor:
        """A random image of a random state for every `(members, envs)` of the draws, `(members, envs, 2)`."""
        return self._image((draws[..., 0] * self.num_states).long(), draws[..., 1])

    def step(self, image: Tensor, action: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and next image of actions, `(members, envs)` each, from draws `(members, envs, 2)`."""
        state, drawn = self.state(image), (draws[..., 0] * self.num_states).long()
        following = self.mdp.following(state, action, drawn, self.num_states)
        return self.mdp.reward(state, action, self.num_states), self._image(following, draws[..., 1])

    def state(self, image: Tensor) -> Tensor:
        """The states that images show, `(members, n)`."""
        return self.states.gather(1, image)

    def observe(self, image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Images as inputs of a network, `(members, n, *shape)`, scaled as the data set is."""
        if self._table.numel() * dtype.itemsize > AT_HAND:
            return self.data.standardize(self.raw(image), dtype)
        if self._ready is None or self._ready.dtype != dtype:
            self._ready = self.data.standardize(self._table, dtype)
        return self._shown(self._ready, image)

    def raw(self, image: Tensor) -> Tensor:
        """Images as the data set stores them, `(members, n, *shape)`."""
        return self._shown(self._table, image)

    def _shown(self, table: Tensor, image: Tensor) -> Tensor:
        """Rows of a table of all members' images, `(members, n, *shape)`."""
        return table.index_select(0, self._where.gather(1, image).flatten()).unflatten(0, image.shape)

    def _image(self, state: Tensor, uniform: Tensor) -> Tensor:
        """An image of each state: the one at this part, in [0, 1), of the row of all that show it."""
        place = (uniform * self._count.gather(1, state)).long()
        return self._order.gather(1, self._first.gather(1, state) + place)
