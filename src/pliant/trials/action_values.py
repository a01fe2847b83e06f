"""Measures of agents that give a value to every action."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pliant.heads import Head, Scalar
from pliant.network import Params
from pliant.population import Population, PopulationState
from pliant.rl import picked
from pliant.trials.base import Row
from pliant.trials.measures import When


@dataclass(frozen=True)
class Policy:
    """What an agent knows: `accuracy`, the share of states in which its greedy action is the state; `value`, the mean
    value of that action; `td_error`, the mean squared error of the values of the actions taken, whatever the head.

    >>> Policy().examples
    512
    """

    when: When = field(default_factory=When)
    examples: int = 512
    head: Head = field(default_factory=Scalar)
    refits = 0

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        outputs = self.head.split(population.outputs(state.params, x))
        best, greedy = self.head.value(outputs).max(-1)
        accuracy = (greedy == y["state"]).to(best.dtype).mean(1)
        return {"accuracy": accuracy, "value": best.mean(1), "td_error": td_error(self.head, outputs, y)}


@dataclass(frozen=True)
class ActionValues:
    """The values that an agent gives: `value`, the mean of the largest over actions; `td_error`, the mean squared error
    of the values of the actions taken, whatever the head.

    >>> ActionValues().examples
    512
    """

    when: When = field(default_factory=When)
    examples: int = 512
    head: Head = field(default_factory=Scalar)
    refits = 0

    def __call__(self, population: Population, state: PopulationState, x: Any, y: Any, update: Params) -> Row:
        outputs = self.head.split(population.outputs(state.params, x))
        return {"value": self.head.value(outputs).amax(-1).mean(1), "td_error": td_error(self.head, outputs, y)}


def td_error(head: Head, outputs: Tensor, y: dict[str, Tensor]) -> Tensor:
    """The mean squared error of the values of the actions taken, one a member; outputs are split by the head.

    >>> import torch
    >>> outputs = torch.tensor([[[[1.0], [3.0]], [[2.0], [0.0]]]])
    >>> target = Scalar().encode(torch.tensor([[0.0, 2.0]]))
    >>> td_error(Scalar(), outputs, {"action": torch.tensor([[1, 0]]), "target": target})
    tensor([4.5000])
    """
    return (head.value(picked(outputs, y["action"])) - head.decode(y["target"])).square().mean(1)
