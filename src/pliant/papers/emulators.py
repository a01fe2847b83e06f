"""Agents in Atari's games as dqn_zoo has them, for the experiments of both papers that are played there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pliant.diagnostics import DeadUnits, GradientCovariance, ParameterNorm, gradient_cosines
from pliant.heads import C51, Head, Scalar
from pliant.interventions import Chain
from pliant.nets import Cast, Dueling, Nature
from pliant.optim import Adam, Clipped, Optimizer, RMSProp
from pliant.papers.games import period
from pliant.papers.lyle2023.fig2 import density
from pliant.rl import Atari, Catch, Environment, Evaluation, Prioritised
from pliant.trials import ActionValues, Arrays, Measure, Numbers, QLearning, When
from pliant.trials.building import Net
from pliant.words import unknown

# The 57 games of Wang et al. 2016, as ale-py names them
GAMES = (
    "alien", "amidar", "assault", "asterix", "asteroids", "atlantis", "bank_heist", "battle_zone", "beam_rider",
    "berzerk", "bowling", "boxing", "breakout", "centipede", "chopper_command", "crazy_climber", "defender",
    "demon_attack", "double_dunk", "enduro", "fishing_derby", "freeway", "frostbite", "gopher", "gravitar", "hero",
    "ice_hockey", "jamesbond", "kangaroo", "krull", "kung_fu_master", "montezuma_revenge", "ms_pacman",
    "name_this_game", "phoenix", "pitfall", "pong", "private_eye", "qbert", "riverraid", "road_runner", "robotank",
    "seaquest", "skiing", "solaris", "space_invaders", "star_gunner", "surround", "tennis", "time_pilot", "tutankham",
    "up_n_down", "venture", "video_pinball", "wizard_of_wor", "yars_revenge", "zaxxon",
)  # fmt: skip
AGENTS = {"double_dqn": "double DQN", "c51": "C51", "rainbow": "Rainbow"}
FRAMES = 200_000_000  # of the papers
BINS = 51


@dataclass(frozen=True)
class Emulated:
    """Settings of agents in Atari's games; defaults are dqn_zoo's.

    Frames count: those that an agent sees, an action lasts four of them.

    Args:
        games: of Atari's 57; or catch, which needs no package.
        num_steps: frames.
        minimum: transitions in the replay at which learning begins, and from which on random actions get fewer; of
            Rainbow, two fifths of it.
        decay: frames over which random actions fall to `epsilon`.
        epsilon: their share in the end.
        learn_period: frames between updates.
        target_period: frames between updates of the target network of double DQN; of C51 it is a third, of Rainbow four
            fifteenths of it.
        capacity: of the replay.
        batch_size: transitions an update.
        side: of images.
        channels: of convolutions.
        kernels: of convolutions.
        strides: of convolutions.
        hidden: units of the hidden layer.
        adam: whether double DQN learns by Adam, or by centered RMSProp.
        evaluation: frames of a phase of evaluation, 0 for none.
        evaluate_every: frames of training between phases.
        rows: how often numbers are taken.
        examples: of measures.
        products: of the Hessian with vectors, for its density.
        together: seeds that are trained as one population.
        channels_last: whether images lie with channels last in memory, which is faster on some processors.
        bfloat16: whether networks compute in bfloat16, which is faster on some.
    """

    games: tuple[str, ...] = GAMES
    num_steps: int = FRAMES
    minimum: int = 50_000
    decay: int = 4_000_000
    epsilon: float = 0.01
    learn_period: int = 16
    target_period: int = 120_000
    capacity: int = 1_000_000
    batch_size: int = 32
    side: int = 84
    channels: tuple[int, ...] = (32, 64, 64)
    kernels: tuple[int, ...] = (8, 4, 3)
    strides: tuple[int, ...] = (4, 2, 1)
    hidden: int = 512
    adam: bool = False
    evaluation: int = 500_000
    evaluate_every: int = 1_000_000
    rows: int = 200
    examples: int = 512
    products: int = 80
    together: int = 1
    channels_last: bool = False
    bfloat16: bool = False

    @property
    def whole(self) -> bool:
        """Whether games are played for as long, and seen as well, as in the papers."""
        return self.num_steps >= FRAMES and self.side == 84 and "catch" not in self.games

    def trial(self, game: str, agent: str, chain: Chain) -> QLearning:
        """An agent in a game."""
        rainbow, double = agent == "rainbow", agent == "double_dqn"
        begin = 4 * (self.minimum * 2 // 5 if rainbow else self.minimum)
        target = self.target_period * (15 if double else 5 if agent == "c51" else 4) // 15
        every = period(self.num_steps - begin, self.rows, self.learn_period)
        return QLearning(
            environment(game, self.side),
            self.net(agent),
            self.optimizer(agent),
            self.num_steps,
            chain,
            head(agent),
            double=agent != "c51",
            begin=begin,
            epsilon=0.0 if rainbow else self.epsilon,
            decay=1 if rainbow else self.decay,
            batch_size=self.batch_size,
            learn_period=self.learn_period,
            target_period=target,
            capacity=self.capacity,
            stack=1 if game == "catch" else 4,
            steps=3 if rainbow else 1,
            prioritised=Prioritised() if rainbow else None,
            clip=1.0,
            evaluation=self.judged(agent),
            measures=self.measures(agent, every),
            together=self.together,
        )

    def net(self, agent: str) -> Net:
        """The network of an agent; `ValueError` for an unknown one."""
        sizes = {"channels": self.channels, "hidden": self.hidden, "kernels": self.kernels, "strides": self.strides}
        if agent not in AGENTS:
            raise ValueError(unknown("agent", agent, list(AGENTS)))
        if agent == "rainbow":
            net = partial(Dueling, bins=BINS, **sizes)
        else:
            net = partial(Nature, shared_bias=agent == "double_dqn", **sizes)
        if self.channels_last or self.bfloat16:
            return partial(Cast, net=net, channels_last=self.channels_last, bfloat16=self.bfloat16)
        return net

    def optimizer(self, agent: str) -> Optimizer:
        """That of an agent.

        The loss of double DQN is twice a Huber loss, so its epsilon is four times dqn_zoo's in the root, twice outside.
        """
        if agent == "c51":
            return Clipped(Adam(2.5e-4, eps=0.01 / 32), norm=10.0)
        if agent == "rainbow":
            return Clipped(Adam(6.25e-5, eps=0.005 / 32), norm=10.0)
        if self.adam:
            return Adam(2.5e-4, eps=2 * 0.01 / 32)
        return RMSProp(2.5e-4, alpha=0.95, eps=0.0, eps_root=4 * 0.01 / 32**2, centered=True)

    def judged(self, agent: str) -> Evaluation | None:
        """The evaluation of an agent, with its share of random actions."""
        if not self.evaluation:
            return None
        epsilon = {"double_dqn": self.epsilon, "c51": 0.001, "rainbow": 0.0}[agent]
        return Evaluation(self.evaluate_every, self.evaluation, epsilon)

    def measures(self, agent: str, every: int) -> tuple[Measure, ...]:
        """What is looked at: on the way, and at the end what bends and what interferes, on states of the replay."""
        looks, end = When(every=every, ends=False), When(ends=False, at=(self.num_steps,))
        return (
            ActionValues(looks, self.examples, head(agent)),
            Numbers((DeadUnits(), ParameterNorm()), looks, self.examples),
            Numbers((GradientCovariance(),), end, self.examples),
            Arrays({"cosines": gradient_cosines}, frozenset({"x", "y"}), end, min(64, self.examples)),
            Arrays({"density": partial(density, steps=self.products)}, frozenset({"x"}), end, self.examples),
        )

    @property
    def column(self) -> str:
        """Of returns: those of evaluation, else of training."""
        return "score" if self.evaluation else "return"

    def deviations(self) -> tuple[str, ...]:
        """From dqn_zoo."""
        return (
            f"{len(self.games)} games, {self.num_steps:,} frames, images of {self.side} x {self.side}, convolutions of "
            f"{', '.join(map(str, self.channels))} channels, {self.hidden} hidden units.",
            "Preprocessing, counting of frames, evaluation, agents and their numbers are those of dqn_zoo, except that "
            "learning begins at a frame, not at a size of the replay, and that every episode begins as after power-on.",
            "Our loss of double DQN is twice a Huber loss; the epsilon of its optimizer is scaled so that updates are "
            "the same.",
            *(
                ("Networks compute in bfloat16: outputs and gradients are off by about 1 %, updates by 5 %.",)
                if self.bfloat16
                else ()
            ),
        )


def head(agent: str) -> Head:
    """Of an agent.

    >>> head("rainbow").num_outputs
    51
    """
    return Scalar(clip=1.0) if agent == "double_dqn" else C51(-10.0, 10.0, BINS)


def environment(game: str, side: int) -> Environment:
    """A game by its name; `ValueError` for an unknown one.

    >>> environment("pong", 42).side
    42
    """
    if game == "catch":
        return Catch()
    if game not in GAMES:
        raise ValueError(unknown("game", game, (*GAMES, "catch")))
    return Atari(game, side)
