"""P2-E9: C51 and Rainbow in Atari's games, with layer norm and with L2 of several strengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.claims import Claim, Effect
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import L2, Chain, LayerNorm
from pliant.papers.emulators import AGENTS, Emulated
from pliant.papers.games import area, gain
from pliant.papers.lyle2023.fig7 import LIGHT
from pliant.plots import Lines
from pliant.results import Results

HURTS = 1e-5  # and more, in line 43


@dataclass(frozen=True)
class Settings(Emulated):
    """Settings of agents in Atari; `strengths` are those of L2, which C51 gets in the games of `l2_games`."""

    agents: tuple[str, ...] = ("c51", "rainbow")
    strengths: tuple[float, ...] = (1e-7, 1e-5, 1e-3)
    l2_games: tuple[str, ...] = ("seaquest",)


def name(game: str, agent: str, intervention: str) -> str:
    """The arm of a game, an agent and an intervention.

    >>> name("seaquest", "c51", "l2_1e-05")
    'seaquest_c51_l2_1e-05'
    """
    return f"{game}_{agent}_{intervention}"


def chains(settings: Settings, game: str, agent: str) -> dict[str, tuple[str, Chain]]:
    """The interventions of an agent in a game."""
    found = {"none": ("", Chain()), "layer_norm": (", layer norm", Chain(LayerNorm()))}
    if agent == "c51" and game in settings.l2_games:
        found |= {f"l2_{s:g}": (f", L2 {s:g}", Chain(L2(s))) for s in settings.strengths}
    return found


def setup(settings: Settings) -> Setup:
    """Every agent in every game."""
    arms = {
        name(game, agent, key): Arm(
            f"{game.replace('_', ' ')}, {AGENTS.get(agent, agent)}{said}", settings.trial(game, agent, chain)
        )
        for game in settings.games
        for agent in settings.agents
        for key, (said, chain) in chains(settings, game, agent).items()
    }
    return Setup(
        arms=arms,
        plots=tuple(
            Lines(
                settings.column, f"return in {game.replace('_', ' ')}, {AGENTS[agent]}", over="step",
                arms=tuple(name(game, agent, key) for key in chains(settings, game, agent)), unit=(1, "frame"),
            )
            for game in settings.games
            for agent in settings.agents
        ),
        table=(
            Column("return,\nrandom", "return", "first"),
            Column("return", settings.column),
            Column("dead", "dead"),
        ),
        claims=claims(settings),
        deviations=(
            *settings.deviations(),
            "P2 states C51 and Rainbow with layer norm, and C51 with L2 of 1e-7, 1e-5 and 1e-3 in Seaquest; of its "
            "games we know no list. Rainbow's noise is drawn at every frame, for each use.",
            *(
                ()
                if settings.whole
                else ("No evidence for what P2 says, whose agents see 200 million frames.",)
            ),
        ),
    )  # fmt: skip


def cost(settings: Settings, game: str, strength: float) -> Effect:
    """How much less area C51 has with L2, as a share of the plain agent's."""

    def less(r: Results) -> np.ndarray:
        plain = area(name(game, "c51", "none"), settings.column)(r)
        return (plain - area(name(game, "c51", f"l2_{strength:g}"), settings.column)(r)) / np.mean(plain)

    return less


def claims(settings: Settings) -> tuple[Claim, ...]:
    """That agents learn, that layer norm helps them, and that L2 hurts C51."""
    evidence, beside = ((43,), ()) if settings.whole else ((), (43,))
    found = []
    learns = {
        (game, agent): Claim(
            f"Plain {AGENTS[agent]} beats random actions in {game.replace('_', ' ')}: mean of its returns.",
            area(name(game, agent, "none"), settings.column),
            ours=True,
        )
        for game in settings.games
        for agent in settings.agents
    }
    found += learns.values()
    for agent in settings.agents:
        pairs = [(name(g, agent, "layer_norm"), name(g, agent, "none")) for g in settings.games]
        found.append(
            Claim(
                f"Layer norm raises the area under {AGENTS[agent]}'s curves, as a share of the plain one's.",
                gain(pairs, settings.column),
                given=tuple(learns[game, agent] for game in settings.games),
                checklist=evidence,
                beside=beside,
            )
        )
    if "c51" in settings.agents:
        found += [
            Claim(
                f"L2 of {strength:g} lowers the area under C51's curve in {game.replace('_', ' ')}, as a share of the "
                "plain agent's.",
                cost(settings, game, strength),
                given=(learns[game, "c51"],),
                checklist=evidence,
                beside=beside,
            )
            for game in settings.l2_games
            if game in settings.games
            for strength in settings.strengths
            if strength >= HURTS
        ]
    return tuple(found)


EXPERIMENT = Experiment(
    id="lyle2024/atari",
    title="C51 and Rainbow in Atari's games, with layer norm and with L2",
    figure="P2's experiments in Atari (appendices E.4 and E.11)",
    references=("lyle2024", "bellemare2017", "hessel2018"),
    tiers={
        "smoke": Settings(
            games=("catch",), l2_games=("catch",), num_steps=160, minimum=25, decay=60, learn_period=4,
            target_period=40, capacity=200, batch_size=8, channels=(4,), kernels=(3,), strides=(1,), hidden=16,
            evaluation=20, evaluate_every=80, rows=5, examples=24, products=3,
        ),
        "laptop": Settings(
            games=("seaquest",), num_steps=1_000_000, minimum=5000, decay=200_000, target_period=30_000,
            capacity=100_000, rows=40, examples=256, products=20, **LIGHT,
        ),
        "paper": Settings(),
    },
    setup=setup,
)  # fmt: skip
