"""Soft actor-critic: agents whose actions are arrays of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from pliant.functional.draws import draw
from pliant.gradients import Loss
from pliant.interventions import Chain
from pliant.nets import MLP
from pliant.network import Params
from pliant.optim import Adam, Moments, Optimizer
from pliant.population import Population, PopulationState
from pliant.rl import (
    Emulator,
    Environment,
    Episodes,
    Evaluation,
    Experience,
    FrameReplay,
    Phases,
    evaluators,
    watched,
)
from pliant.trials.actor_critic import CRITICS, ActorLoss, half_squared_error, halved, squashed, twice
from pliant.trials.base import Row, Run
from pliant.trials.building import Net, at_least_one, built, replayed, several, shares
from pliant.trials.draws import Draws
from pliant.trials.frames import FEW, RESET, change, copied, due, first_update
from pliant.trials.measures import Measure

THREE_LAYERS = partial(MLP, hidden=(256, 256, 256))


@dataclass
class SACState:
    """All that changes: actors, pairs of critics, their target networks, temperatures, games, what was lived through.

    The critics of one agent are neighbours in `critics` and `target`, which have twice as many members. `log_alpha` is
    the logarithm of each agent's temperature, a tree of one tensor, and `moments` its optimizer's. `step` counts
    frames; `loss` is the critics' at the latest update, NaN before the first; `looked_at` the latest step at which
    measures looked, -1 before the first; `diverged_at` the frame at which each agent lost a finite loss, -1 while it
    has.
    """

    actor: PopulationState
    critics: PopulationState
    target: Params
    log_alpha: Params
    moments: Moments
    episodes: Episodes
    replay: FrameReplay
    loss: Tensor
    diverged_at: list[int]
    phases: Phases | None = None
    step: int = 0
    looked_at: int = -1


@dataclass(frozen=True)
class SAC:
    """Soft actor-critic: a population of all seeds, each with an actor, two critics and a temperature of its own.

    An actor gives mean and log standard deviation of normal numbers u for each control; the action is a = tanh(u), and
    log p(a) = log N(u) - sum log(1 - a^2). An update draws a batch and

    1. moves both critics towards y = r + g (min Q'(s', a') - alpha log p(a')), a' drawn by the actor and Q' the target
       networks, by half the mean squared error;
    2. moves the actor down alpha log p(a) - min Q(s, a), a drawn by it and Q the critics as they are now;
    3. moves log alpha down -log alpha (log p(a) + `target_entropy`), with alpha and p as before the update;
    4. moves the target networks by a share `tau` of the way to the critics.

    A step is a frame, those at which an episode begins included, as in `QLearning`. At every frame what is seen is
    added to the replay, and an action drawn where one is asked for, uniformly before frame `begin`; from then on
    `num_updates` updates are made at every `learn_period`-th frame. With a `reset_period`, the event "reset" is fired
    every so many frames after `begin`, in the target networks, too, with the same draws.

    A row is made at frame `begin`, before the first update, and wherever a measure is due after that. It has `return`,
    the mean return of the latest 100 episodes; `episodes`, how many ended; `updates`; `alpha`, the temperature; and,
    after the first, `batch_loss` of the critics, the mean of both. Measures look at the actor, as `actor/...`, and at
    both critics, whose mean is `critic/...`. With an `evaluation`, `score` has rows of its own, the first before
    training; the actions there are tanh of the mean of u, without noise.

    Args:
        env: the task, such as `pliant.rl.DMC("walker_walk", repeat=2)`.
        num_steps: frames.
        net: a function of (input shape, number of outputs) that builds actor and critics.
        chain: the interventions, in actor and critics.
        actor: the optimizer of actors.
        critic: that of critics.
        temperature: that of the logarithm of temperatures.
        gamma: the discount of a step, in [0, 1].
        tau: in [0, 1].
        begin: frames before the first update.
        batch_size: transitions an update.
        learn_period: frames between updates.
        num_updates: updates at each of these frames.
        capacity: transitions a seed that the replay holds.
        alpha: the temperature at first.
        target_entropy: of actions; None for minus the number of controls.
        log_std: the least and the largest logarithm of a standard deviation.
        reset_period: frames between events "reset"; None for none.
        evaluation: when agents are evaluated, and for how long; None for never.
        measures: what is measured, and when.
        together: seeds that are trained as one population.

    Raises:
        ValueError: a setting is out of its range, or the task has actions to choose from.

    >>> from pliant.rl import Push
    >>> from pliant.trials import Steps, When
    >>> trial = SAC(Push(10), num_steps=60, net=partial(MLP, hidden=(8,)), begin=40, batch_size=8,
    ...             measures=(Steps(When(every=10)),))
    >>> [row["updates"].tolist() for row in trial.start([0, 1]).rows if row]
    [[0, 0], [10, 10], [20, 20]]

    Source: Haarnoja et al. 2018, with their learned temperature; numbers of Hoffman et al. 2020 (acme), but for three
    hidden layers as in P2. Deviations from acme: parameters begin as PyTorch's layers do, standard deviations are
    bounded exponentials, the actor learns from critics that were just updated. Layers that draw (dropout) do so
    nowhere but in the network that learns.
    """

    env: Environment
    num_steps: int
    net: Net = THREE_LAYERS
    chain: Chain = field(default_factory=Chain)
    actor: Optimizer = field(default_factory=lambda: Adam(3e-4))
    critic: Optimizer = field(default_factory=lambda: Adam(3e-4))
    temperature: Optimizer = field(default_factory=lambda: Adam(3e-4))
    gamma: float = 0.99
    tau: float = 0.005
    begin: int = 10_000
    batch_size: int = 256
    learn_period: int = 1
    num_updates: int = 1
    capacity: int = 1_000_000
    alpha: float = 1.0
    target_entropy: float | None = None
    log_std: tuple[float, float] = (-20.0, 2.0)
    reset_period: int | None = None
    evaluation: Evaluation | None = None
    measures: tuple[Measure, ...] = ()
    together: int = 5

    def __post_init__(self) -> None:
        several(self.chain, self.measures)
        at_least_one(self, "num_steps", "batch_size", "learn_period", "num_updates")
        if self.reset_period is not None:
            at_least_one(self, "reset_period")
        shares(self, "gamma", "tau")
        replayed(self.begin, self.num_steps, self.capacity, self.batch_size)
        if not self.alpha > 0:
            raise ValueError(f"expected alpha above 0, got {self.alpha}")
        if not self.log_std[0] < self.log_std[1]:
            raise ValueError(f"expected log_std to be the least and the largest, got {self.log_std}")
        if not self.temperature.elementwise:
            raise ValueError(f"expected a temperature optimizer that updates numbers alone, got {self.temperature!r}")

    @property
    def refits(self) -> int:
        """Optimizer steps of the measures' refits, of the actor and both critics."""
        return (1 + CRITICS) * sum(measure.refits for measure in self.measures)

    def brief(self) -> SAC:
        """The frames of one update, all measures at work, each refit a step."""
        return first_update(self)

    def soon(self) -> SAC:
        """The same, which learns after a few frames and measures nothing: to time it."""
        return replace(self, begin=min(self.begin, FEW), evaluation=None, measures=())

    def start(self, seeds: Sequence[int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
        """The agents before their first frame; `ValueError` for what does not fit together."""
        emulators = [self.env.emulator(seed) for seed in seeds]
        shape, controls = emulators[0].shape, emulators[0].num_controls
        if not controls:
            raise ValueError(f"expected actions that are arrays of numbers, got some to choose from: {self.env!r}")
        if len(shape) != 1:
            raise ValueError(f"expected observations that are lists of numbers, got arrays of shape {shape}")
        pair = [int(draw(seed, "critic", i).integers(2**31)) for seed in seeds for i in range(CRITICS)]
        events = (RESET,) if self.reset_period else ()
        updates = (self.num_steps - self.begin) // self.learn_period * self.num_updates

        def population(
            width: int, outputs: int, optimizer: Optimizer, loss: Loss, seeds: Sequence[int], beside: Loss | None = None
        ) -> Population:
            return built(
                self.net, outputs, torch.zeros(4, width), self.chain, optimizer, loss, seeds, events, updates, device,
                dtype, beside,
            )  # fmt: skip

        critics = population(shape[0] + controls, 1, self.critic, half_squared_error, pair)
        actor = population(
            shape[0], 2 * controls, self.actor, ActorLoss(critics.network, self.log_std), seeds, self.log_prob
        )  # fmt: skip
        learners = actor.init(), critics.init()
        log_alpha = {"log_alpha": torch.full((len(seeds),), math.log(self.alpha), dtype=dtype, device=device)}
        state = SACState(
            *learners,
            copied(learners[1].params),
            log_alpha,
            self.temperature.init(log_alpha),
            Episodes.none(len(seeds), self.env.limit, controls),
            FrameReplay.empty(
                len(seeds), self.capacity, shape, dtype=torch.float32, device=device, controls=controls
            ),
            torch.full((len(seeds),), math.nan, dtype=dtype, device=device),
            [-1] * len(seeds),
        )  # fmt: skip
        if self.evaluation:
            kind = torch.float32
            state.phases = Phases.none(emulators[0], self.env.limit, len(seeds), 1, kind, device)
        agents = Agents(self, actor, critics, state)
        size = (len(seeds), self.batch_size)
        numbers = {"dtype": dtype, "device": device}
        x, noise = torch.zeros(*size, shape[0], **numbers), torch.zeros(*size, controls, **numbers)
        critics.settle(state.critics, twice(torch.cat([x, noise], -1)), twice(torch.zeros(*size, 1, **numbers)))
        actor.settle(state.actor, x, agents.actors_targets(x, noise))
        return Run(state, self._rows(emulators, agents), (actor, critics))

    def log_prob(self, output: Tensor, y: dict) -> Tensor:
        """log p of the actions that the actor draws."""
        return squashed(output, y["noise"], self.log_std)[1]

    def _rows(self, emulators: list[Emulator], agents: Agents) -> Iterator[Row]:
        seeds, controls = [member.seed for member in agents.actor.members], emulators[0].num_controls
        random, acting = Draws(seeds, "random", (controls,)), Draws(seeds, "acting", (controls,), normal=True)
        batches = Draws(seeds, "batch", (self.batch_size,))
        noises = Draws(seeds, "noise", (2 * self.batch_size, controls), normal=True)
        state = agents.state
        state.episodes.bring_back(emulators)
        phases, judged = state.phases, evaluators(self.env, seeds, state.phases)
        while True:
            if phases and self.evaluation and phases.due(self.evaluation, state.step):
                yield from phases.rows(self.evaluation, judged, state.episodes, agents.best)
            if state.step == self.num_steps:
                return
            frame = state.step
            if frame == self.begin and state.looked_at < 0:
                state.looked_at = frame
                yield agents.look(self.measures, {}, {})
            if asked := watched(state.episodes, state.replay, emulators):
                action = 2 * random.at(frame) - 1 if frame < self.begin else agents.act(acting.at(frame))
                for m in asked:
                    state.episodes.decide(m, action[m])
            looking = due(self.measures, frame + 1, self.begin, self.num_steps)  # all of training is one task
            before: tuple[Params, Params] = {}, {}
            if frame >= self.begin and frame % self.learn_period == 0:
                for count in range(frame * self.num_updates, (frame + 1) * self.num_updates):
                    if looking:
                        before = copied(state.actor.params), copied(state.critics.params)
                    agents.update(batches.at(count), noises.at(count))
            if self.reset_period and frame > self.begin and (frame - self.begin) % self.reset_period == 0:
                agents.actor.fire(state.actor, RESET)
                agents.critics.fire(state.critics, RESET, tied=(state.target,))
            state.step += 1
            if not looking:
                yield {}
                continue
            state.looked_at = state.step
            yield {"batch_loss": state.loss.clone(), **agents.look(looking, *before)}


class Agents:
    """The networks of a population of agents, and an update of all of them."""

    def __init__(self, settings: SAC, actor: Population, critics: Population, state: SACState):
        self.settings, self.actor, self.critics, self.state = settings, actor, critics, state

    @torch.no_grad()
    def act(self, noise: Tensor) -> Tensor:
        """An action of each agent where it is now, `(members, controls)`."""
        x = self._numbers(self.state.replay.latest()[:, None])
        outputs = self.actor.outputs(self.state.actor.params, x)
        action, _ = squashed(outputs, noise[:, None].to(x), self.settings.log_std)
        return action[:, 0].cpu().nan_to_num()  # an actor that diverged holds still

    @torch.no_grad()
    def best(self, frame: int) -> Tensor:
        """An action of each agent where it is in its evaluation, without noise."""
        assert self.state.phases is not None
        x = self._numbers(self.state.phases.latest.latest()[:, None])
        mean, _ = self.actor.outputs(self.state.actor.params, x).chunk(2, -1)
        return mean[:, 0].tanh().cpu().nan_to_num()

    def update(self, draws: Tensor, noise: Tensor) -> None:
        """One update on transitions that `draws` picks, `(members, n)`, with `noise`, `(members, 2 n, controls)`."""
        replay = self.state.replay
        if not replay.size.all():
            raise ValueError(f"expected a transition of every seed by frame {self.state.step}: write a larger begin")
        batch = replay.take(replay.uniform(draws.numpy()), self.settings.gamma)
        self.learn(batch, noise)

    def learn(self, batch: Experience, noise: Tensor) -> None:
        """One update on these transitions; the first half of the noise is for their states, the other for the next."""
        state, settings = self.state, self.settings
        x, targets = self.targets(batch, noise)
        alpha = state.log_alpha["log_alpha"].exp()
        losses = self.critics.step(state.critics, self._pairs(batch), targets)
        state.loss.copy_(losses.view(-1, CRITICS).mean(1))
        _, log_prob = self.actor.advance(state.actor, x, self.actors_targets(x, noise[:, : x.shape[1]], alpha))
        assert log_prob is not None
        wanted = -noise.shape[-1] if settings.target_entropy is None else settings.target_entropy
        slope = {"log_alpha": -(log_prob.mean(1) + wanted)}
        settings.temperature.update(state.log_alpha, slope, state.moments)
        torch._foreach_lerp_(list(state.target.values()), list(state.critics.params.values()), settings.tau)
        for m, lost in enumerate(state.actor.diverged_at):
            latest = max(lost, *state.critics.diverged_at[CRITICS * m : CRITICS * (m + 1)])
            if latest >= 0 and state.diverged_at[m] < 0:
                state.diverged_at[m] = state.step

    @torch.no_grad()
    def targets(self, batch: Experience, noise: Tensor) -> tuple[Tensor, Tensor]:
        """States, and y for both critics of every agent, with the second half of the noise."""
        x, following = self._numbers(batch.x), self._numbers(batch.following)
        n = x.shape[1]
        outputs = self.actor.outputs(self.state.actor.params, following)
        action, log_prob = squashed(outputs, noise[:, n:].to(x), self.settings.log_std)
        values = self.critics.outputs(self.state.target, twice(torch.cat([following, action], -1)))
        value = values.view(-1, CRITICS, n).amin(1) - self.state.log_alpha["log_alpha"].exp()[:, None] * log_prob
        y = batch.reward.to(x) + batch.discount.to(x) * value
        return x, twice(y.unsqueeze(-1))

    def actors_targets(self, x: Tensor, noise: Tensor, alpha: Tensor | None = None) -> dict[str, object]:
        """What the actors' loss is a function of beside their outputs, alpha that of now by default.

        All of it has an axis of examples, along which alpha and the critics are the same.
        """
        size = x.shape[:2]
        critics = {
            name: p.view(-1, 1, CRITICS, *p.shape[1:]).expand(*size, CRITICS, *p.shape[1:])
            for name, p in self.state.critics.params.items()
        }
        alpha = self.state.log_alpha["log_alpha"].exp() if alpha is None else alpha
        return {"x": x, "noise": noise.to(x), "alpha": alpha[:, None].expand(size), "critics": critics}

    def look(self, due: Sequence[Measure], before_actor: Params, before_critics: Params) -> Row:
        """What the measures say of transitions that are drawn for this frame."""
        state, members = self.state, [member.seed for member in self.actor.members]
        row: Row = {
            "return": state.episodes.mean_return(),
            "episodes": torch.tensor(state.episodes.ended),
            "updates": torch.full((len(members),), state.critics.step),
            "alpha": state.log_alpha["log_alpha"].exp(),
        }
        changes = change(state.actor.params, before_actor), change(state.critics.params, before_critics)
        for size in dict.fromkeys(measure.examples for measure in due):
            if not size:
                continue
            generators = [draw(seed, "look", state.step) for seed in members]
            draws = torch.stack([torch.from_numpy(generator.random(size)) for generator in generators])
            batch = state.replay.take(state.replay.uniform(draws.numpy()), self.settings.gamma)
            controls = batch.action.shape[-1]
            noise = [torch.from_numpy(generator.standard_normal((2 * size, controls))) for generator in generators]
            x, y = self.targets(batch, torch.stack(noise).to(batch.x.device))
            mine = self.actors_targets(x, torch.stack(noise)[:, :size])
            for measure in due:
                if measure.examples == size:
                    found = measure(self.actor, state.actor, x, mine, changes[0])
                    row |= {f"actor/{name}": values for name, values in found.items()}
                    found = measure(self.critics, state.critics, self._pairs(batch), y, changes[1])
                    row |= {f"critic/{name}": halved(values) for name, values in found.items()}
        return row

    def _pairs(self, batch: Experience) -> Tensor:
        """States with the actions taken there, for both critics of every agent."""
        return twice(torch.cat([self._numbers(batch.x), self._numbers(batch.action)], -1))

    def _numbers(self, observed: Tensor) -> Tensor:
        return observed.to(self.actor.dtype or torch.float32)
