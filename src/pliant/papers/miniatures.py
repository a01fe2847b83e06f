"""Double DQN in MinAtar's games, with a network of one convolution, for the experiments that are played there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pliant.nets import CNN
from pliant.optim import Adam
from pliant.papers.games import Replayed, period
from pliant.rl import Catch, Environment, MinAtar
from pliant.rl.envs.minatar import GAMES
from pliant.trials import QLearning, When
from pliant.words import unknown


@dataclass(frozen=True)
class Miniature(Replayed):
    """Settings of agents in MinAtar's games.

    Args:
        decay: frames over which random actions fall to `epsilon`.
        epsilon: their share in the end.
        target_period: frames between updates of the target network.
        channels: of the convolution, 3 x 3.
        hidden: units of the linear layer.
    """

    num_steps: int = 200_000
    begin: int = 5000
    decay: int = 20_000
    epsilon: float = 0.1
    target_period: int = 1000
    channels: int = 16
    hidden: int = 128
    lr: float = 2.5e-4
    batch_size: int = 32
    capacity: int = 100_000

    @property
    def looks(self) -> When:
        """When numbers are taken."""
        return When(every=period(self.num_steps - self.begin, self.rows), ends=False)

    def agent(self, game: str) -> QLearning:
        """Double DQN in a game, by its name; `ValueError` for an unknown one."""
        return QLearning(
            environment(game),
            partial(CNN, channels=(self.channels,), hidden=(self.hidden,), kernels=(3,), strides=(1,)),
            Adam(self.lr, eps=0.01 / 32),
            self.num_steps,
            begin=self.begin,
            epsilon=self.epsilon,
            decay=self.decay,
            batch_size=self.batch_size,
            target_period=self.target_period,
            capacity=self.capacity,
        )


def environment(game: str) -> Environment:
    """A game by its name, or catch, which needs no package; `ValueError` for an unknown one.

    >>> environment("asterix").limit
    10000
    """
    if game == "catch":
        return Catch()
    if game not in GAMES:
        raise ValueError(unknown("game", game, (*GAMES, "catch")))
    return MinAtar(game)
