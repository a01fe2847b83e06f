"""Agents that learn values in games."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pliant.functional.draws import draw
from pliant.heads import Head, Scalar
from pliant.interventions import Chain
from pliant.interventions.base import write
from pliant.network import Params
from pliant.optim import Optimizer
from pliant.population import Population, PopulationState
from pliant.rl import (
    Emulator,
    Environment,
    Episodes,
    Evaluation,
    Experience,
    FrameReplay,
    Phases,
    Priorities,
    Prioritised,
    evaluators,
    picked,
    td_target,
    watched,
)
from pliant.rl.priorities import NUM_DRAWS
from pliant.trials.base import Row, Run
from pliant.trials.building import Net, at_least_one, built, replayed, several, shares
from pliant.trials.draws import Draws
from pliant.trials.frames import FEW, RESET, change, copied, due, first_update
from pliant.trials.measures import Measure
from pliant.trials.value import TARGET_UPDATE

# What a forward pass is for: each has noise of its own, and that of learning is the noise of the update.
USES = LEARNING, ACTING, TARGETS, CHOOSING = range(4)
EVALUATING = 1 << 40  # counts of noise from here on


@dataclass
class QState:
    """All that changes: the networks that learn, their target networks, the games, and what was lived through.

    `priorities` are of transitions, where they are drawn by them; `phases` those of evaluation, if any. `step` counts
    frames of training; `loss` is that of the latest update, NaN before the first; `looked_at` the latest step at which
    measures looked, -1 before the first; `diverged_at` the frame at which each member lost its finite loss, -1 while it
    has.
    """

    learner: PopulationState
    target: Params
    episodes: Episodes
    replay: FrameReplay
    priorities: Priorities | None
    loss: Tensor
    diverged_at: list[int]
    phases: Phases | None = None
    step: int = 0
    looked_at: int = -1


@dataclass(frozen=True)
class QLearning:
    """Double DQN in games, as dqn_zoo counts: a population of all seeds, each with a game of its own.

    A step is a frame, those at which an episode begins and ends included. At every frame, in this order: what is seen
    is added to the replay, and an action chosen where the game asks for one; if `begin` frames have passed, an update
    is made at every `learn_period`-th frame, and then at every `target_period`-th the target network becomes a copy of
    the one that learns, and the event "target_update" is fired, in the target network too, with the same draws.
    `num_updates` are made at once; with a `reset_period`, the event "reset" is fired every so many frames after
    `begin`, likewise.

    Actions are random with a probability of 1 up to frame `begin`, which falls to `epsilon` over `decay` frames;
    otherwise the best one, any of several with probability alike. An update moves the outputs for the actions taken
    towards r + gamma^n Q'(s', argmax_a Q(s')): Q' is the target network; with `double=False` it picks the action, too,
    as C51 has it.

    Networks with noise of their own (`pliant.nets.Dueling`) explore by it: with `epsilon=0, decay=1`, `C51`, `steps=3`
    and `prioritised=Prioritised()` this is Rainbow. Noise is drawn anew for acting, choosing, targets and learning, at
    every frame; measures look at the network without it.

    A row is made at frame `begin`, before the first update, and wherever a measure is due after that. It has `return`,
    the mean return of the latest 100 episodes; `episodes`, how many ended; `updates` and `target_updates`; and, after
    the first, `batch_loss` of the latest update. Measures look at transitions of the replay, with `action` and
    `target`. With an `evaluation`, `score` has rows of its own, the first before training.

    Args:
        env: the game, such as `pliant.rl.MinAtar("breakout")`.
        net: a function of (input shape, number of outputs) that builds the network; it has as many outputs for each
            action as the head takes.
        optimizer: of the networks.
        num_steps: frames.
        chain: the interventions.
        head: makes values of outputs.
        double: whether the network that learns picks the next action.
        gamma: the discount of a step, in [0, 1].
        begin: frames before the first update.
        epsilon: the share of random actions in the end.
        decay: frames over which it falls from 1.
        batch_size: transitions an update.
        learn_period: frames between updates.
        num_updates: updates at each of these frames.
        target_period: frames between updates of the target network.
        capacity: transitions a seed that the replay holds.
        stack: observations that are one state.
        steps: n, of n-step returns.
        prioritised: how transitions are drawn, and losses weighted, by what was lost on each; None for uniformly.
        clip: rewards are clipped to [-clip, clip], for learning alone; None for as they are.
        reset_period: frames between events "reset"; None for none.
        evaluation: when agents are evaluated, and for how long; None for never.
        measures: what is measured, and when.
        together: seeds that are trained as one population.

    Raises:
        ValueError: a setting is out of its range, or two do not fit together.

    >>> from functools import partial
    >>> from pliant.nets import MLP
    >>> from pliant.optim import Adam
    >>> from pliant.rl import Catch
    >>> from pliant.trials import ActionValues, When
    >>> trial = QLearning(Catch(5, 3), partial(MLP, hidden=(8,)), Adam(1e-3), num_steps=60, begin=40, batch_size=8,
    ...                   target_period=20, measures=(ActionValues(When(every=10), 16),))
    >>> [row["episodes"].tolist() for row in trial.start([0, 1]).rows if row]
    [[8, 8], [10, 10], [12, 12]]

    Source: Mnih et al. 2015; van Hasselt et al. 2016; Quan & Ostrovski 2020. Deviations: learning begins at a frame,
    where dqn_zoo waits until the replay holds so many transitions, a fraction of a percent later; the replay holds
    observations, not whole states.
    """

    env: Environment
    net: Net
    optimizer: Optimizer
    num_steps: int
    chain: Chain = field(default_factory=Chain)
    head: Head = field(default_factory=lambda: Scalar(clip=1.0))
    double: bool = True
    gamma: float = 0.99
    begin: int = 5000
    epsilon: float = 0.1
    decay: int = 20_000
    batch_size: int = 32
    learn_period: int = 1
    num_updates: int = 1
    target_period: int = 1000
    capacity: int = 100_000
    stack: int = 1
    steps: int = 1
    prioritised: Prioritised | None = None
    clip: float | None = None
    reset_period: int | None = None
    evaluation: Evaluation | None = None
    measures: tuple[Measure, ...] = ()
    together: int = 5

    def __post_init__(self) -> None:
        several(self.chain, self.measures)
        at_least_one(self, "num_steps", "batch_size", "learn_period", "target_period", "stack", "steps", "decay")
        at_least_one(self, "num_updates", *(["reset_period"] if self.reset_period is not None else []))
        shares(self, "gamma", "epsilon")
        if not isinstance(self.head, Head):
            raise ValueError(f"expected a head such as Scalar() or C51(-10.0, 10.0, 51), got {self.head!r}")
        replayed(self.begin, self.num_steps, self.capacity, self.batch_size)

    @property
    def refits(self) -> int:
        """Optimizer steps of the measures' refits."""
        return sum(measure.refits for measure in self.measures)

    def brief(self) -> QLearning:
        """The frames of one update, all measures at work, each refit a step."""
        return first_update(self)

    def soon(self) -> QLearning:
        """The same, which learns and acts by its values after a few frames and measures nothing: to time it."""
        return replace(self, begin=min(self.begin, FEW), decay=1, evaluation=None, measures=())

    def start(self, seeds: Sequence[int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
        """The population before its first frame; `ValueError` for what does not fit together."""
        emulators = [self.env.emulator(seed) for seed in seeds]
        shape, actions = emulators[0].shape, emulators[0].num_actions
        if not actions:
            raise ValueError(f"expected a game with actions to choose from, got arrays of numbers: {self.env!r}")
        kind = torch.from_numpy(emulators[0].begin(0)).dtype
        example = torch.zeros(4, self.stack * shape[0], *shape[1:])
        population = built(
            self.net, actions * self.head.num_outputs, example, self.chain, self.optimizer, self.loss, seeds,
            (TARGET_UPDATE, RESET) if self.reset_period else (TARGET_UPDATE,),
            (self.num_steps - self.begin) // self.learn_period * self.num_updates, device, dtype,
            self.losses if self.prioritised else None,
        )  # fmt: skip
        learner = population.init()
        state = QState(
            learner,
            copied(learner.params),
            Episodes.none(len(seeds), self.env.limit),
            FrameReplay.empty(len(seeds), self.capacity, shape, self.stack, self.steps, kind, device),
            Priorities.none(len(seeds), self.capacity) if self.prioritised else None,
            torch.full((len(seeds),), math.nan, dtype=dtype, device=device),
            [-1] * len(seeds),
        )
        if self.evaluation:
            state.phases = Phases.none(emulators[0], self.env.limit, len(seeds), self.stack, kind, device)
        nothing = torch.zeros(len(seeds), self.batch_size, *example.shape[1:], dtype=dtype, device=device)
        action = torch.zeros(nothing.shape[:2], dtype=torch.int64, device=device)
        target = self.head.encode(torch.zeros(action.shape, dtype=dtype, device=device))
        y = {"action": action, "target": target}
        if self.prioritised:
            y["weight"] = torch.ones(action.shape, dtype=dtype, device=device)
        population.settle(learner, nothing, y)
        return Run(state, self._rows(emulators, population, state), (population,))

    def loss(self, output: Tensor, y: dict[str, Tensor]) -> Tensor:
        """The head's loss of the outputs for the actions taken, weighted where transitions were drawn by priority."""
        if "weight" in y:
            return (y["weight"] * self.losses(output, y)).mean()
        return self.head.loss(picked(self.head.split(output), y["action"]), y["target"])

    def losses(self, output: Tensor, y: dict[str, Tensor]) -> Tensor:
        """The head's loss of each transition, which becomes its priority."""
        return self.head.losses(picked(self.head.split(output), y["action"]), y["target"])

    def explore(self, frame: int) -> float:
        """The share of random actions at a frame.

        >>> from pliant.nets import MLP
        >>> from pliant.optim import Adam
        >>> from pliant.rl import Catch
        >>> trial = QLearning(Catch(), MLP, Adam(1e-3), num_steps=100, begin=10, epsilon=0.2, decay=40)
        >>> [round(trial.explore(frame), 2) for frame in (0, 10, 20, 50, 90)]
        [1.0, 1.0, 0.8, 0.2, 0.2]
        """
        part = min(max((frame - self.begin) / self.decay, 0.0), 1.0)
        return 1.0 + part * (self.epsilon - 1.0)

    def _rows(self, emulators: list[Emulator], population: Population, state: QState) -> Iterator[Row]:
        seeds = [member.seed for member in population.members]
        behaviour, batches = Draws(seeds, "behaviour", (3,)), Draws(seeds, "batch", (self.batch_size, NUM_DRAWS))
        scale = emulators[0].scale
        state.episodes.bring_back(emulators)
        phases, judged = state.phases, evaluators(self.env, seeds, state.phases)
        while True:
            if phases and self.evaluation and phases.due(self.evaluation, state.step):
                act = self._act(population, state, scale)
                yield from phases.rows(self.evaluation, judged, state.episodes, act)
            if state.step == self.num_steps:
                return
            frame = state.step
            if frame == self.begin and state.looked_at < 0:
                state.looked_at = frame
                yield self._look(population, state, scale, self.measures, {})
            self._play(emulators, population, state, behaviour.at(frame))
            looking = due(self.measures, frame + 1, self.begin, self.target_period)
            before: Params = {}
            if frame >= self.begin and frame % self.learn_period == 0:
                for count in range(frame * self.num_updates, (frame + 1) * self.num_updates):
                    if looking:
                        before = copied(state.learner.params)
                    self._learn(population, state, batches.at(count), scale, count)
            if frame >= self.begin and frame % self.target_period == 0:
                write(state.target, state.learner.params)
                population.fire(state.learner, TARGET_UPDATE, tied=(state.target,))
            if self.reset_period and frame > self.begin and (frame - self.begin) % self.reset_period == 0:
                population.fire(state.learner, RESET, tied=(state.target,))
            state.step += 1
            if not looking:
                yield {}
                continue
            state.looked_at = state.step
            yield {"batch_loss": state.loss.clone(), **self._look(population, state, scale, looking, before)}

    def _play(self, emulators: list[Emulator], population: Population, state: QState, draws: Tensor) -> None:
        """A frame of every game; those that show something are added to the replay and asked for an action."""
        episodes, replay = state.episodes, state.replay
        asked = watched(episodes, replay, emulators, self.clip)
        if not asked:
            return
        actions = emulators[0].num_actions
        chosen = (draws[:, 0] * actions).long()
        explore = draws[:, 1] < self.explore(state.step)
        if not explore[asked].all():
            key = self._key(ACTING, state.step * self.num_updates)
            values = self._values(population, state, replay.latest(), emulators[0].scale, key)
            chosen = torch.where(explore, chosen, one_of_the_best(values, draws[:, 2]))
        for m in asked:
            episodes.decide(m, int(chosen[m]))

    def _act(self, population: Population, state: QState, scale: float) -> Callable[[int], Tensor]:
        """What chooses actions in evaluations."""
        phases, settings = state.phases, self.evaluation
        assert phases is not None
        assert settings is not None
        draws = Draws([member.seed for member in population.members], "evaluating", (3,))

        def act(frame: int) -> Tensor:
            uniform, key = draws.at(frame), self._key(ACTING, EVALUATING + frame)
            values = self._values(population, state, phases.latest.latest(), scale, key)
            random = (uniform[:, 0] * values.shape[1]).long()
            return torch.where(uniform[:, 1] < settings.epsilon, random, one_of_the_best(values, uniform[:, 2]))

        return act

    def _values(self, population: Population, state: QState, seen: Tensor, scale: float, key: int) -> Tensor:
        """The value of every action in states that were seen, `(members, actions)`, on the host."""
        x = self._inputs(population, seen[:, None], scale)
        return self.head.value(self._outputs(population, state.learner.params, x, key))[:, 0].cpu()

    def _key(self, use: int, count: int) -> int:
        """What noise is a function of beside the seed: below 0, as that of learning counts updates."""
        return -(len(USES) * count + use)

    def _learn(self, population: Population, state: QState, draws: Tensor, scale: float, count: int) -> None:
        """One update of every member on a batch of its own, the so manieth in all."""
        if not state.replay.size.all():
            raise ValueError(f"expected a transition of every seed by frame {state.step}: write a larger begin")
        if self.prioritised is None or state.priorities is None:
            batch = state.replay.take(state.replay.uniform(draws[..., 1].numpy()), self.gamma)
            state.loss.copy_(population.step(state.learner, *self._batch(population, state, batch, scale, count)))
        else:
            item, weight = state.priorities.sample(state.replay, draws.numpy(), self.prioritised)
            x, y = self._batch(population, state, state.replay.take(item, self.gamma), scale, count)
            y["weight"] = torch.from_numpy(weight).to(x)
            losses, lost = population.advance(state.learner, x, y)
            assert lost is not None
            state.priorities.set(item, lost.double().cpu().numpy(), self.prioritised)
            state.loss.copy_(losses)
        for m, lost in enumerate(state.learner.diverged_at):
            if lost >= 0 and state.diverged_at[m] < 0:
                state.diverged_at[m] = state.step

    def _batch(
        self, population: Population, state: QState, batch: Experience, scale: float, count: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Inputs and targets of transitions."""
        x_next = self._inputs(population, batch.following, scale)
        following = self._outputs(population, state.target, x_next, self._key(TARGETS, count))
        chooser = None
        if self.double:
            chooser = self._outputs(population, state.learner.params, x_next, self._key(CHOOSING, count))
        reward, discount = batch.reward.to(following.dtype), batch.discount.to(following.dtype)
        target = td_target(self.head, reward, discount, following, chooser)
        return self._inputs(population, batch.x, scale), {"action": batch.action, "target": target}

    def _inputs(self, population: Population, observed: Tensor, scale: float) -> Tensor:
        """Observations as the network takes them."""
        x = observed.to(population.dtype or torch.float32)
        return x if scale == 1.0 else x / scale

    def _outputs(self, population: Population, params: Params, x: Tensor, key: int) -> Tensor:
        """`(members, n, actions, outputs of the head)`, without gradients; noise is a function of seed and key."""
        if not population.network.stochastic:
            return self.head.split(population.outputs(params, x))
        seeds = torch.tensor([member.seed for member in population.members], device=population.device)
        with torch.no_grad():
            found = population.map(population.network, params, x, torch.stack([seeds, torch.full_like(seeds, key)], 1))
        return self.head.split(found)

    def _look(self, population: Population, state: QState, scale: float, due: Sequence[Measure], before: Params) -> Row:
        """What the measures say of transitions that are drawn for this frame."""
        episodes, members = state.episodes, len(population)
        targets = (state.step - 1) // self.target_period - (self.begin - 1) // self.target_period
        row: Row = {
            "return": episodes.mean_return(),
            "episodes": torch.tensor(episodes.ended),
            "updates": torch.full((members,), state.learner.step),
            "target_updates": torch.full((members,), targets),
        }
        update = change(state.learner.params, before)
        for size in dict.fromkeys(measure.examples for measure in due):
            drawn = [draw(member.seed, "look", state.step).random(size) for member in population.members]
            draws = torch.stack([torch.from_numpy(numbers) for numbers in drawn]).numpy()
            drawn = state.replay.take(state.replay.uniform(draws), self.gamma)
            x, y = self._batch(population, state, drawn, scale, state.step * self.num_updates)
            for measure in due:
                if measure.examples == size:
                    row |= measure(population, state.learner, x, y, update)
        return row


def one_of_the_best(values: Tensor, uniform: Tensor) -> Tensor:
    """An action of the highest value, any of several with probability alike: `(members, actions)` to `(members,)`.

    >>> one_of_the_best(torch.tensor([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0]]), torch.tensor([0.4, 0.6]))
    tensor([1, 2])
    """
    best = values == values.amax(-1, keepdim=True)
    return (best.cumsum(-1) > (uniform * best.sum(-1)).floor()[:, None]).int().argmax(-1)
