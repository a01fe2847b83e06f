"""Agents that learn values on the classification MDPs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pliant.data import Dataset, load
from pliant.functional.draws import draw
from pliant.heads import Head, Scalar
from pliant.heads.categorical import Categorical
from pliant.interventions import Chain
from pliant.interventions.base import write
from pliant.network import Params
from pliant.optim import Optimizer
from pliant.population import Population, PopulationState
from pliant.rl import ClassificationMDP, Replay, Transitions, World, largest_value, picked, td_target
from pliant.rl.mdp import NUM_DRAWS
from pliant.trials.base import Row, Run
from pliant.trials.building import Net, built, several
from pliant.trials.draws import Draws
from pliant.trials.measures import Measure, Moment, brief

TARGET_UPDATE = "target_update"  # the event when the target network becomes a copy of the one that learns
AT_ONCE = 1000  # images a forward pass


@dataclass
class ValueState:
    """All that changes: the networks that learn, their target networks, what was lived through, and what is seen now.

    `image` is what each environment shows, `(members, envs)`; `looked_at` the latest step at which measures looked, -1
    before the first.
    """

    learner: PopulationState
    target: Params
    replay: Replay
    image: Tensor
    looked_at: int = -1

    @property
    def step(self) -> int:
        """Optimizer steps."""
        return self.learner.step

    @property
    def diverged_at(self) -> list[int]:
        """The step at which each member lost its finite loss, -1 while it has."""
        return self.learner.diverged_at


@dataclass(frozen=True)
class ValueLearning:
    """DQN on a classification MDP: P1's agent, a population of all seeds.

    A step is an optimizer step. Every `act_every` steps each of `envs` environments takes one, epsilon-greedily; before
    the first, `fill` transitions come from random actions. The batch of a step is drawn uniformly from the replay, and
    the outputs for the actions taken are moved towards r + gamma * max_a Q'(s', a), Q' being the target network. Every
    `target_period` steps that becomes a copy of the one that learns, and the event "target_update" is fired: P1 resets
    the last layer, or shrinks and perturbs, at this moment.

    A row is made at step 0 and wherever a measure is due. It has `target_updates` and, after the first, `batch_loss` of
    the step; measures look at transitions of the replay, with `action`, `target` and `state` as targets.

    With epsilon 1 and `TrueLabel`, whose next state does not depend on actions, it is P2's contextual bandit.

    Args:
        mdp: the environment.
        data: a data set's name, or the path of an .npz file.
        net: a function of (input shape, number of outputs) that builds the network; it has as many outputs for each
            action as the head takes.
        optimizer: of the networks.
        num_steps: optimizer steps; `num_steps / target_period` target updates let values grow by at most 1 each.
        chain: the interventions.
        head: makes values of outputs. Of one over bins, the support has to hold values up to 1 / (1 - gamma) and the
            probe's targets, which lie 1 to either side of the mean prediction.
        begin: the value of an untrained network whose head is over bins, by a constant on its output layer's biases;
            None for the middle of the support. Other heads begin at 0.
        gamma: the discount, in [0, 1). P1 does not give it.
        epsilon: the share of random actions.
        double: whether the network that learns picks the next action, as in double DQN.
        batch_size: transitions an optimizer step.
        target_period: optimizer steps between updates of the target network.
        target_gets: the network `"before"` the interventions act, so that what was learned stays in the targets while
            the network begins anew; or `"after"`, so that the target network is shrunk and reset along. P1 does not
            say; its losses above the constant predictor's with shrink and perturb need targets that stay.
        capacity: transitions a seed that the replay holds.
        fill: of them, those that are there before the first step.
        envs: environments side by side, each with its own state.
        act_every: optimizer steps between actions; `envs / act_every` transitions an optimizer step.
        measures: what is measured, and when; all of it at step 0, too.
        standardize: inputs with mean 0 and variance 1 a channel; otherwise scaled to [0, 1].
        together: seeds that are trained as one population.

    Raises:
        ValueError: a setting is out of its range, or two do not fit together.

    >>> from functools import partial
    >>> from pliant.nets import MLP
    >>> from pliant.optim import Adam
    >>> from pliant.rl import TrueLabel
    >>> from pliant.trials import Policy, When
    >>> trial = ValueLearning(TrueLabel(100), "digits", partial(MLP, hidden=(8,)), Adam(1e-3), num_steps=20,
    ...                       batch_size=16, target_period=10, fill=50, measures=(Policy(When(every=10), 50),))
    >>> [row["target_updates"].tolist() for row in trial.start([0, 1]).rows if row]
    [[0, 0], [0, 0], [1, 1]]

    Source: P1 sections 3.2 and A.2, which do not give the optimizer, its rate, gamma, epsilon and the replay's size.
    """

    mdp: ClassificationMDP
    data: str
    net: Net
    optimizer: Optimizer
    num_steps: int
    chain: Chain = field(default_factory=Chain)
    head: Head = field(default_factory=Scalar)
    begin: float | None = None
    gamma: float = 0.99
    epsilon: float = 0.1
    double: bool = False
    batch_size: int = 512
    target_period: int = 1000
    target_gets: Literal["before", "after"] = "before"
    capacity: int = 100_000
    fill: int = 1000
    envs: int = 1
    act_every: int = 1
    measures: tuple[Measure, ...] = ()
    standardize: bool = True
    together: int = 5

    def __post_init__(self) -> None:
        several(self.chain, self.measures)
        for name in ("num_steps", "batch_size", "target_period", "fill", "envs", "act_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        largest_value(self.gamma)
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"expected epsilon in [0, 1], got {self.epsilon}")
        if self.target_gets not in ("before", "after"):
            raise ValueError(f"expected target_gets to be 'before' or 'after', got {self.target_gets!r}")
        if not isinstance(self.head, Head):
            raise ValueError(f"expected a head such as Scalar() or TwoHot(-5.0, 105.0, 111), got {self.head!r}")
        if self.capacity < max(self.batch_size, self.fill):
            raise ValueError(
                f"expected a capacity that holds a batch of {self.batch_size} and the first {self.fill} transitions, "
                f"got {self.capacity}"
            )
        if self.begin is not None and not isinstance(self.head, Categorical):
            raise ValueError(f"expected begin with a head over bins, got it with {self.head}: leave it out")
        looked_at = max((measure.examples for measure in self.measures), default=0)
        if looked_at > self.fill:
            raise ValueError(
                f"expected fill to be at least {looked_at}, as many transitions as a measure looks at from step 0 on, "
                f"got {self.fill}"
            )

    @property
    def refits(self) -> int:
        """Optimizer steps of the measures' refits."""
        return sum(measure.refits for measure in self.measures)

    def brief(self) -> ValueLearning:
        """Two steps, all measures at work, each refit a step."""
        return replace(self, num_steps=2, measures=tuple(map(brief, self.measures)))

    def start(self, seeds: Sequence[int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
        """The population before its first step, its replay filled by random actions; `ValueError` for what does not
        fit together."""
        self._warn_of_support()
        world = self.mdp.bind(self.inputs(), list(seeds), device)
        draws = Draws(seeds, "fill", (self.envs, NUM_DRAWS + 1), device)
        image, replay = world.begin(draws.at(0)[..., :NUM_DRAWS]), Replay.empty(len(seeds), self.capacity, device)
        for step in range(1, -(-self.fill // self.envs) + 1):
            action = (draws.at(step)[..., -1] * world.num_states).long()
            image = _step(world, replay, image, action, draws.at(step))
        example = world.observe(image[:1, :1].expand(1, 4), torch.float32)[0].cpu()
        population = built(
            self._net, world.num_states * self.head.num_outputs, example, self.chain, self.optimizer, self.loss, seeds,
            (TARGET_UPDATE,), self.num_steps, device, dtype,
        )  # fmt: skip
        learner = population.init()
        state = ValueState(learner, {name: p.clone() for name, p in learner.params.items()}, replay, image)
        first = replay.sample(Draws(seeds, "batch", (self.batch_size,), device).at(0))
        population.settle(learner, *self._batch(world, population, state, first, None))
        return Run(state, self._rows(world, population, state), (population,))

    def inputs(self) -> Dataset:
        """The data set, scaled as it is trained on; fetched if need be."""
        data = load(self.data)
        if self.standardize:
            return data
        return replace(data, mean=(0.0,) * len(data.mean), std=(1.0,) * len(data.std))

    def loss(self, output: Tensor, y: dict[str, Tensor]) -> Tensor:
        """The head's loss of the outputs for the actions taken."""
        return self.head.loss(picked(self.head.split(output), y["action"]), y["target"])

    def sampled(
        self, world: World, population: Population, state: ValueState, size: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As many transitions of each member's replay, for measures: inputs, and actions, targets and states."""
        numbers = [draw(member.seed, "look", state.step).random(size) for member in population.members]
        drawn = state.replay.sample(torch.stack([torch.from_numpy(n) for n in numbers]).to(population.device))
        x, y = self._batch(world, population, state, drawn, None)
        return x, {**y, "state": world.state(drawn.image)}

    def _rows(self, world: World, population: Population, state: ValueState) -> Iterator[Row]:
        seeds, device = [member.seed for member in population.members], population.device
        behaviour = Draws(seeds, "behaviour", (self.envs, NUM_DRAWS + 2), device)
        batches = Draws(seeds, "batch", (self.batch_size,), device)
        table = self._table(world, population, state)
        if state.looked_at < 0:
            state.looked_at = 0
            unchanged = {name: torch.zeros_like(p) for name, p in state.learner.params.items()}
            if row := self._look(self._due(0), world, population, state, unchanged):
                yield row
        while state.step < self.num_steps:
            step = state.step
            if step and step % self.target_period == 0:
                self._update_target(population, state)
                table = self._table(world, population, state)
            if step % self.act_every == 0:
                self._act(world, population, state, behaviour.at(step))
            batch = state.replay.sample(batches.at(step))
            x, y = self._batch(world, population, state, batch, table)
            due = self._due(step + 1)
            before = {name: p.clone() for name, p in state.learner.params.items()} if due else {}
            losses = population.step(state.learner, x, y)
            if not due:
                yield {}
                continue
            state.looked_at = state.step
            update = {name: state.learner.params[name] - old for name, old in before.items()}
            yield {"batch_loss": losses, **self._look(due, world, population, state, update)}

    def _act(self, world: World, population: Population, state: ValueState, draws: Tensor) -> None:
        """A step of every environment, epsilon-greedily."""
        action = (draws[..., -1] * world.num_states).long()
        if self.epsilon < 1:
            greedy = self.head.value(self._outputs(world, population, state.learner.params, state.image)).argmax(-1)
            action = torch.where(draws[..., -2] < self.epsilon, action, greedy)
        state.image.copy_(_step(world, state.replay, state.image, action, draws))

    def _batch(
        self, world: World, population: Population, state: ValueState, batch: Transitions, table: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Inputs and targets of transitions."""
        if table is None:
            following = self._outputs(world, population, state.target, batch.following)
        else:
            following = table[torch.arange(len(table), device=table.device)[:, None], batch.following]
        chooser = self._outputs(world, population, state.learner.params, batch.following) if self.double else None
        reward = batch.reward.to(following.dtype)
        target = td_target(self.head, reward, self.gamma, following, chooser)
        return world.observe(batch.image, population.dtype or torch.float32), {"action": batch.action, "target": target}

    def _update_target(self, population: Population, state: ValueState) -> None:
        """The target network becomes a copy of the one that learns, before or after the interventions act."""
        if self.target_gets == "before":
            write(state.target, state.learner.params)
        population.fire(state.learner, TARGET_UPDATE)
        if self.target_gets == "after":
            write(state.target, state.learner.params)

    def _table(self, world: World, population: Population, state: ValueState) -> Tensor | None:
        """The target network's outputs for every image, where these are fewer than all next images until it changes."""
        size = world.states.shape[1]
        if size > self.target_period * self.batch_size:
            return None
        images = torch.arange(size, device=population.device).expand(len(population), size)
        parts = [self._outputs(world, population, state.target, part) for part in images.split(AT_ONCE, 1)]
        return torch.cat(parts, 1)

    def _outputs(self, world: World, population: Population, params: Params, image: Tensor) -> Tensor:
        """`(members, n, actions, outputs of the head)`, without gradients."""
        return self.head.split(population.outputs(params, world.observe(image, population.dtype or torch.float32)))

    def _due(self, step: int) -> list[Measure]:
        """The measures that look after so many steps; a target period is their task."""
        period, into = divmod(max(0, step - 1), self.target_period)
        moment = Moment(step, period, into + 1 if step else 0, step > 0 and step % self.target_period == 0)
        return [measure for measure in self.measures if measure.when(moment)]

    def _look(
        self, due: Sequence[Measure], world: World, population: Population, state: ValueState, update: Params
    ) -> Row:
        """What the measures say of transitions that are drawn for this step."""
        row: Row = {}
        if due:
            updates = torch.full((len(population),), max(0, state.step - 1) // self.target_period)
            row["target_updates"] = updates
        for size in dict.fromkeys(measure.examples for measure in due):
            x, y = self.sampled(world, population, state, size)
            for measure in due:
                if measure.examples == size:
                    row |= measure(population, state.learner, x, y, update)
        return row

    def _net(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        """The network, its head beginning where it should."""
        module = self.net(shape, outputs)
        if self.begin is None:
            return module
        assert isinstance(self.head, Categorical)
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        if not layers or layers[-1].out_features != outputs or layers[-1].bias is None:
            raise ValueError(
                f"expected a network that ends in a linear layer of {outputs} outputs with a bias, to begin at "
                f"{self.begin:g}: leave begin out, or see net"
            )
        with torch.no_grad():
            layers[-1].bias.view(-1, self.head.num_outputs).add_(self.head.logits(self.begin))
        return module

    def _warn_of_support(self) -> None:
        largest = largest_value(self.gamma)
        if isinstance(self.head, Categorical) and not self.head.low <= 0 < largest <= self.head.high:
            warnings.warn(
                f"the support of {self.head} does not hold all values from 0 to 1 / (1 - gamma) = {largest:g}: those "
                "beyond are moved to its ends",
                stacklevel=3,
            )


def _step(world: World, replay: Replay, image: Tensor, action: Tensor, draws: Tensor) -> Tensor:
    """The next images; the replay keeps the transitions."""
    reward, following = world.step(image, action, draws[..., :NUM_DRAWS])
    replay.add(Transitions(image, action, reward, following))
    return following
