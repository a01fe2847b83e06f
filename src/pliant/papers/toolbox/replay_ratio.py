"""Several updates a frame, where the ability to learn is what runs out: resets, ReDo, layer norm and L2."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pliant.claims import Claim
from pliant.diagnostics import DeadUnits, DormantUnits, ParameterNorm
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import L2, Chain, LayerNorm, ReDo, Reset
from pliant.papers.games import area, gain, rise
from pliant.papers.miniatures import Miniature
from pliant.plots import Lines
from pliant.probe import Sines
from pliant.trials import ActionValues, Numbers, QLearning

CURES = {"resets": "resets", "redo": "ReDo", "layer_norm": "layer norm", "l2": "L2"}
REDO = 0.025  # threshold of dormant units
SAID = {"none": "several updates a frame", "once": "one update a frame"}
SAID |= {key: f"several, {said}" for key, said in CURES.items()}


@dataclass(frozen=True)
class Settings(Miniature):
    """Settings of updates a frame.

    Args:
        game: of MinAtar's five; or catch, which needs no package.
        num_updates: a frame.
        reset_period: frames between resets of the linear layers.
        redo: updates between recycling, with a threshold of 0.025.
        l2: its strength.
    """

    num_steps: int = 50_000
    begin: int = 2000
    decay: int = 10_000
    epsilon: float = 0.05
    target_period: int = 500
    capacity: int = 50_000
    game: str = "breakout"
    num_updates: int = 4
    reset_period: int = 10_000
    redo: int = 1000
    l2: float = 1e-5

    def trial(self) -> QLearning:
        """The plain agent, with several updates a frame."""
        return replace(
            self.agent(self.game),
            num_updates=self.num_updates,
            measures=(
                ActionValues(self.looks, self.examples),
                Numbers((DeadUnits(), DormantUnits(REDO), ParameterNorm()), self.looks, self.examples),
                self.probe(Sines()),
            ),
        )


def setup(settings: Settings) -> Setup:
    """One update a frame, several, and several with each intervention."""
    trial = settings.trial()
    resets = Chain(Reset("hidden.*", event="reset"), Reset("last", event="reset"))
    trials = {
        "once": replace(trial, num_updates=1),
        "none": trial,
        "resets": replace(trial, chain=resets, reset_period=settings.reset_period),
        "redo": replace(trial, chain=Chain(ReDo(tau=REDO, every=settings.redo))),
        "layer_norm": replace(trial, chain=Chain(LayerNorm())),
        "l2": replace(trial, chain=Chain(L2(settings.l2))),
    }
    return Setup(
        arms={key: Arm(said, trials[key]) for key, said in SAID.items()},
        plots=(
            Lines("return", f"return in {settings.game.replace('_', ' ')}", over="step", unit=(1, "frame")),
            Lines("dead", "dead units (share)", over="step", limits=(0, 1), unit=(1, "frame")),
            Lines("norm_ratio", "parameter norm / initial norm", over="step", log=True, unit=(1, "frame")),
            Lines("value", "mean largest value", over="step", unit=(1, "frame")),
        ),
        table=(
            Column("return,\nrandom", "return", "first"),
            Column("return", "return"),
            Column("probe loss,\nfirst", "probe_loss", "first"),
            Column("probe loss", "probe_loss"),
            Column("dead", "dead"),
            Column("norm\nratio", "norm_ratio"),
        ),
        claims=CLAIMS,
        deviations=(
            "An experiment of ours, after Nikishin et al. 2022 and Sokar et al. 2023; no claim of the two papers is "
            "tested here.",
            f"MinAtar's {settings.game}, double DQN, {settings.num_updates} updates a frame for {settings.num_steps:,} "
            f"frames, a convolution of {settings.channels} channels and {settings.hidden} units.",
            f"Resets draw both linear layers anew every {settings.reset_period:,} frames, in the target network, too, "
            "and the convolution is kept; the replay is kept.",
            "Return: the mean of the latest 100 training episodes, with random actions among the agent's.",
        ),
    )  # fmt: skip


LEARNS = Claim("The agent with one update a frame beats random actions: mean of its returns.", area("once"), ours=True)
CLAIMS = (
    LEARNS,
    Claim(
        "Several updates a frame raise the probe loss by more than one does.",
        lambda r: rise("none")(r) - rise("once")(r),
        ours=True,
        given=(LEARNS,),
    ),
    *(
        Claim(
            f"With {said} the probe loss rises by less: difference to no intervention.",
            lambda r, key=key: rise("none")(r) - rise(key)(r),
            ours=True,
            given=(LEARNS,),
        )
        for key, said in CURES.items()
    ),
    *(
        Claim(
            f"The area under the learning curve is larger with {said}, as a share of that without an intervention.",
            gain([(key, "none")]),
            ours=True,
            given=(LEARNS,),
        )
        for key, said in CURES.items()
    ),
)

EXPERIMENT = Experiment(
    id="toolbox/replay_ratio",
    title="Several updates a frame: resets, ReDo, layer norm and L2 in MinAtar",
    figure="ours; where plasticity is the bottleneck",
    references=("lyle2024", "nikishin2022", "sokar2023", "young2019"),
    tiers={
        "smoke": Settings(
            game="catch", num_updates=2, num_steps=170, begin=100, decay=60, target_period=50, reset_period=30, redo=20,
            channels=4, hidden=16, batch_size=8, capacity=200, targets=2, steps=10, examples=40, rows=5,
        ),
        "laptop": Settings(),
        "paper": Settings(num_updates=8, num_steps=500_000, decay=100_000, capacity=100_000, targets=10, steps=2000),
    },
    setup=setup,
)  # fmt: skip
