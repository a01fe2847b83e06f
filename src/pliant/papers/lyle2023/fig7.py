"""P1 figures 7 and 19 to 22: double DQN in Atari's games, with layer norm and without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pliant.claims import Claim, Effect
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import Chain, LayerNorm
from pliant.papers.emulators import GAMES, Emulated
from pliant.papers.games import area
from pliant.papers.lyle2023.fig2 import GRID
from pliant.plots import Lines, Matrix, Profile
from pliant.results import Results

CHAINS = {"none": ("", Chain()), "layer_norm": (", layer norm", Chain(LayerNorm()))}
SHARE = 0.7  # of games, of line 24
TIMES = 3.0  # a random policy's return, of the runs that show that the code learns


@dataclass(frozen=True)
class Settings(Emulated):
    """Settings of figure 7: dqn_zoo's double DQN with P1's replay and share of random actions."""

    minimum: int = 5000
    epsilon: float = 0.1
    capacity: int = 100_000


def name(game: str, intervention: str) -> str:
    """The arm of a game and an intervention.

    >>> name("pong", "none")
    'pong_none'
    """
    return f"{game}_{intervention}"


def setup(settings: Settings) -> Setup:
    """Every game, with layer norm and without."""
    arms = {
        name(game, key): Arm(f"{game.replace('_', ' ')}{said}", settings.trial(game, "double_dqn", chain))
        for game in settings.games
        for key, (said, chain) in CHAINS.items()
    }
    game = settings.games[0]
    shown = {f"{game.replace('_', ' ')}{said}": name(game, key) for key, (said, _) in CHAINS.items()}
    return Setup(
        arms=arms,
        plots=(
            *(
                Lines(
                    settings.column, f"return in {game.replace('_', ' ')}", over="step",
                    arms=tuple(name(game, key) for key in CHAINS), unit=(1, "frame"),
                )
                for game in settings.games
            ),
            Profile(
                "density", "density of Hessian eigenvalues (base-10 logarithm)", "eigenvalue", shown,
                tuple(GRID.tolist()),
            ),
            Matrix("cosines", "cosines between the gradients of examples", shown, (-1,), clustered=True),
        ),
        table=(
            Column("return,\nrandom", "return", "first"),
            Column("return", settings.column),
            Column("negative\ncosines", "gradient_interference"),
            Column("dead", "dead"),
        ),
        claims=claims(settings),
        deviations=(
            *settings.deviations(),
            "P1 says: replay of 100,000, epsilon 0.1, layer norm after each convolution and the hidden layer, 3 seeds, "
            "nothing tuned anew. Learning begins at 5 % of the replay, as in dqn_zoo; epsilon is that of play and of "
            "evaluation; layer norm comes before the nonlinearity, over channels and space.",
            *(
                ()
                if settings.whole
                else (
                    "No evidence for what P1 says of 57 games and 200 million frames: it shows that the code learns. "
                    f"The replay holds {settings.capacity:,}, learning begins at frame {4 * settings.minimum:,}, "
                    f"random actions fall over {settings.decay:,} frames, the target period is "
                    f"{settings.target_period:,} frames, the optimizer {'Adam' if settings.adam else 'RMSProp'}.",
                )
            ),
            "Return: the mean of the latest 100 training episodes, rewards not clipped, random actions among the "
            "agent's; score: that of evaluation, where there is one. No table of people's scores is here: the share of "
            "games needs none, and `pliant.rl.improvement` normalises by yours.",
        ),
    )  # fmt: skip


def better(settings: Settings) -> Effect:
    """The share of games whose area is larger with layer norm."""

    def share(r: Results) -> np.ndarray:
        areas = [[area(name(game, key), settings.column)(r) for key in CHAINS] for game in settings.games]
        return np.mean([changed > plain for plain, changed in areas], axis=0)

    return share


def claims(settings: Settings) -> tuple[Claim, ...]:
    """At the paper's size that layer norm improves games; below that agents learn."""
    if settings.whole and set(GAMES) <= set(settings.games):
        return (
            Claim(
                "Layer norm improves double DQN on more than 70 % of 57 games: share with a higher mean score.",
                better(settings),
                SHARE,
                paper="45 of 57",
                checklist=(24,),
            ),
        )
    found = []
    for game in settings.games:
        for key, (said, _) in CHAINS.items():
            arm = name(game, key)
            found.append(
                Claim(
                    f"Double DQN{said} ends with more than {TIMES:g} times the return of random actions in "
                    f"{game.replace('_', ' ')}: the ratio, of the latest 100 episodes.",
                    lambda r, arm=arm: r.last(arm, "return") / r.first(arm, "return"),
                    TIMES,
                    ours=True,
                    beside=(24,),
                )
            )
    return tuple(found)


LIGHT = {
    "side": 42, "channels": (16, 32, 32), "kernels": (5, 3, 3), "strides": (3, 2, 1), "hidden": 128, "adam": True,
    "evaluation": 0,
}  # fmt: skip

EXPERIMENT = Experiment(
    id="lyle2023/fig7",
    title="Double DQN in Atari's games, with layer norm and without",
    figure="P1 figures 7 and 19 to 22",
    references=("lyle2023", "vanhasselt2016double"),
    tiers={
        "smoke": Settings(
            games=("catch",), num_steps=260, minimum=25, decay=100, learn_period=4, target_period=60, capacity=200,
            batch_size=8, side=84, channels=(4,), kernels=(3,), strides=(1,), hidden=16, evaluation=20,
            evaluate_every=130, rows=5, examples=24, products=3,
        ),
        "laptop": Settings(
            games=("crazy_climber", "kung_fu_master", "road_runner"), num_steps=4_000_000, decay=1_000_000,
            target_period=8000, rows=40, examples=256, products=20, **LIGHT,
        ),
        "paper": Settings(),
    },
    setup=setup,
)  # fmt: skip
