"""Agents in MinAtar's games, with layer norm and without: what is left to learn with after 200,000 frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pliant.claims import Claim
from pliant.diagnostics import DeadUnits, ParameterNorm
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.heads import C51, Head, Scalar
from pliant.interventions import Chain, LayerNorm
from pliant.papers.games import area, gain, rise
from pliant.papers.miniatures import GAMES, Miniature
from pliant.plots import Lines
from pliant.probe import Sines
from pliant.trials import ActionValues, Numbers, QLearning
from pliant.words import unknown

AGENTS = {"double_dqn": "double DQN", "c51": "C51"}
CHAINS = {"none": "", "layer_norm": ", layer norm"}


@dataclass(frozen=True)
class Settings(Miniature):
    """Settings of agents in MinAtar.

    Args:
        games: of MinAtar's five; or catch, which needs no package.
        agents: `double_dqn`, `c51`.
        learn_period: frames between updates.
    """

    games: tuple[str, ...] = ("breakout", "asterix", "freeway")
    agents: tuple[str, ...] = ("double_dqn", "c51")
    learn_period: int = 2

    def head(self, agent: str) -> Head:
        """Of an agent; `ValueError` for an unknown one."""
        if agent not in AGENTS:
            raise ValueError(unknown("agent", agent, list(AGENTS)))
        return C51(-10.0, 10.0, 51) if agent == "c51" else Scalar(clip=1.0)

    def trial(self, game: str, agent: str, chain: Chain) -> QLearning:
        """An agent in a game."""
        head = self.head(agent)
        probe = Sines(head=head) if agent == "c51" else Sines()
        return replace(
            self.agent(game),
            chain=chain,
            head=head,
            double=agent == "double_dqn",
            learn_period=self.learn_period,
            measures=(
                ActionValues(self.looks, self.examples, head),
                Numbers((DeadUnits(), ParameterNorm()), self.looks, self.examples),
                self.probe(probe),
            ),
        )


def name(game: str, agent: str, intervention: str) -> str:
    """The arm of a game, an agent and an intervention.

    >>> name("breakout", "c51", "layer_norm")
    'breakout_c51_layer_norm'
    """
    return f"{game}_{agent}_{intervention}"


def setup(settings: Settings) -> Setup:
    """Every agent in every game, with layer norm and without."""
    chains = {"none": Chain(), "layer_norm": Chain(LayerNorm())}
    arms = {
        name(game, agent, intervention): Arm(
            f"{game.replace('_', ' ')}, {AGENTS.get(agent, agent)}{CHAINS[intervention]}",
            settings.trial(game, agent, chain),
        )
        for game in settings.games
        for agent in settings.agents
        for intervention, chain in chains.items()
    }
    return Setup(
        arms=arms,
        plots=(
            *(
                Lines(
                    "return", f"return in {game.replace('_', ' ')}", over="step",
                    arms=tuple(name(game, agent, i) for agent in settings.agents for i in chains),
                )
                for game in settings.games
            ),
            Lines("dead", "dead units (share)", over="step", limits=(0, 1)),
            Lines("value", "mean largest value", over="step"),
        ),
        table=(
            Column("return,\nrandom", "return", "first"),
            Column("return", "return"),
            Column("probe loss,\nfirst", "probe_loss", "first"),
            Column("probe loss", "probe_loss"),
            Column("dead", "dead"),
        ),
        claims=claims(settings),
        deviations=(
            "An experiment of ours. It is no evidence for what the papers say of Atari (P1 figure 7, P2's C51 and "
            "Rainbow): games, networks and budgets are others.",
            f"MinAtar with its six actions and sticky ones of 0.1; {settings.num_steps:,} frames, an update every "
            f"{settings.learn_period}, a convolution of {settings.channels} channels (3 x 3, padded) and "
            f"{settings.hidden} units; Young & Tian train for 5 million frames.",
            "Return: the mean of the latest 100 training episodes, with random actions among the agent's; the first "
            "row is that of random actions alone.",
            f"Probes: {settings.targets} targets, {settings.steps:,} steps, {settings.examples} states of the replay, "
            "a fresh optimizer; the control is the untrained network on its first states.",
        ),
    )  # fmt: skip


def claims(settings: Settings) -> tuple[Claim, ...]:
    """That agents learn, and what layer norm does to the area under their curves and to their probe."""
    found: list[Claim] = []
    for agent in settings.agents:
        learns = tuple(
            Claim(
                f"{AGENTS[agent]}{CHAINS[i]} beats random actions in {game.replace('_', ' ')}: mean of its returns.",
                area(name(game, agent, i)),
                ours=True,
            )
            for game in settings.games
            for i in CHAINS
        )
        found += [
            *learns,
            Claim(
                f"Layer norm raises the area under {AGENTS[agent]}'s curves, as a share of the plain agent's above "
                "random actions, over games.",
                gain([(name(g, agent, "layer_norm"), name(g, agent, "none")) for g in settings.games]),
                ours=True,
                given=learns,
                beside=(24,) if agent == "double_dqn" else (43,),
            ),
            Claim(
                f"The probe loss of plain {AGENTS[agent]} rises by more than with layer norm, over games.",
                lambda r, agent=agent: np.mean(
                    [
                        rise(name(game, agent, "none"))(r) - rise(name(game, agent, "layer_norm"))(r)
                        for game in settings.games
                    ],
                    axis=0,
                ),
                ours=True,
                beside=(24,) if agent == "double_dqn" else (43,),
            ),
        ]
    return tuple(found)


EXPERIMENT = Experiment(
    id="toolbox/minatar",
    title="Double DQN and C51 in MinAtar, with layer norm and without",
    figure="ours; after P1 figure 7 and P2's C51",
    references=("lyle2023", "lyle2024", "young2019", "vanhasselt2016double", "bellemare2017"),
    tiers={
        "smoke": Settings(
            games=("catch",), num_steps=200, begin=100, decay=100, target_period=50, channels=4, hidden=16,
            batch_size=8, capacity=200, targets=2, steps=10, examples=40, rows=5,
        ),
        "laptop": Settings(),
        "paper": Settings(
            games=GAMES, num_steps=5_000_000, decay=100_000, learn_period=1, targets=10, steps=2000, examples=512,
        ),
    },
    setup=setup,
)  # fmt: skip
